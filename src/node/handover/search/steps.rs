//! What can happen next, faults among it, and what comes of it.

use super::super::machine::{Action, Event, Role};
use super::{Agent, End, Life, Limit, Packet, Pipe, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Start(usize),
    Seat(usize),
    /// After a pause.
    Connect(usize),
    /// After a pause and joins that have failed, it does not connect yet.
    PutOff(usize),
    /// It sees whether it is still found.
    Look(usize),
    /// Of the pipe with this number.
    Accept(usize),
    /// Of that end of that pipe.
    Deliver(usize, usize),
    /// Where nothing is on its way, or the other one hangs.
    Late(usize, usize),
    /// Nobody who has the seat that it searches for will answer it.
    Unanswered(usize),
    Ready(usize),
    Land(usize),
    Continue(usize),
    /// An agent on its way out has ended.
    Exit(usize),
    /// What is on its way takes longer than its limit.
    Slow(usize, usize),
    /// So does an answer.
    SlowAnswer(usize),
    Crash(usize),
    Hang(usize),
    Terminate(usize),
    Break(usize),
    /// Somebody removes what is in the directory.
    Remove,
}

impl Step {
    pub(super) fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Slow(..)
                | Self::SlowAnswer(_)
                | Self::Crash(_)
                | Self::Hang(_)
                | Self::Terminate(_)
                | Self::Break(_)
                | Self::Remove
        )
    }
}

impl World {
    pub(super) fn steps(&self) -> Vec<Step> {
        // One starts after the other: they are all alike.
        let unborn = self.agents.iter().position(|agent| agent.life == Life::Unborn);
        let mut steps = Vec::from_iter(unborn.map(Step::Start));
        steps.extend((self.faults > 0 && self.lock.is_some()).then_some(Step::Remove));
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
        let searches = free && agent.machine.searches();
        let unanswered = self.is_kept() || agent.search != self.lock;
        let can = [
            (agent.takes_seat, Step::Seat(at)),
            (free && agent.pauses && self.may_connect(at), Step::Connect(at)),
            (free && agent.pauses && self.socket.is_some(), Step::PutOff(at)),
            (free && !agent.ready && !ended && !agent.machine.has_served(), Step::Ready(at)),
            (free && self.landings > 0 && agent.accepts(), Step::Land(at)),
            (free && agent.listens && !self.is_found(at), Step::Look(at)),
            (searches && unanswered, Step::Unanswered(at)),
            (searches && !unanswered && self.faults > 0, Step::SlowAnswer(at)),
            (free && ended, Step::Exit(at)),
            (self.faults > 0, Step::Crash(at)),
            (self.faults > 0 && self.hangs && !ended, Step::Hang(at)),
            (self.faults > 0 && free && !ended, Step::Terminate(at)),
        ];
        steps.extend(can.into_iter().filter_map(|(can, step)| can.then_some(step)));
    }

    /// Links that their other end has not noticed to be broken could pile up without end.
    fn may_connect(&self, at: usize) -> bool {
        self.socket.is_none() || self.pipes.iter().filter(|pipe| pipe[0].at == at).count() <= self.stale
    }

    /// Whether the seat is with agents that hang, or on its way to them.
    fn is_kept(&self) -> bool {
        let held = self.agents.iter().enumerate().any(|(at, agent)| self.is_alive(at) && agent.seat == self.lock);
        let sent = |end: &End| self.is_alive(end.at) && end.inbox.iter().any(|packet| self.is_seat(packet));
        self.lock.is_some() && !held && !self.pipes.iter().flatten().any(sent)
    }

    fn steps_of_link(&self, number: usize, pipe: &Pipe, steps: &mut Vec<Step>) {
        let acts = |at: usize| self.is_alive(at) && !self.agents[at].takes_seat;
        let slow = |step| (self.faults > 0).then_some(step);
        for (side, end) in pipe.iter().enumerate().filter(|(_, end)| end.open && acts(end.at)) {
            match end.link {
                None => steps.push(Step::Accept(number)),
                Some(_) => {
                    steps.extend((!end.inbox.is_empty()).then_some(Step::Deliver(number, side)));
                    let silent = end.limit == Some(Limit::Word) && pipe.iter().all(|end| end.inbox.is_empty());
                    let lost = self.agents[pipe[1 - side].at].life == Life::Hung || silent;
                    let late = if lost { Some(Step::Late(number, side)) } else { slow(Step::Slow(number, side)) };
                    steps.extend(late.filter(|_| end.limit.is_some()));
                }
            }
        }
        if self.faults > 0 && pipe.iter().all(|end| end.open && end.link.is_some()) {
            steps.push(Step::Break(number));
        }
    }

    pub(super) fn after(&self, step: Step) -> Self {
        let mut world = self.clone();
        world.faults -= u8::from(step.is_fault());
        world.take(step);
        world.pipes.retain(|pipe| pipe.iter().any(|end| end.open));
        world.pipes.sort_by_key(|pipe| pipe.each_ref().map(|end| (end.at, end.link)));
        world.socket = world.socket.filter(|owner| world.agents[*owner].listens);
        world.lock = world.lock.filter(|lock| world.holds(*lock));
        let removed = std::mem::take(&mut world.removed);
        world.removed = removed.into_iter().filter(|seat| world.holds(*seat)).collect();
        world
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start(at) => {
                self.agents[at].life = Life::Alive;
                self.act(at, vec![Action::TakeSeat]);
            }
            Step::Seat(at) => self.seat(at),
            Step::Look(at) => self.look(at),
            Step::Remove => self.remove(),
            Step::Connect(at) => self.connect(at, self.socket),
            Step::PutOff(at) => self.connect(at, None),
            Step::Accept(number) => {
                let at = self.pipes[number][1].at;
                let link = self.unused(at);
                self.pipes[number][1].link = Some(link);
                self.tell(at, Event::Accepted(link));
            }
            Step::Deliver(number, side) => self.deliver(number, side),
            Step::Unanswered(at) | Step::SlowAnswer(at) => self.tell(at, Event::Unanswered),
            Step::Late(number, side) | Step::Slow(number, side) => {
                let end = &mut self.pipes[number][side];
                end.limit = None;
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
}
