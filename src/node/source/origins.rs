//! Where peers are: as remembered, else as the kernel tells.
//!
//! A look-up belongs to the process: it goes on when the connection that began it has stopped waiting, so that the next one finds
//! what it brought. While it is late, the last answer for that peer stands.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::base::clock::Clock;
use crate::base::tasks::Tasks;
use crate::node::source::kernel::{Kernel, LookupError};
use crate::node::source::memory::{LIFE, Memory};
use crate::node::source::{Origin, Peer};
use crate::observe::Context;

/// How long a connection waits to be judged. The kernel takes a tenth of a millisecond, unless its links are being changed.
pub(super) const LIMIT: Duration = Duration::from_millis(250);

/// How long the last answer stands while there is no new one.
pub(super) const KEPT: Duration = Duration::from_secs(60);

/// Judgements under way. Each is a task or two; there is nothing else that bounds those of connections that are served meanwhile.
pub(super) const JUDGEMENTS: usize = 256;

/// Questions to the kernel at a time. Each has a thread; more would only wait for each other's locks.
const LOOKUPS: usize = 16;

/// Where a peer is, or why that is not known.
pub(super) type Answer = Result<Origin, LookupError>;

/// Where peers are.
#[derive(Debug)]
pub(super) struct Origins {
    known: Memory<Peer, Origin>,
    kernel: Kernel,
    places: Arc<Semaphore>,
    lookups: Semaphore,
    clock: Clock,
    tasks: Tasks,
}

/// How far it is known where a peer is.
pub(super) enum Judgement {
    Made(Answer),
    /// By a look-up; [`Origins::wait`] for it.
    Coming(JoinHandle<Answer>),
}

impl Origins {
    pub(super) fn new(kernel: Kernel, context: &Context) -> Self {
        Self {
            known: Memory::default(),
            kernel,
            places: Arc::new(Semaphore::new(JUDGEMENTS)),
            lookups: Semaphore::new(LOOKUPS),
            clock: context.clock.clone(),
            tasks: context.tasks.clone(),
        }
    }

    /// What is known of `peer`; a look-up begins if that is nothing, or old.
    pub(super) fn judge(self: &Arc<Self>, peer: Peer) -> Judgement {
        let now = self.clock.now().mono;
        if let Some(origin) = self.known.last(&peer, now, LIFE) {
            return Judgement::Made(Ok(origin));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Judgement::Made(self.last_or(LookupError::Busy, peer));
        };
        let origins = Arc::clone(self);
        Judgement::Coming(self.tasks.spawn(async move {
            let _place = place;
            origins.known.recall(peer, now, || origins.look_up(peer, now)).await
        }))
    }

    /// Where `peer` is by `look_up`, or by the last answer if that fails or is late.
    pub(super) async fn wait(&self, peer: Peer, look_up: JoinHandle<Answer>) -> Answer {
        match timeout(LIMIT, look_up).await.unwrap_or(Ok(Err(LookupError::Late))) {
            Ok(Ok(origin)) => Ok(origin),
            Ok(Err(error)) => self.last_or(error, peer),
            Err(panic) => self.last_or(panic.into(), peer),
        }
    }

    async fn look_up(&self, peer: Peer, asked: Instant) -> Answer {
        let waited = self.clock.now().mono.saturating_duration_since(asked);
        // It came after one that failed, and nobody waits for it any more: those in a row would keep others out.
        if waited > LIMIT {
            return Err(LookupError::Late);
        }
        let _permit = self.lookups.acquire().await;
        self.kernel.origin(peer, asked).await
    }

    fn last_or(&self, error: LookupError, peer: Peer) -> Answer {
        self.known.last(&peer, self.clock.now().mono, KEPT).ok_or(error)
    }
}
