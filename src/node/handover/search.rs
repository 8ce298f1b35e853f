//! Every order of events that two and three agents can meet, run through [`Machine`] itself.
//!
//! What is modelled: agents that start and become ready at any time, links that carry words and entries in order, the seat as a lock
//! of open file descriptions with copies on their way in a link, the published socket and its backlog, landings of entries at whoever
//! accepts. Faults: a crash (what was sent still arrives, and its copies of the seat go), a hang (the agent does nothing until it goes
//! on, if ever), SIGTERM, a link that breaks and loses what is on its way, a limit that passes though what is awaited is on its way.
//!
//! What is shown of every state that can be:
//!
//! - no two have the seat to themselves, nobody serves without it, and nobody who stands by holds it;
//! - what one end of a link knew when it told all, or has learnt since, the other end knows or is being told;
//! - without another fault, the agents come to where one accepts, has the seat and is found, and all others stand by for it;
//! - even if those that hang never go on, somebody serves who does not hang, unless the seat is kept by one that does, or is on its way
//!   to one from an agent that has died.
//!
//! The last two say what can come, not when: no order of events leads to where it can't come any more. Two may accept for a moment
//! while one hands over to the other and does not know yet whether that has it.
//!
//! The bounds: two agents with two faults, three with none from the start, and a third that comes to two with one fault; one entry
//! that lands; of each agent as many links that the other end has not noticed to be broken as `stale` says; an entry that is known
//! already is not passed on, so that what is on its way stays finite; one directory; agents of one format. Sizes are asserted, so that a
//! search that has become smaller by mistake is noticed.

use std::collections::{HashMap, VecDeque};

use super::machine::{Action, Event, Link, Machine, Role, Word};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    Unborn,
    Alive,
    Hung,
    Dead,
}

/// What is on its way in a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Packet {
    Word(Word),
    /// [`Word::Go`] and its copy of the seat.
    Seat(u8),
    Entries(u8),
    /// All entries and [`Word::End`].
    State(u8),
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Agent {
    life: Life,
    machine: Machine,
    /// The open file description by which it holds the seat.
    seat: Option<u8>,
    /// The one that came with the last `Go`.
    offered: Option<u8>,
    takes_seat: bool,
    pauses: bool,
    listens: bool,
    ready: bool,
    entries: u8,
}

impl Agent {
    fn accepts(&self) -> bool {
        self.machine.accepts() && self.machine.role() != Role::Ended
    }
}

/// A link: the end of who connected, and the other one.
type Pipe = [End; 2];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct End {
    at: usize,
    /// What the agent calls it; `None` before it is accepted.
    link: Option<Link>,
    open: bool,
    inbox: VecDeque<Packet>,
    limited: bool,
    mirrors: bool,
}

