//! Who serves, and how that goes from one agent to the next: every rule of it, as a pure function of what happens.
//!
//! Two things decide. The **seat** is a lock that one agent holds, or two while one hands it to the other; who has none beside
//! it may serve. The **link** is the connection from an agent that stands by to the one that serves: over it both learn all that
//! the other knows, and its end tells that the other has gone, as its silence tells that the other hangs. So an agent without a link
//! tries the seat first and then the one who serves, again and again, and who finds itself alone with the seat serves. Nobody waits
//! for anybody without a limit who could serve itself: where the seat is held by one that does not answer, it makes another seat, and
//! the one that hung finds that when it goes on, and stands by.
//!
//! ```text
//! successor            predecessor
//!   Hello     ───►                   sockets, if it has any
//!             ◄───     Welcome       sockets, if it has none
//!   state, End ◄──►    state, End    and from here on each landing, both ways
//!   Ready     ───►                   it would serve
//!             ◄───     Go            the seat and the loads in flight; the predecessor accepts no more
//!   Serving   ───►                   it accepts
//!             ◄───     Done          the predecessor has let go of the seat, and stands by
//! ```
//!
//! Whatever breaks before `Done`, the predecessor goes on: it has never let go of the seat. There is no input and no output here,
//! and no clock: `search` drives this very code through every order of events.

mod signs;
#[cfg(test)]
mod tests;

use std::time::Duration;

use strum::IntoStaticStr;

pub use crate::node::handover::machine::signs::{Action, Event, Link, Word};
use crate::observe::metrics::Handover;

/// From one attempt to get the seat, or to find the one who serves, to the next: soon enough for 100 ms, and seldom enough for one
/// that waits for an agent that hangs.
pub const PAUSE: Duration = Duration::from_millis(20);
/// For a first word, and for the answer to it: nothing is computed for either.
pub const GREETING: Duration = Duration::from_secs(1);
/// For the whole state: 2,000 entries of 4 kB take 20 ms on one busy core.
pub const STATE: Duration = Duration::from_secs(5);
/// From `Ready` to `Go`: longer than [`TAKING`], since another successor may have its turn first.
pub const OFFER: Duration = Duration::from_secs(3);
/// For a sign of life of the one who serves, which it gives every 2 s.
pub const SILENCE: Duration = Duration::from_secs(5);
/// For the one who has the seat to be found, by an agent that could serve in its place. It may have to make its socket again, which
/// takes it 2 s, and then has [`GREETING`] to answer.
pub const SEARCH: Duration = Duration::from_secs(3);
/// From `Go` to `Serving`, in which nobody accepts: the successor is ready, and has but to begin. Who waits in the queue meanwhile
/// is still answered within its 900 ms.
pub const TAKING: Duration = Duration::from_millis(500);

/// Where an agent stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// It has no link and no seat, and looks for either.
    #[default]
    Seeking,
    /// It has connected and waits for a word.
    Greeting(Link),
    /// It has the sockets; the state comes.
    Learning(Link),
    /// It has all, and stands by.
    Standby(Link),
    /// It would serve.
    Offering(Link),
    /// It serves, and its predecessor has not let go yet.
    Taking(Link),
    /// It serves.
    Serving,
    /// It has told a successor to serve.
    Giving(Link),
    /// It is on its way out.
    Ended,
}

impl Role {
    /// The one who serves, or served until a moment ago, if there is a link to it.
    #[must_use]
    pub fn server(self) -> Option<Link> {
        match self {
            Self::Greeting(link) | Self::Learning(link) | Self::Standby(link) | Self::Offering(link) | Self::Taking(link) => {
                Some(link)
            }
            Self::Seeking | Self::Serving | Self::Giving(_) | Self::Ended => None,
        }
    }

    /// Whether it is on its way to where it serves or stands by, and may have to begin again.
    #[must_use]
    pub fn is_joining(self) -> bool {
        matches!(self, Self::Seeking | Self::Greeting(_) | Self::Learning(_) | Self::Offering(_))
    }
}

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    role: Role,
    /// Who stands by for this one, the newest last.
    peers: Vec<Link>,
    /// Whether it accepts.
    accepts: bool,
    /// Whether all of its own parts are ready.
    ready: bool,
    /// Whether it has, or had, all that it takes to serve: it has learnt it from another agent, or has served.
    joined: bool,
    /// Whether it has been the one who serves: then it never asks to be it again.
    served: bool,
    terminating: bool,
}

