//! Where peers are: as remembered, else as the kernel tells.
//!
//! A look-up belongs to the process: it goes on when the connection that began it has stopped waiting, so that the next one finds
//! what it brought. All connections of a peer that come meanwhile wait for the same one, and share its failure too. While it is
//! late, the last answer for that peer stands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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

/// Look-ups under way, those included that wait for their turn.
pub(super) const PLACES: usize = 256;

/// Questions to the kernel at a time. Each has a thread; more would only wait for each other's locks.
const LOOKUPS: usize = 16;

/// Where a peer is, or why that is not known.
pub(super) type Answer = Result<Origin, Arc<LookupError>>;

/// A look-up under way. Clones wait for the same one.
pub(super) type LookUp = Shared<BoxFuture<'static, Answer>>;

/// Where peers are.
#[derive(Debug)]
pub(super) struct Origins {
    known: Memory<Peer, Origin>,
    under_way: Mutex<HashMap<Peer, LookUp, RandomState>>,
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
    Coming(LookUp),
}

impl Origins {
    pub(super) fn new(kernel: Kernel, context: &Context) -> Self {
        Self {
            known: Memory::default(),
            under_way: Mutex::default(),
            kernel,
            places: Arc::new(Semaphore::new(PLACES)),
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
        let mut under_way = self.under_way.lock();
        // One that has ended without leaving the list has panicked.
        if let Some(look_up) = under_way.get(&peer).filter(|look_up| look_up.peek().is_none()) {
            return Judgement::Coming(look_up.clone());
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Judgement::Made(self.last_or(LookupError::Busy.into(), peer));
        };
        let look_up = self.begin(peer, now, place);
        under_way.insert(peer, look_up.clone());
        Judgement::Coming(look_up)
    }

    /// Where `peer` is by `look_up`, or by the last answer if that fails or is late.
    pub(super) async fn wait(&self, peer: Peer, look_up: LookUp) -> Answer {
        match timeout(LIMIT, look_up).await.unwrap_or_else(|_| Err(LookupError::Late.into())) {
            Ok(origin) => Ok(origin),
            Err(error) => self.last_or(error, peer),
        }
    }

    fn begin(self: &Arc<Self>, peer: Peer, now: Instant, place: OwnedSemaphorePermit) -> LookUp {
        let origins = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let _place = place;
            let answer = origins.known.recall(peer, now, || origins.look_up(peer, now)).await;
            origins.under_way.lock().remove(&peer);
            answer
        });
        task.map(|ended| Ok(ended.map_err(LookupError::from)??)).boxed().shared()
    }

    async fn look_up(&self, peer: Peer, now: Instant) -> Result<Origin, LookupError> {
        let _permit = self.lookups.acquire().await;
        self.kernel.origin(peer, now).await
    }

    fn last_or(&self, error: Arc<LookupError>, peer: Peer) -> Answer {
        self.known.last(&peer, self.clock.now().mono, KEPT).ok_or(error)
    }
}