impl End {
    fn new(at: usize, link: Option<Link>) -> Self {
        Self { at, link, open: true, inbox: VecDeque::new(), limited: false, mirrors: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    agents: Vec<Agent>,
    pipes: Vec<Pipe>,
    /// The open file description that locks the seat.
    lock: Option<u8>,
    socket: Option<usize>,
    landings: u8,
    faults: u8,
    /// Links of one agent that the other end has not noticed to be broken.
    stale: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Start(usize),
    Seat(usize),
    /// After a pause.
    Connect(usize),
    /// Of the pipe with this number.
    Accept(usize),
    /// Of that end of that pipe.
    Deliver(usize, usize),
    /// Where nothing is on its way, or the other one hangs.
    Late(usize, usize),
    Ready(usize),
    Land(usize),
    Continue(usize),
    /// An agent on its way out has ended.
    Exit(usize),
    /// What is on its way takes longer than its limit.
    Slow(usize, usize),
    Crash(usize),
    Hang(usize),
    Terminate(usize),
    Break(usize),
}

impl Step {
    fn is_fault(self) -> bool {
        matches!(self, Self::Slow(..) | Self::Crash(_) | Self::Hang(_) | Self::Terminate(_) | Self::Break(_))
    }
}

impl World {
    /// None has started yet, and nothing lands or fails.
    fn new(agents: usize) -> Self {
        let agent = Agent {
            life: Life::Unborn,
            machine: Machine::default(),
            seat: None,
            offered: None,
            takes_seat: false,
            pauses: false,
            listens: false,
            ready: false,
            entries: 0,
        };
        Self { agents: vec![agent; agents], pipes: Vec::new(), lock: None, socket: None, landings: 0, faults: 0, stale: 1 }
    }

    /// Live agents that are not on their way out.
    fn willing(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().filter(|agent| agent.life == Life::Alive && agent.machine.role() != Role::Ended)
    }

    fn is_alive(&self, at: usize) -> bool {
        self.agents[at].life == Life::Alive
    }

    fn steps(&self) -> Vec<Step> {
        // One starts after the other: they are all alike.
        let unborn = self.agents.iter().position(|agent| agent.life == Life::Unborn);
        let mut steps = Vec::from_iter(unborn.map(Step::Start));
        for (at, agent) in self.agents.iter().enumerate() {
            match agent.life {
                Life::Unborn | Life::Dead => {}
                Life::Hung => steps.push(Step::Continue(at)),
                Life::Alive => self.steps_of(at, agent, &mut steps),
            }
        }
        for (number, pipe) in self.pipes.iter().enumerate() {
            self.steps_of_link(number, pipe, &mut steps);
        }
        steps
    }

    fn steps_of(&self, at: usize, agent: &Agent, steps: &mut Vec<Step>) {
        let free = !agent.takes_seat;
        let ended = agent.machine.role() == Role::Ended;
        let can = [
            (agent.takes_seat, Step::Seat(at)),
            (free && agent.pauses && self.may_connect(at), Step::Connect(at)),
            (free && !agent.ready && !ended && !agent.machine.has_served(), Step::Ready(at)),
            (free && self.landings > 0 && agent.accepts(), Step::Land(at)),
            (free && ended, Step::Exit(at)),
            (self.faults > 0, Step::Crash(at)),
            (self.faults > 0 && !ended, Step::Hang(at)),
            (self.faults > 0 && free && !ended, Step::Terminate(at)),
        ];
        steps.extend(can.into_iter().filter_map(|(can, step)| can.then_some(step)));
    }

    /// Links that their other end has not noticed to be broken could pile up without end.
    fn may_connect(&self, at: usize) -> bool {
        self.pipes.iter().filter(|pipe| pipe[0].at == at).count() <= self.stale
    }

    fn steps_of_link(&self, number: usize, pipe: &Pipe, steps: &mut Vec<Step>) {
        let acts = |at: usize| self.is_alive(at) && !self.agents[at].takes_seat;
        let slow = |step| (self.faults > 0).then_some(step);
        for (side, end) in pipe.iter().enumerate().filter(|(_, end)| end.open && acts(end.at)) {
            match end.link {
                None => steps.push(Step::Accept(number)),
                Some(_) => {
                    steps.extend((!end.inbox.is_empty()).then_some(Step::Deliver(number, side)));
                    let lost = self.agents[pipe[1 - side].at].life == Life::Hung || pipe.iter().all(|end| end.inbox.is_empty());
                    let late = if lost { Some(Step::Late(number, side)) } else { slow(Step::Slow(number, side)) };
                    steps.extend(late.filter(|_| end.limited));
                }
            }
        }
        if self.faults > 0 && pipe.iter().all(|end| end.open && end.link.is_some()) {
            steps.push(Step::Break(number));
        }
    }

    fn after(&self, step: Step) -> Self {
        let mut world = self.clone();
        world.faults -= u8::from(step.is_fault());
        world.take(step);
        world.pipes.retain(|pipe| pipe.iter().any(|end| end.open));
        world.pipes.sort_by_key(|pipe| pipe.each_ref().map(|end| (end.at, end.link)));
        world.socket = world.socket.filter(|owner| world.agents[*owner].listens);
        world.lock = world.lock.filter(|lock| world.holds(*lock));
        world
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start(at) => {
                self.agents[at].life = Life::Alive;
                self.act(at, vec![Action::TakeSeat]);
            }
            Step::Seat(at) => self.seat(at),
            Step::Connect(at) => self.connect(at),
            Step::Accept(number) => {
                let at = self.pipes[number][1].at;
                let link = self.unused(at);
                self.pipes[number][1].link = Some(link);
                self.tell(at, Event::Accepted(link));
            }
            Step::Deliver(number, side) => self.deliver(number, side),
            Step::Late(number, side) | Step::Slow(number, side) => {
                let end = &mut self.pipes[number][side];
                end.limited = false;
                let (at, link) = (end.at, end.link.unwrap());
                self.tell(at, Event::Late(link));
            }
            Step::Ready(at) => {
                self.agents[at].ready = true;
                self.tell(at, Event::Ready);
            }
            Step::Land(at) => self.land(at),
            Step::Continue(at) => self.agents[at].life = Life::Alive,
            Step::Crash(at) | Step::Exit(at) => self.crash(at),
            Step::Hang(at) => self.agents[at].life = Life::Hung,
            Step::Terminate(at) => self.tell(at, Event::Terminate),
            Step::Break(number) => {
                self.pipes[number].iter_mut().for_each(|end| end.inbox = [Packet::Broken].into());
            }
        }
    }

    fn tell(&mut self, at: usize, event: Event) {
        let actions = self.agents[at].machine.step(event);
        self.act(at, actions);
    }

    fn act(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            let agent = &mut self.agents[at];
            match action {
                Action::TakeSeat => {
                    agent.seat = None;
                    agent.takes_seat = true;
                }
                Action::FreeSeat => {
                    let freed = agent.seat.take();
                    self.lock = self.lock.filter(|lock| Some(*lock) != freed);
                }
                Action::KeepSeat => agent.seat = agent.offered.take(),
                Action::LeaveSeat => agent.seat = None,
                Action::Pause => agent.pauses = true,
                Action::Publish => {
                    agent.listens = true;
                    self.socket = Some(at);
                }
                Action::Unpublish => self.unpublish(at),
                Action::Say(link, Word::Go) => {
                    let seat = agent.seat.expect("who gives has the seat");
                    self.send(at, link, Packet::Seat(seat));
                }
                Action::Say(link, word) => self.send(at, link, Packet::Word(word)),
                Action::Tell(link) => {
                    let entries = agent.entries;
                    self.end(at, link).mirrors = true;
                    self.send(at, link, Packet::State(entries));
                }
                Action::Await(link, _) => self.end(at, link).limited = true,
                Action::Relax(link) => self.end(at, link).limited = false,
                Action::Close(link) => self.close(at, link),
                Action::End => agent.pauses = false,
                Action::Connect | Action::Serve | Action::Rest | Action::Count(_) => {}
            }
        }
    }

