//! Renewal ahead of need: one timer an entry, a few renewals at once, and a rest when the agent's own access to AWS is broken.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::base::clock::Now;
use crate::cache::Shared;
use crate::cache::entry::Wake;
use crate::cache::flight;
use crate::cache::key::EntryKey;
use crate::cache::slots::{Loaded, Slot};
use crate::domain::mint::{Failure, Urgency};
use crate::observe::metrics::Metrics;

/// Renewals under way at once; the others wait here, where they cost nothing, in the order in which they fell due.
const AT_ONCE: usize = 8;
/// How long renewals rest after a fault of the agent's own access, until one of them tries again.
const REST: Duration = Duration::from_secs(15);

/// Whether renewals rest: with broken node credentials every one of them would fail in the same way.
#[derive(Debug, Default)]
pub(super) struct Pause {
    until: Mutex<Option<Instant>>,
}

impl Pause {
    /// When to come back, if renewals rest. The first to come after the rest tries for all, so it rests on for the others.
    fn hold_back(&self, now: Now) -> Option<Instant> {
        let mut until = self.until.lock();
        match *until {
            None => None,
            Some(end) if end > now.mono => Some(end),
            Some(_) => {
                *until = Some(now.mono + REST);
                None
            }
        }
    }

    /// Draws the conclusion from the result of any load.
    pub(super) fn learn(&self, result: &Loaded, now: Now, metrics: &Metrics) {
        let broken = match result {
            Ok(_) => None,
            Err(Failure::Misconfigured(_)) => Some(now.mono + REST),
            Err(_) => return,
        };
        let before = std::mem::replace(&mut *self.until.lock(), broken);
        metrics.cache.renewals_paused.set(i64::from(broken.is_some()));
        match (before, result) {
            (None, Err(failure)) => tracing::error!(error = %failure, "renewals rest; what is held goes on being served"),
            (Some(_), Ok(_)) => tracing::info!("the agent's own access to AWS works again; renewals go on"),
            _ => (),
        }
    }
}

/// The refresher's own state.
struct Refresher {
    shared: Arc<Shared>,
    timers: DelayQueue<EntryKey>,
    handles: HashMap<EntryKey, delay_queue::Key>,
    ready: VecDeque<Ready>,
    workers: Arc<Semaphore>,
}

/// A renewal that is due and waits for a worker.
struct Ready {
    slot: Arc<Slot>,
    urgency: Urgency,
    due: Instant,
}

/// Renews entries as they fall due, until shutdown. Keys come over `landed` when a load has changed their entry.
pub(super) async fn run(shared: Arc<Shared>, mut landed: mpsc::UnboundedReceiver<EntryKey>) {
    let shutdown = shared.context.tasks.shutting_down();
    tokio::pin!(shutdown);
    let workers = Arc::new(Semaphore::new(AT_ONCE));
    let mut refresher = Refresher { shared, timers: DelayQueue::new(), handles: HashMap::new(), ready: VecDeque::new(), workers };
    loop {
        let free = Arc::clone(&refresher.workers);
        tokio::select! {
            () = &mut shutdown => return,
            Some(key) = landed.recv() => refresher.look(key),
            Some(expired) = poll_fn(|cx| refresher.timers.poll_expired(cx)), if !refresher.timers.is_empty() => {
                let key = expired.into_inner();
                refresher.handles.remove(&key);
                refresher.look(key);
            }
            Ok(worker) = free.acquire_owned(), if !refresher.ready.is_empty() => refresher.renew_first(worker),
        }
    }
}

impl Refresher {
    fn look(&mut self, key: EntryKey) {
        let Some(slot) = self.shared.slots.find(&key) else { return };
        let now = self.shared.context.clock.now();
        match slot.wake(now) {
            Wake::Flying => (),
            Wake::Sleep(until) => self.sleep(key, until),
            Wake::Drop(end) => self.shared.slots.remove(&slot, end),
            Wake::Renew(urgency, due) => match self.shared.pause.hold_back(now) {
                Some(until) => self.sleep(key, until),
                None => self.ready.push_back(Ready { slot, urgency, due }),
            },
        }
    }

    fn sleep(&mut self, key: EntryKey, until: Instant) {
        if let Some(handle) = self.handles.get(&key) {
            self.timers.reset_at(handle, until);
            return;
        }
        let handle = self.timers.insert_at(key.clone(), until);
        self.handles.insert(key, handle);
    }

    fn renew_first(&mut self, worker: OwnedSemaphorePermit) {
        let Some(Ready { slot, urgency, due }) = self.ready.pop_front() else { return };
        if !slot.begin_renewal(self.shared.context.clock.now()) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let flight = flight::launch(&self.shared, &slot, urgency);
        self.shared.context.tasks.spawn(async move {
            let result = flight.await.unwrap_or_else(|_| Err(Failure::Bug("the renewal panicked".into())));
            shared.context.metrics.cache.refreshed((&result).into());
            if result.is_ok() {
                let lag = shared.context.clock.now().mono.saturating_duration_since(due);
                shared.context.metrics.cache.refresh_lag.observe(lag.as_secs_f64());
            }
            drop(worker);
        });
    }
}
