//! What the driver tells operators, by status and by lines: of each kind one a minute, whatever other agents do.

use std::io;
use std::time::Duration;

use crate::node::handover::Peer;
use crate::node::handover::driver::Driver;
use crate::node::handover::link::ReadError;
use crate::node::handover::machine::{Link, Role};
use crate::observe::metrics::Handover;

/// A handover takes a second. Who has looked for one for longer waits for an agent that hangs, or fails again and again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kinds of lines that another agent could cause again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Line {
    Stranger,
    Untried,
    Replaced,
    Unseated,
    Unfound,
    Seatless,
    Ungiven,
    Accept,
    Descriptors,
    Met,
    Format,
    Excess,
    Unreadable,
    Closed,
    Broken,
    Retry,
    Failed,
    Waits,
}

impl Driver {
    /// How often it has happened since the last line of this kind, if there may be one now.
    pub(super) fn line(&mut self, kind: Line) -> Option<u64> {
        self.lines.line(kind, self.context.clock.now().mono)
    }

    pub(super) fn tell_untried(&mut self, error: &io::Error) {
        if let Some(times) = self.line(Line::Untried) {
            tracing::warn!(%error, times, "the seat can't be tried");
        }
    }

    pub(super) fn tell_replaced(&mut self) {
        let pid = self.awaited.as_ref().and_then(|peer| peer.pid);
        if let Some(times) = self.line(Line::Replaced) {
            tracing::warn!(pid, times, "the agent that has the seat does not answer: this agent serves in its place");
        }
    }

    pub(super) fn tell_unseated(&mut self) {
        if let Some(times) = self.line(Line::Unseated) {
            tracing::warn!(
                times,
                "this agent's seat was removed, or replaced while it hung: it stands by for the agent that has the new one"
            );
        }
    }

    pub(super) fn tell_unfound(&mut self, error: &io::Error) {
        let directory = self.directory.path().display().to_string();
        self.advice.pending(format!("no successor can take over from this agent: {directory}: {error}"));
        if let Some(times) = self.line(Line::Unfound) {
            tracing::warn!(directory, %error, times, "no successor can take over from this agent, until this is mended");
        }
    }

    pub(super) fn tell_seatless(&mut self, error: &io::Error) {
        if let Some(times) = self.line(Line::Seatless) {
            tracing::warn!(%error, times, "the handover directory has become unusable: this agent serves without it");
        }
    }

    pub(super) fn refuse_stranger(&mut self) {
        if let Some(times) = self.line(Line::Stranger) {
            tracing::warn!(times, "a process of another user at the handover socket is refused");
        }
    }

    pub(super) fn tell_meeting(&mut self, peer: &Peer, sockets: usize) {
        if let Some(times) = self.line(Line::Met) {
            tracing::info!(version = peer.version, pid = peer.pid, sockets, times, "another agent of this node");
        }
    }

    /// That it closes a link is how an agent ends.
    pub(super) fn tell_end(&mut self, link: Link, error: &ReadError) {
        let pid = self.links.get(link).and_then(|open| open.peer.pid);
        if matches!(error, ReadError::Closed) {
            if let Some(times) = self.line(Line::Closed) {
                tracing::info!(pid, times, "another agent has closed its connection");
            }
        } else if let Some(times) = self.line(Line::Broken) {
            tracing::warn!(pid, %error, times, "the connection to another agent is broken");
        }
    }

    pub(super) fn count(&mut self, result: Handover) {
        let result = if self.cold && result == Handover::Taken { Handover::Cold } else { result };
        self.context.metrics.handovers.ended(result);
        let times = if result == Handover::Failed { self.line(Line::Failed) } else { Some(1) };
        if let Some(times) = times {
            tracing::info!(result = <&'static str>::from(result), times, "handover");
        }
    }

    /// Where it stands now, and stood `before`.
    pub(super) fn tell_role(&mut self, before: Role) {
        let role = self.machine.role();
        let peer = |link: &Link| self.links.get(*link).map(|open| open.peer.clone());
        let server = role.server().as_ref().and_then(peer);
        let standing_by = self.machine.peers().iter().filter_map(peer).collect();
        if let (Role::Standby(_), Some(server)) = (role, &server)
            && role != before
        {
            tracing::info!(version = server.version, pid = server.pid, "stands by for the agent that serves");
        }
        let now = self.context.clock.now().mono;
        let awaited = server.or_else(|| self.awaited.clone().filter(|_| role == Role::Seeking));
        self.shared.stands(role, now, awaited, standing_by);
        if matches!(before, Role::Greeting(_) | Role::Learning(_) | Role::Offering(_)) && role == Role::Seeking {
            self.tell_retry();
        }
    }

    fn tell_retry(&mut self) {
        let pid = self.awaited.as_ref().and_then(|peer| peer.pid);
        if let Some(times) = self.line(Line::Retry) {
            tracing::info!(pid, times, "the agent that serves could not be joined: tried again");
        }
    }

    /// Nothing else tells of an agent that hangs: it keeps its seat, and who waits for it is silent.
    pub(super) fn tell_waiting(&mut self) {
        let waited = self.shared.joining_for(self.context.clock.now().mono).unwrap_or_default();
        if waited >= PATIENCE
            && let Some(times) = self.line(Line::Waits)
        {
            let (pid, waited_seconds) = (self.awaited.as_ref().and_then(|peer| peer.pid), waited.as_secs());
            tracing::warn!(pid, waited_seconds, times, "waits for the agent that has the seat: it hangs, or does not hand over");
        }
    }
}