    fn seat(&mut self, at: usize) {
        self.agents[at].takes_seat = false;
        if self.lock.is_some() {
            return self.tell(at, Event::Unseated);
        }
        self.lock = (0..).find(|description| !self.holds(*description));
        self.agents[at].seat = self.lock;
        self.tell(at, Event::Seated);
    }

    /// Whether any process, or a link, holds a copy of this open file description.
    fn holds(&self, description: u8) -> bool {
        let sent = self.pipes.iter().flatten().flat_map(|end| &end.inbox).any(|packet| *packet == Packet::Seat(description));
        sent || self.agents.iter().any(|agent| [agent.seat, agent.offered].contains(&Some(description)))
    }

    fn connect(&mut self, at: usize) {
        self.agents[at].pauses = false;
        assert_eq!(self.agents[at].machine.step(Event::Paused), [Action::Connect]);
        let Some(owner) = self.socket else { return self.tell(at, Event::Refused) };
        let link = self.unused(at);
        self.pipes.push([End::new(at, Some(link)), End::new(owner, None)]);
        self.tell(at, Event::Connected(link));
    }

    fn unused(&self, at: usize) -> Link {
        let used = |link: Link| self.pipes.iter().flatten().any(|end| end.open && (end.at, end.link) == (at, Some(link)));
        (0..).find(|link| !used(*link)).unwrap()
    }

    fn find(&self, at: usize, link: Link) -> (usize, usize) {
        let ends = self.pipes.iter().enumerate().flat_map(|(number, pipe)| [(number, 0, &pipe[0]), (number, 1, &pipe[1])]);
        let mut own = ends.filter(|(_, _, end)| end.open && (end.at, end.link) == (at, Some(link)));
        own.next().map(|(number, side, _)| (number, side)).expect("a link that is open")
    }

    fn end(&mut self, at: usize, link: Link) -> &mut End {
        let (number, side) = self.find(at, link);
        &mut self.pipes[number][side]
    }

    fn send(&mut self, at: usize, link: Link, packet: Packet) {
        let (number, side) = self.find(at, link);
        let far = &mut self.pipes[number][1 - side];
        // Who reads that its link has broken reads nothing after it.
        if far.open && !far.inbox.contains(&Packet::Broken) {
            far.inbox.push_back(packet);
        }
    }

    fn close(&mut self, at: usize, link: Link) {
        let (number, side) = self.find(at, link);
        self.close_end(number, side);
    }

    fn close_end(&mut self, number: usize, side: usize) {
        let end = &mut self.pipes[number][side];
        *end = End { open: false, ..End::new(end.at, None) };
        let far = &mut self.pipes[number][1 - side];
        if far.open && !far.inbox.contains(&Packet::Broken) {
            far.inbox.push_back(Packet::Broken);
        }
    }

