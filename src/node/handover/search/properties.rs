//! What must never be, and what must always be able to come.

use super::super::machine::Role;
use super::{Agent, End, Life, Limit, Packet, World};

impl World {
    /// What must never be.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let confirmed = self.agents.iter().filter(|agent| matches!(agent.machine.role(), Role::Serving | Role::Giving(_)));
        let is_locked = |seat: u8| self.lock == Some(seat) || self.removed.contains(&seat);
        if !confirmed.clone().all(|agent| agent.seat.is_some_and(is_locked)) {
            return Some("one serves without the seat");
        }
        let shares = |agent: &Agent| confirmed.clone().filter(|other| other.seat == agent.seat).count() > 1;
        if confirmed.clone().any(shares) {
            return Some("two have the seat to themselves");
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
    pub(super) fn is_settled(&self) -> bool {
        let serves = |agent: &&Agent| agent.accepts();
        let mut serving = self.agents.iter().enumerate().filter(|(at, agent)| self.is_alive(*at) && serves(agent));
        let (Some((at, one)), None) = (serving.next(), serving.next()) else { return self.willing().next().is_none() };
        let found = one.machine.role() == Role::Serving && one.listens && self.is_found(at);
        let idle = self
            .pipes
            .iter()
            .flatten()
            .all(|end| end.inbox.is_empty() && end.limit != Some(Limit::Word) && end.link.is_some() == end.open);
        let linked = |other: &&Agent| matches!(other.machine.role(), Role::Standby(_)) || other.machine.role() == Role::Serving;
        let attached = one.machine.peers().len() + 1 == self.willing().count();
        found && idle && self.willing().filter(linked).count() == self.willing().count() && attached
    }

    /// One serves who does not hang, but where none of those has ever had what it takes and the seat is kept from them: by one
    /// that hangs, or on its way to one from an agent that has died.
    pub(super) fn is_served(&self) -> bool {
        let holds = |agent: &Agent| agent.seat.is_some() && agent.seat == self.lock;
        let linked = self.willing().all(|agent| matches!(agent.machine.role(), Role::Standby(_)));
        let keeps = |agent: &Agent| if holds(agent) { !self.willing().any(holds) } else { agent.seat.is_some() && linked };
        let kept = |agent: &Agent| agent.life == Life::Hung && keeps(agent);
        // Who sent it can free it, as long as it lives.
        let orphaned = |near: &End, far: &End| !self.is_alive(far.at) && near.inbox.iter().any(|packet| self.is_seat(packet));
        let in_a_link = self.pipes.iter().any(|[a, b]| orphaned(a, b) || orphaned(b, a));
        if self.willing().any(|agent| agent.machine.joined()) {
            return self.willing().filter(|agent| agent.accepts()).count() == 1;
        }
        self.willing().next().is_none() || in_a_link || self.agents.iter().any(kept)
    }
}
