//! One agent follows another on a node, and no request is lost.
//!
//! `machine` has the rules and does nothing, `driver` does what it says: over `link`s, whose bytes are in `wire`, between agents
//! that meet in a `directory`. What they tell each other is the [`Estate`]'s, which knows what an agent holds.

pub mod directory;
mod driver;
pub mod folder;
pub mod link;
mod links;
pub mod machine;
#[cfg(test)]
mod search;
pub mod wire;

use std::io;
use std::mem::discriminant;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::parcel::Unreadable;
use crate::node::handover::directory::{Directory, Seat};
use crate::node::handover::driver::Driver;
use crate::node::handover::machine::Role;
use crate::node::handover::wire::{Body, Part};
use crate::node::inheritance::Inheritance;
use crate::observe::Context;

/// By this name its panics are counted.
const TASK: &str = "handover";

/// What an agent knows, told to another one and learned from it.
pub trait Estate: Send + 'static {
    /// All of it.
    fn tell(&self) -> Vec<Part>;

    /// What of it may have changed since it was told, and is no landing.
    fn tell_again(&self) -> Vec<Part>;

    /// The next of it that is news to others, as it comes.
    fn poll_landing(&mut self, context: &mut task::Context<'_>) -> Poll<Part>;

    /// Takes what the other one told.
    ///
    /// # Errors
    /// When it can't be read: it is left, and what it was about is loaded anew when somebody asks.
    fn learn(&mut self, part: Part) -> Result<(), Unreadable>;

    /// The loads that are in flight here, to be told to the one who serves from now on.
    fn in_flight(&self) -> Body;

    /// Waits for the landings of these loads of the one who served, in place of loads of its own; `None`: that one has gone.
    fn expect(&mut self, loads: Option<Body>);
}

/// This agent's place among those of its node.
#[derive(Debug)]
pub struct Handover {
    directory: Directory,
    seat: Option<Seat>,
    shared: Shared,
}

/// What the running handover and those who ask about it share.
#[derive(Debug, Clone)]
pub struct Shared {
    terminate: CancellationToken,
    ended: CancellationToken,
    leaving: CancellationToken,
    left: CancellationToken,
    status: Arc<Mutex<Standing>>,
}

#[derive(Debug)]
struct Standing {
    role: Role,
    since: Instant,
    serving: Option<Peer>,
    standing_by: Vec<Peer>,
}

/// Another agent of the node.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Peer {
    /// As it says.
    pub version: Option<String>,
    /// As the kernel says; `None` from another pid namespace.
    pub pid: Option<i32>,
}

/// The handover, for operators.
#[derive(Debug, Serialize)]
pub struct Status {
    role: &'static str,
    for_seconds: u64,
    /// Whom this agent stands by for, or waits for to join it.
    serving: Option<Peer>,
    /// Who stands by for this agent.
    standing_by: Vec<Peer>,
}

impl Handover {
    /// Takes the seat if nobody has it: then this process serves from the start, else it stands by.
    ///
    /// # Errors
    /// When the directory has become unusable.
    pub fn begin(directory: Directory, context: &Context) -> io::Result<Self> {
        let seat = directory.take_seat()?;
        context.duty.set(seat.is_some());
        let standing = Standing { role: Role::Seeking, since: context.clock.now().mono, serving: None, standing_by: Vec::new() };
        let shared = Shared {
            terminate: CancellationToken::new(),
            ended: CancellationToken::new(),
            leaving: CancellationToken::new(),
            left: CancellationToken::new(),
            status: Arc::new(Mutex::new(standing)),
        };
        Ok(Self { directory, seat, shared })
    }

    /// Where it can be asked.
    #[must_use]
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Goes on until the process ends: what its last loads bring is told even while it drains.
    ///
    /// Should it panic, an agent that serves goes on serving. The seat goes with it, so who stands by serves as well, from the same
    /// sockets; and liveness fails, so that the kubelet makes an end of it.
    pub fn run(self, inheritance: Inheritance, estate: Box<dyn Estate>, context: &Context) {
        context.tasks.spawn_lasting(TASK, Driver::new(self, inheritance, estate, context.clone()).run());
    }
}

impl Shared {
    /// SIGTERM: completes once this process may drain and end, which is after a handover that is under way.
    pub async fn terminate(&self) {
        self.terminate.cancel();
        self.ended.cancelled().await;
    }

    /// After the drain: completes once the other agents have been told what this one's last loads brought, within
    /// [`link::STALL`].
    pub async fn leave(&self) {
        self.leaving.cancel();
        self.left.cancelled().await;
    }

    fn stands(&self, role: Role, now: Instant, serving: Option<Peer>, standing_by: Vec<Peer>) {
        let mut standing = self.status.lock();
        let same = discriminant(&standing.role) == discriminant(&role) || (standing.role.is_joining() && role.is_joining());
        let since = if same { standing.since } else { now };
        *standing = Standing { role, since, serving, standing_by };
    }

    /// For how long it has tried to join the one that serves, if it does: however often it has to begin again.
    fn joining_for(&self, now: Instant) -> Option<Duration> {
        let standing = self.status.lock();
        standing.role.is_joining().then(|| now.saturating_duration_since(standing.since))
    }

    /// Where this agent stands.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let standing = self.status.lock();
        Status {
            role: standing.role.into(),
            for_seconds: now.saturating_duration_since(standing.since).as_secs(),
            serving: standing.serving.clone(),
            standing_by: standing.standing_by.clone(),
        }
    }
}
