//! Every order of events that two and three agents can meet, run through [`Machine`] itself.
//!
//! What is modelled: agents that start and become ready at any time, links that carry words and entries in order, the seat as a lock
//! of open file descriptions with copies on their way in a link, the published socket and its backlog, joins that are put off,
//! landings of entries at whoever accepts. Faults: a crash (what was sent still arrives, and its copies of the seat go), a hang (the
//! agent does nothing until it goes on, if ever), SIGTERM, a link that breaks and loses what is on its way, a limit that passes though
//! what is awaited comes, and the removal of what is in the directory.
//!
//! What is shown of every state that can be:
//!
//! - no two have one seat to themselves, nobody serves without one, and nobody who stands by holds one;
//! - what one end of a link knew when it told all, or has learnt since, the other end knows or is being told;
//! - without another fault, the agents come to where one accepts, has the seat and is found, and all others stand by for it;
//! - even if those that hang never go on, one serves who does not hang, unless none of those has ever had what it takes, and the
//!   seat is kept by one that hangs, or is on its way to one from an agent that has died.
//!
//! The last two say what can come, not when: no order of events leads to where it can't come any more. Two may accept for a moment:
//! while one hands over to the other and does not know yet whether that has it, and until one looks whose seat was removed or
//! replaced.
//!
//! The bounds: two agents with two faults, three with one; one entry that lands, and none where one of three hangs; of each agent as
//! many links that the other end has not noticed to be broken as `stale` says; an entry that is known already is not passed on, so that
//! what is on its way stays finite; agents of one format. A directory is always there, empty or not: that an agent serves without one
//! where nobody answers is a rule of the driver, as is when joins are put off. Sizes are asserted, so that a search that has become
//! smaller by mistake is noticed.

mod acts;
mod properties;
mod steps;

use std::collections::{HashMap, VecDeque};

use self::steps::Step;
use super::machine::{Link, Machine, Role, Word};

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
    /// The one that there was when it began to search.
    search: Option<u8>,
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

/// What an agent waits for, but not for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Limit {
    /// Something that the other one has to say.
    Word,
    /// Anything: the other one tells again and again that it lives.
    Life,
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
    limit: Option<Limit>,
    mirrors: bool,
}

impl End {
    fn new(at: usize, link: Option<Link>) -> Self {
        Self { at, link, open: true, inbox: VecDeque::new(), limit: None, mirrors: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    agents: Vec<Agent>,
    pipes: Vec<Pipe>,
    /// The open file description that locks the seat.
    lock: Option<u8>,
    /// Those that lock seats that were removed: who holds one may not have noticed yet.
    removed: Vec<u8>,
    socket: Option<usize>,
    landings: u8,
    faults: u8,
    /// Whether a fault may be that one hangs.
    hangs: bool,
    /// Links of one agent that the other end has not noticed to be broken.
    stale: usize,
}

impl World {
    /// None has started yet, and nothing lands or fails.
    fn new(agents: usize) -> Self {
        let agent = Agent {
            life: Life::Unborn,
            machine: Machine::default(),
            seat: None,
            offered: None,
            search: None,
            takes_seat: false,
            pauses: false,
            listens: false,
            ready: false,
            entries: 0,
        };
        let agents = vec![agent; agents];
        Self {
            agents,
            pipes: Vec::new(),
            lock: None,
            removed: Vec::new(),
            socket: None,
            landings: 0,
            faults: 0,
            hangs: true,
            stale: 1,
        }
    }

    /// Live agents that are not on their way out.
    fn willing(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().filter(|agent| agent.life == Life::Alive && agent.machine.role() != Role::Ended)
    }

    fn is_alive(&self, at: usize) -> bool {
        self.agents[at].life == Life::Alive
    }

    /// Whether it is a copy of the seat that others try.
    fn is_seat(&self, packet: &Packet) -> bool {
        matches!(packet, Packet::Seat(seat) if Some(*seat) == self.lock)
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
    assert_eq!(states, 148295);
}

#[test]
fn three_agents_with_one_fault_that_is_no_hang() {
    let states = search(World { landings: 1, faults: 1, hangs: false, stale: 0, ..World::new(3) });
    assert_eq!(states, 799537);
}

#[test]
fn three_agents_with_one_fault_and_nothing_that_lands() {
    let states = search(World { faults: 1, stale: 0, ..World::new(3) });
    assert_eq!(states, 498770);
}
