//! Renewal ahead of need: one timer an entry, a few renewals at once, and a rest when the node's credentials are broken, or while
//! another agent of this node renews.

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
use crate::domain::policy::Exchange;
use crate::observe::metrics::Metrics;

/// Renewals under way at once; the others wait here, where they cost nothing, in the order in which they fell due. Those of
/// credentials near their end have places of their own.
const AT_ONCE: usize = 6;
const DUE_SOON_AT_ONCE: usize = 2;
/// How long renewals rest after a fault of the node's access, until one of them tries again.
const REST: Duration = Duration::from_secs(15);

/// Whether renewals rest that need the node's own access: while that is broken every one of them would fail in the same way. The
/// others go on, and tell nothing about it; a chain is one of them as long as the session that it begins with is kept.
#[derive(Debug, Default)]
pub(super) struct Pause {
    until: Mutex<Option<Instant>>,
}

impl Pause {
    /// When to come back, if renewals rest. The first to come after the rest tries for all, so it rests on for the others.
    fn hold_back(&self, slot: &Slot, now: Now) -> Option<Instant> {
        if !slot.shows_access() {
            return None;
        }
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

    /// Draws the conclusion from the result of a load of `slot`, before that has landed.
    pub(super) fn learn(&self, slot: &Slot, result: &Loaded, now: Now, metrics: &Metrics) {
        let broken = match result {
            Ok(_) | Err(Failure::Denied(_)) if slot.shows_access() => None,
            Err(Failure::Misconfigured(_)) if *slot.key.grant.exchange() == Exchange::PodIdentity => Some(now.mono + REST),
            _ => return,
        };
        let before = std::mem::replace(&mut *self.until.lock(), broken);
        metrics.cache.renewals_paused.set(i64::from(broken.is_some()));
        match (before, broken, result) {
            (None, Some(_), Err(error)) => tracing::error!(%error, "renewals rest; what is held goes on being served"),
            (Some(_), None, _) => tracing::info!("the node's own access to AWS works again; renewals go on"),
            _ => (),
        }
    }
}

/// The refresher's own state.
struct Refresher {
    shared: Arc<Shared>,
    timers: DelayQueue<EntryKey>,
    handles: HashMap<EntryKey, delay_queue::Key>,
    due_soon: Lane,
    background: Lane,
}

/// Renewals that are due, and how many of them run.
struct Lane {
    waiting: VecDeque<Arc<Slot>>,
    workers: Arc<Semaphore>,
}

impl Lane {
    fn new(at_once: usize) -> Self {
        Self { waiting: VecDeque::new(), workers: Arc::new(Semaphore::new(at_once)) }
    }
}

/// Renews entries as they fall due, until shutdown. Keys come over `changed` when something has changed when their entry is due.
pub(super) async fn run(shared: Arc<Shared>, mut changed: mpsc::UnboundedReceiver<EntryKey>) {
    let (shutdown, duty) = (shared.context.tasks.shutting_down(), shared.context.duty.clone());
    tokio::pin!(shutdown);
    let mut refresher = Refresher::new(shared);
    loop {
        let serving = duty.is_serving();
        let due_soon = Arc::clone(&refresher.due_soon.workers).acquire_owned();
        let background = Arc::clone(&refresher.background.workers).acquire_owned();
        tokio::select! {
            () = &mut shutdown => return,
            () = duty.until(!serving) => (),
            Some(key) = changed.recv() => refresher.look(&key),
            Some(expired) = poll_fn(|cx| refresher.timers.poll_expired(cx)), if serving && !refresher.timers.is_empty() => {
                let key = expired.into_inner();
                refresher.handles.remove(&key);
                refresher.look(&key);
            }
            Ok(worker) = due_soon, if serving && !refresher.due_soon.waiting.is_empty() => {
                let first = refresher.due_soon.waiting.pop_front();
                refresher.renew(first, worker);
            }
            Ok(worker) = background, if serving && !refresher.background.waiting.is_empty() => {
                let first = refresher.background.waiting.pop_front();
                refresher.renew(first, worker);
            }
        }
    }
}

impl Refresher {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            timers: DelayQueue::new(),
            handles: HashMap::new(),
            due_soon: Lane::new(DUE_SOON_AT_ONCE),
            background: Lane::new(AT_ONCE),
        }
    }

    fn look(&mut self, key: &EntryKey) {
        let Some(slot) = self.shared.slots.find(key) else { return };
        if let Some((urgency, _)) = self.due(&slot) {
            let lane = if urgency == Urgency::DueSoon { &mut self.due_soon } else { &mut self.background };
            lane.waiting.push_back(slot);
        }
    }

    /// What is due now, and since when; everything else about the entry is seen to.
    fn due(&mut self, slot: &Slot) -> Option<(Urgency, Instant)> {
        match slot.wake(self.shared.context.clock.now())? {
            Wake::Renew(urgency, due) => return Some((urgency, due)),
            Wake::Sleep(until) => self.sleep(slot.key.clone(), until),
            Wake::Drop(end) => self.shared.slots.remove(slot, end),
            Wake::Flying => (),
        }
        None
    }

    fn sleep(&mut self, key: EntryKey, until: Instant) {
        if let Some(handle) = self.handles.get(&key) {
            self.timers.reset_at(handle, until);
            return;
        }
        let handle = self.timers.insert_at(key.clone(), until);
        self.handles.insert(key, handle);
    }

    /// Renews an entry that waited, unless a request, a failure or a fault of the agent's access has changed that meanwhile.
    fn renew(&mut self, slot: Option<Arc<Slot>>, worker: OwnedSemaphorePermit) {
        let Some(slot) = slot else { return };
        let Some((urgency, due)) = self.due(&slot) else { return };
        let now = self.shared.context.clock.now();
        if let Some(until) = self.shared.pause.hold_back(&slot, now) {
            return self.sleep(slot.key.clone(), until);
        }
        if !slot.begin_renewal(now) {
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