    /// Who waits to be accepted is let go.
    fn unpublish(&mut self, at: usize) {
        self.agents[at].listens = false;
        let waits = |pipe: &Pipe| pipe[1].open && pipe[1].link.is_none() && pipe[1].at == at;
        let waiting: Vec<_> = (0..self.pipes.len()).filter(|number| waits(&self.pipes[*number])).collect();
        waiting.into_iter().for_each(|number| self.close_end(number, 1));
    }

    fn deliver(&mut self, number: usize, side: usize) {
        let end = &mut self.pipes[number][side];
        let (at, link, packet) = (end.at, end.link.unwrap(), end.inbox.pop_front().unwrap());
        match packet {
            Packet::Word(word) => self.tell(at, Event::Heard(link, word)),
            Packet::Seat(seat) => {
                self.agents[at].offered = Some(seat);
                self.tell(at, Event::Heard(link, Word::Go));
                self.agents[at].offered = None;
            }
            Packet::Entries(entries) => self.learn(at, link, entries),
            Packet::State(entries) => {
                self.learn(at, link, entries);
                self.tell(at, Event::Heard(link, Word::End));
            }
            Packet::Broken => self.tell(at, Event::Broken(link)),
        }
    }

    fn land(&mut self, at: usize) {
        let entry = 1 << (self.landings - 1);
        self.landings -= 1;
        self.agents[at].entries |= entry;
        self.mirror(at, entry, None);
    }

    fn learn(&mut self, at: usize, from: Link, entries: u8) {
        let news = entries & !self.agents[at].entries;
        self.agents[at].entries |= news;
        if news != 0 {
            self.mirror(at, news, Some(from));
        }
    }

    fn mirror(&mut self, at: usize, entries: u8, but: Option<Link>) {
        let mirrored = |end: &&End| end.open && end.at == at && end.mirrors && end.link != but;
        let links: Vec<_> = self.pipes.iter().flatten().filter(mirrored).map(|end| end.link.unwrap()).collect();
        links.into_iter().for_each(|link| self.send(at, link, Packet::Entries(entries)));
    }

    fn crash(&mut self, at: usize) {
        self.unpublish(at);
        for number in 0..self.pipes.len() {
            for side in 0..2 {
                let end = &self.pipes[number][side];
                if end.open && end.at == at {
                    self.close_end(number, side);
                }
            }
        }
        let agent = Self::new(1).agents.remove(0);
        self.agents[at] = Agent { life: Life::Dead, ..agent };
    }

    /// What must never be.
    fn fault(&self) -> Option<&'static str> {
        let confirmed = self.agents.iter().filter(|agent| matches!(agent.machine.role(), Role::Serving | Role::Giving(_)));
        if confirmed.clone().count() > 1 {
            return Some("two have the seat to themselves");
        }
        if confirmed.clone().any(|agent| self.lock.is_none() || agent.seat != self.lock) {
            return Some("one serves without the seat");
        }
        let stands_by = |agent: &&Agent| matches!(agent.machine.role(), Role::Standby(_) | Role::Ended);
        if self.agents.iter().filter(stands_by).any(|agent| agent.seat.is_some()) {
            return Some("one that stands by keeps the seat from others");
        }
        let forgets = |near: &End, far: &End| {
            let known = |at: usize| self.agents[at].entries;
            let some = |packet: &Packet| if let Packet::Entries(some) | Packet::State(some) = packet { *some } else { 0 };
            let sent = far.inbox.iter().map(some).fold(0, |all, some| all | some);
            let whole = near.open && far.open && !far.inbox.contains(&Packet::Broken);
            let whole = whole && (near.mirrors || self.has_joined(near) || self.has_joined(far));
            whole && known(near.at) & !(known(far.at) | sent) != 0
        };
        let lost = self.pipes.iter().any(|[a, b]| forgets(a, b) || forgets(b, a));
        lost.then_some("an entry is lost that both could know")
    }

    /// Whether the agent at this end has been told all over it.
    fn has_joined(&self, end: &End) -> bool {
        let role = self.agents[end.at].machine.role();
        matches!(role, Role::Standby(link) | Role::Offering(link) | Role::Taking(link) if Some(link) == end.link)
    }

    /// All is well and will stay so: one accepts, holds the seat, can be found, and every other one stands by for it.
    fn is_settled(&self) -> bool {
        let serves = |agent: &&Agent| agent.accepts();
        let mut serving = self.agents.iter().enumerate().filter(|(at, agent)| self.is_alive(*at) && serves(agent));
        let (Some((at, one)), None) = (serving.next(), serving.next()) else { return self.willing().next().is_none() };
        let found = one.machine.role() == Role::Serving && one.listens && self.socket == Some(at);
        let idle = self.pipes.iter().flatten().all(|end| end.inbox.is_empty() && !end.limited && end.link.is_some() == end.open);
        let linked = |other: &&Agent| matches!(other.machine.role(), Role::Standby(_)) || other.machine.role() == Role::Serving;
        let attached = one.machine.peers().len() + 1 == self.willing().count();
        found && idle && self.willing().filter(linked).count() == self.willing().count() && attached
    }

    /// Somebody serves, as far as one can that does not hang, or has the seat kept from it by one that does.
    fn is_served(&self) -> bool {
        let holds = |agent: &Agent| agent.seat.is_some() && agent.seat == self.lock;
        let kept = |agent: &Agent| agent.life == Life::Hung && holds(agent) && !self.willing().any(holds);
        let sent = |packet: &Packet| matches!(packet, Packet::Seat(seat) if Some(*seat) == self.lock);
        // Who sent it can free it, as long as it lives.
        let orphaned = |near: &End, far: &End| !self.is_alive(far.at) && near.inbox.iter().any(sent);
        let in_a_link = self.pipes.iter().any(|[a, b]| orphaned(a, b) || orphaned(b, a));
        let mut willing = self.willing().peekable();
        willing.peek().is_none() || willing.any(Agent::accepts) || in_a_link || self.agents.iter().any(kept)
    }
}

