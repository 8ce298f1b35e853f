//! What agents do of what their machines say, and what the kernel makes of it: the seat, the socket, the links.

use super::super::machine::{Action, Event, Link, Word};
use super::{Agent, End, Life, Limit, Packet, Pipe, World};

impl World {
    pub(super) fn tell(&mut self, at: usize, event: Event) {
        let actions = self.agents[at].machine.step(event);
        self.act(at, actions);
        let agent = &mut self.agents[at];
        let searches = agent.machine.searches() && !agent.takes_seat;
        agent.search = if searches { agent.search.or(self.lock) } else { None };
    }

    pub(super) fn act(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            let agent = &mut self.agents[at];
            match action {
                Action::TakeSeat => {
                    agent.seat = None;
                    agent.takes_seat = true;
                }
                Action::ReplaceSeat => {
                    // Its end means nothing to one that serves.
                    agent.pauses = false;
                    let old = agent.seat.take().or(agent.search.take());
                    self.replace(at, old);
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
                    self.look(at);
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
                Action::Await(link, _) => self.end(at, link).limit = Some(Limit::Word),
                Action::Watch(link) => self.end(at, link).limit = Some(Limit::Life),
                Action::Relax(link) => self.end(at, link).limit = None,
                Action::Close(link) => self.close(at, link),
                Action::End => agent.pauses = false,
                Action::Connect | Action::Serve | Action::Rest | Action::Count(_) => {}
            }
        }
    }

    pub(super) fn seat(&mut self, at: usize) {
        self.agents[at].takes_seat = false;
        if self.lock.is_some() {
            return self.tell(at, Event::Unseated);
        }
        self.lock = (0..).find(|description| !self.holds(*description));
        self.agents[at].seat = self.lock;
        self.tell(at, Event::Seated);
    }

    fn replace(&mut self, at: usize, old: Option<u8>) {
        if old.is_none() || old != self.lock {
            return self.tell(at, Event::Unseated);
        }
        self.removed.extend(self.lock.take());
        self.seat(at);
    }

    /// Whether others find it, and the seat that it has.
    pub(super) fn is_found(&self, at: usize) -> bool {
        self.agents[at].seat == self.lock && self.socket == Some(at)
    }

    /// Sees to it that it is found, unless another one has the seat that is there now.
    pub(super) fn look(&mut self, at: usize) {
        if self.lock.is_none() {
            self.lock = (0..).find(|description| !self.holds(*description));
            self.agents[at].seat = self.lock;
        }
        if self.agents[at].seat == self.lock {
            self.socket = Some(at);
        } else {
            self.agents[at].seat = None;
            self.tell(at, Event::Unseated);
        }
    }

    /// Somebody removes the seat and the socket.
    pub(super) fn remove(&mut self) {
        self.removed.extend(self.lock.take());
        self.socket = None;
    }

    /// Whether any process, or a link, holds a copy of this open file description.
    pub(super) fn holds(&self, description: u8) -> bool {
        let sent = self.pipes.iter().flatten().flat_map(|end| &end.inbox).any(|packet| *packet == Packet::Seat(description));
        sent || self.agents.iter().any(|agent| [agent.seat, agent.offered].contains(&Some(description)))
    }

    /// To the one who is found, unless that is put off.
    pub(super) fn connect(&mut self, at: usize, to: Option<usize>) {
        self.agents[at].pauses = false;
        assert_eq!(self.agents[at].machine.step(Event::Paused), [Action::Connect]);
        let Some(owner) = to else { return self.tell(at, Event::Refused) };
        let link = self.unused(at);
        self.pipes.push([End::new(at, Some(link)), End::new(owner, None)]);
        self.tell(at, Event::Connected(link));
    }

    pub(super) fn unused(&self, at: usize) -> Link {
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

    pub(super) fn deliver(&mut self, number: usize, side: usize) {
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

    pub(super) fn land(&mut self, at: usize) {
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

    pub(super) fn crash(&mut self, at: usize) {
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
}