impl Machine {
    /// Where it stands.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who stands by for it.
    #[must_use]
    pub fn peers(&self) -> &[Link] {
        &self.peers
    }

    /// Whether it accepts.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.accepts
    }

    /// Whether it has, or had, all that it takes to serve.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// Whether it has been the one who serves.
    #[must_use]
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// Whether it could serve, and looks for the one who does.
    #[must_use]
    pub fn searches(&self) -> bool {
        self.joined && matches!(self.role, Role::Seeking | Role::Greeting(_))
    }

    /// What it does about `event`.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Seated => self.seated(),
            Event::Unseated => self.unseated(),
            Event::Paused => self.seeking(Action::Connect),
            Event::Refused => self.seeking(Action::TakeSeat),
            Event::Connected(link) => self.connected(link),
            Event::Accepted(link) => self.accepted(link),
            Event::Heard(link, word) => self.heard(link, word).unwrap_or_else(|| self.lost(link)),
            // Who has said `Go` rests, and lets go of the seat at once when it goes on.
            Event::Late(link) if self.role == Role::Taking(link) => self.replace(),
            Event::Late(link) if self.role == Role::Offering(link) => {
                [vec![Action::Count(Handover::Failed)], self.lost(link)].concat()
            }
            Event::Broken(link) | Event::Late(link) => self.lost(link),
            Event::Unanswered if self.searches() => self.replace(),
            Event::Unanswered => Vec::new(),
            Event::Ready => {
                self.ready = true;
                self.offer()
            }
            Event::Terminate => self.terminate(),
        }
    }

    fn seeking(&self, next: Action) -> Vec<Action> {
        if self.role == Role::Seeking { vec![next] } else { Vec::new() }
    }

    fn seated(&mut self) -> Vec<Action> {
        if self.terminating {
            return self.end();
        }
        let outcome = match (self.served, self.accepts) {
            (true, false) => Some(Action::Count(Handover::Resumed)),
            (false, _) if self.joined => Some(Action::Count(Handover::Taken)),
            _ => None,
        };
        let serve = self.serve();
        self.become_the_one();
        [serve, vec![Action::Publish], Vec::from_iter(outcome)].concat()
    }

    /// Somebody else has the seat: the one who serves, one that hangs, or one that found none where this one's had been.
    fn unseated(&mut self) -> Vec<Action> {
        self.role = Role::Seeking;
        let failed = (self.accepts && !self.served).then_some(Action::Count(Handover::Failed));
        let mut actions = [self.rest(), vec![Action::Unpublish], self.dismiss(), Vec::from_iter(failed)].concat();
        actions.extend(if self.terminating { self.end() } else { vec![Action::Pause] });
        actions
    }

    fn connected(&mut self, link: Link) -> Vec<Action> {
        if self.role != Role::Seeking {
            return vec![Action::Close(link)];
        }
        self.role = Role::Greeting(link);
        vec![Action::Say(link, Word::Hello), Action::Await(link, GREETING)]
    }

    fn accepted(&self, link: Link) -> Vec<Action> {
        vec![if self.is_the_one() { Action::Await(link, GREETING) } else { Action::Close(link) }]
    }

    /// `None` where the word makes no sense.
    fn heard(&mut self, link: Link, word: Word) -> Option<Vec<Action>> {
        match (word, self.role) {
            (Word::Hello, _) if self.is_the_one() && !self.peers.contains(&link) => {
                self.peers.push(link);
                Some(vec![Action::Relax(link), Action::Say(link, Word::Welcome), Action::Tell(link)])
            }
            (Word::Welcome, Role::Greeting(server)) if server == link => {
                self.role = Role::Learning(link);
                Some(vec![Action::Tell(link), Action::Await(link, STATE)])
            }
            (Word::End, Role::Learning(server)) if server == link => {
                self.role = Role::Standby(link);
                self.joined = true;
                Some([vec![Action::Watch(link)], self.offer()].concat())
            }
            (Word::Ready, Role::Serving) if self.peers.contains(&link) => Some(self.give(link)),
            (Word::Go, Role::Standby(server) | Role::Offering(server)) if server == link => Some(self.take(link)),
            (Word::Serving, Role::Giving(successor)) if successor == link => Some(self.given(link)),
            (Word::Done, Role::Taking(predecessor)) if predecessor == link => Some(self.taken(link)),
            // A second successor is given its turn when it asks again; the first may have been told before it asked.
            (Word::End | Word::Ready, _) if self.peers.contains(&link) => Some(Vec::new()),
            _ => None,
        }
    }

    /// It asks for the seat once it is ready, unless it has had it before.
    fn offer(&mut self) -> Vec<Action> {
        let Role::Standby(link) = self.role else { return Vec::new() };
        if !self.ready || self.served {
            return Vec::new();
        }
        self.role = Role::Offering(link);
        vec![Action::Say(link, Word::Ready), Action::Await(link, OFFER)]
    }

    fn give(&mut self, link: Link) -> Vec<Action> {
        self.role = Role::Giving(link);
        [self.rest(), vec![Action::Say(link, Word::Go), Action::Await(link, TAKING)]].concat()
    }

    fn take(&mut self, link: Link) -> Vec<Action> {
        self.role = Role::Taking(link);
        let serve = self.serve();
        [vec![Action::Await(link, GREETING), Action::KeepSeat], serve, vec![Action::Say(link, Word::Serving)]].concat()
    }

    /// From now on it stands by; who stood by for it finds the other one.
    fn given(&mut self, link: Link) -> Vec<Action> {
        self.role = Role::Standby(link);
        let mut actions = vec![Action::Watch(link), Action::Unpublish, Action::LeaveSeat, Action::Say(link, Word::Done)];
        actions.extend(self.peers.drain(..).filter(|peer| *peer != link).map(Action::Close));
        actions.push(Action::Count(Handover::Given));
        if self.terminating {
            actions.extend(self.end());
        }
        actions
    }

    fn taken(&mut self, link: Link) -> Vec<Action> {
        self.become_the_one();
        self.peers = vec![link];
        vec![Action::Relax(link), Action::Publish, Action::Count(Handover::Taken)]
    }

    /// A link has ended, or is as good as that.
    fn lost(&mut self, link: Link) -> Vec<Action> {
        self.peers.retain(|peer| *peer != link);
        let mut actions = vec![Action::Close(link)];
        if self.role == Role::Giving(link) {
            actions.extend(self.resume());
        } else if self.role.server() == Some(link) {
            // Who accepts goes on until it knows that another one does.
            actions.extend(self.seek());
        }
        actions
    }

    /// Who has the seat hangs, or another one died while it passed it on.
    fn replace(&mut self) -> Vec<Action> {
        let asked = self.role.server().map(Action::Close);
        self.role = Role::Seeking;
        [Vec::from_iter(asked), vec![Action::ReplaceSeat]].concat()
    }

    fn seek(&mut self) -> Vec<Action> {
        self.role = Role::Seeking;
        vec![Action::TakeSeat]
    }

    /// The successor did not make it. What it was sent of the seat must not lock anybody out.
    fn resume(&mut self) -> Vec<Action> {
        let serve = self.serve();
        [vec![Action::Count(Handover::Failed)], serve, vec![Action::FreeSeat], self.seek()].concat()
    }

    /// A successor that is there is told to serve whether it is ready or not: it would have to in a moment.
    fn terminate(&mut self) -> Vec<Action> {
        self.terminating = true;
        match (self.role, self.peers.last()) {
            (Role::Serving, Some(link)) => self.give(*link),
            (Role::Giving(_) | Role::Ended, _) => Vec::new(),
            _ => self.end(),
        }
    }

    /// Who stands by for a successor keeps the link, for what its last loads bring. Without one its peers take the seat at once.
    fn end(&mut self) -> Vec<Action> {
        let closed = self.role.server().filter(|link| self.role != Role::Standby(*link)).map(Action::Close);
        // What waits in the queue of one without a successor is its own to the last.
        let rest = if matches!(self.role, Role::Taking(_)) { self.rest() } else { Vec::new() };
        self.role = Role::Ended;
        [rest, vec![Action::Unpublish, Action::LeaveSeat], Vec::from_iter(closed), self.dismiss(), vec![Action::End]].concat()
    }

    fn dismiss(&mut self) -> Vec<Action> {
        self.peers.drain(..).map(Action::Close).collect()
    }

    /// Whether it alone has the seat.
    fn is_the_one(&self) -> bool {
        matches!(self.role, Role::Serving | Role::Giving(_)) && !self.terminating
    }

    fn become_the_one(&mut self) {
        self.role = Role::Serving;
        (self.joined, self.served) = (true, true);
    }

    fn serve(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.accepts, true) { Vec::new() } else { vec![Action::Serve] }
    }

    fn rest(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.accepts, false) { vec![Action::Rest] } else { Vec::new() }
    }
}