/// All states that can be, and the steps between them.
struct Graph {
    worlds: Vec<World>,
    /// For each state those that lead to it by a step that is no fault, and whether that step is a hung agent's going on.
    before: Vec<Vec<(usize, bool)>>,
}

impl Graph {
    fn of(first: World) -> Self {
        let mut graph = Self { worlds: vec![first.clone()], before: vec![Vec::new()] };
        let mut known = HashMap::with_hasher(foldhash::fast::FixedState::default());
        known.insert(first, 0);
        let mut at = 0;
        while at < graph.worlds.len() {
            for step in graph.worlds[at].steps() {
                let next = graph.worlds[at].after(step);
                let number = *known.entry(next).or_insert_with_key(|world| {
                    let fault = world.fault();
                    assert!(fault.is_none(), "{fault:?} after {step:?} of {:?}", graph.worlds[at]);
                    graph.before.push(Vec::new());
                    graph.worlds.push(world.clone());
                    graph.worlds.len() - 1
                });
                if !step.is_fault() {
                    let goes_on = matches!(step, Step::Continue(_));
                    graph.before[number].push((at, goes_on));
                }
            }
            at += 1;
        }
        graph
    }

    /// A state from which no order of events without another fault leads to a good one.
    fn lost(&self, good: impl Fn(&World) -> bool, may_go_on: bool) -> Option<&World> {
        let mut leads: Vec<bool> = self.worlds.iter().map(&good).collect();
        let mut reached: Vec<usize> = (0..leads.len()).filter(|at| leads[*at]).collect();
        while let Some(at) = reached.pop() {
            for &(before, goes_on) in &self.before[at] {
                if (may_go_on || !goes_on) && !std::mem::replace(&mut leads[before], true) {
                    reached.push(before);
                }
            }
        }
        leads.iter().position(|leads| !leads).map(|at| &self.worlds[at])
    }
}

/// How many states follow from `first`, in none of which anything is lost.
fn search(first: World) -> usize {
    let graph = Graph::of(first);
    let never_settled = graph.lost(World::is_settled, true);
    assert!(never_settled.is_none(), "it never settles: {never_settled:?}");
    let never_served = graph.lost(World::is_served, false);
    assert!(never_served.is_none(), "nobody serves though one could: {never_served:?}");
    graph.worlds.len()
}

#[test]
fn two_agents_with_two_faults() {
    let states = search(World { landings: 1, faults: 2, ..World::new(2) });
    assert_eq!(states, 32273);
}

#[test]
fn three_agents_without_a_fault() {
    let states = search(World { landings: 1, stale: 0, ..World::new(3) });
    assert_eq!(states, 13534);
    eprintln!("{states} states");
    eprintln!("{states} states");
}

/// The second has followed the first, which stands by; the third comes, and one fault with it.
#[test]
fn a_third_agent_with_a_fault() {
    let followed = |world: &World| matches!(world.agents[0].machine.role(), Role::Standby(_)) && world.is_settled();
    let pair = Graph::of(World::new(2)).worlds.into_iter().find(followed).unwrap();
    let agents = [pair.agents, World::new(1).agents].concat();
    let states = search(World { agents, landings: 1, faults: 1, stale: 0, ..pair });
    assert_eq!(states, 87854);
    eprintln!("{states} states");
    eprintln!("{states} states");
}
