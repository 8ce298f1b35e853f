//! Where entries are kept: who may have a place, and how to find it.
//!
//! Our own count admits newcomers; moka holds the places and bounds them from above, since it can pin nothing: a live pod's
//! entry must not go because others come. A newcomer without a place gets a passing one, which is gone seconds after its load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::base::clock::Now;
use crate::base::parcel::Parcel;
use crate::cache::Config;
use crate::cache::entry::told::PackedEntry;
use crate::cache::entry::{Asked, End, Entry, Landed, Wake};
use crate::cache::key::EntryKey;
use crate::cache::status::EntryStatus;
use crate::cache::transfer::Told;
use crate::domain::credential::Credential;
use crate::domain::identity::Presented;
use crate::domain::mint::Failure;
use crate::domain::policy::Grant;
use crate::observe::metrics::{EvictionCause, Metrics};
use crate::token::Caller;

/// Newcomers served at once without a place of their own.
const PASSING_PLACES: usize = 512;

/// What a load brings.
pub(super) type Loaded = Result<Arc<Credential>, Failure>;

/// How far an entry's latest load has come, for those who wait for it.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// Under way, after so many failed attempts as left their last failure here.
    Flying(Option<Failure>),
    /// Ended.
    Landed(Loaded),
}

/// One entry's place.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: EntryKey,
    kept: bool,
    state: Mutex<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    entry: Entry,
    progress: watch::Sender<Progress>,
    removed: bool,
}

impl Slot {
    fn new(key: EntryKey, kept: bool, entry: Entry) -> Arc<Self> {
        let state = SlotState { entry, progress: watch::Sender::new(Progress::Flying(None)), removed: false };
        Arc::new(Self { key, kept, state: Mutex::new(state) })
    }

    /// `None` if the slot has been removed meanwhile.
    pub(super) fn ask(&self, presented: &Arc<Presented>, now: Now) -> Option<Asked> {
        let mut state = self.state.lock();
        if state.removed {
            return None;
        }
        let asked = state.entry.ask(presented, now);
        if asked.begins {
            state.progress.send_replace(Progress::Flying(None));
        }
        Some(asked)
    }

    /// Marks a renewal as under way, unless a load is.
    pub(super) fn begin_renewal(&self, now: Now) -> bool {
        let mut state = self.state.lock();
        let begins = !state.removed && state.entry.begin_renewal(now);
        if begins {
            state.progress.send_replace(Progress::Flying(None));
        }
        begins
    }

    /// Ends the load: the entry changes and those who wait are told in one step, before anybody can begin another load.
    pub(super) fn land(&self, result: Loaded, roll: f64, now: Now) -> Landed {
        let mut state = self.state.lock();
        let landed = state.entry.landed(result.clone(), roll, now);
        state.progress.send_replace(Progress::Landed(result));
        landed
    }

    /// Learns what another agent knows of the entry.
    fn learn(&self, told: PackedEntry<'_>, now: Now) {
        self.state.lock().entry.learn(told, now);
    }

    /// Ends a load that another agent made, for those who wait here.
    pub(super) fn conclude(&self, result: Loaded) {
        let mut state = self.state.lock();
        state.entry.concluded();
        state.progress.send_replace(Progress::Landed(result));
    }

    /// What another agent needs to know of it. What has no place here needs none elsewhere.
    pub(super) fn pack(&self, now: Now) -> Option<Parcel> {
        let state = self.state.lock();
        (self.kept && !state.removed).then(|| Told::pack(&self.key, state.entry.pack(now)))
    }

    /// The same, if there is anything to know.
    pub(super) fn news(&self, now: Now) -> Option<Parcel> {
        let tells = self.state.lock().entry.has_news(now);
        tells.then(|| self.pack(now)).flatten()
    }

    /// What a load need not be made for.
    pub(super) fn known(&self, now: Now) -> Option<Loaded> {
        self.state.lock().entry.known(now)
    }

    /// Whether a load is under way whose result is kept.
    pub(super) fn is_flying(&self) -> bool {
        let state = self.state.lock();
        self.kept && !state.removed && state.entry.is_flying()
    }

    /// The entry's timer went off. One that is to be dropped takes no request from here on; `None` if it was dropped before.
    pub(super) fn wake(&self, now: Now) -> Option<Wake> {
        let mut state = self.state.lock();
        if state.removed {
            return None;
        }
        let wake = state.entry.wake(now);
        state.removed = matches!(wake, Wake::Drop(_));
        Some(wake)
    }

    /// Ends the entry if its pod can't prove itself any more, unless a load of it is under way. Says whether it did.
    fn retire(&self, now: Now) -> bool {
        let mut state = self.state.lock();
        let retires = self.kept && !state.removed && !state.entry.is_flying() && state.entry.is_orphaned(now);
        state.removed |= retires;
        retires
    }

    /// Ends the entry whatever it does: a load under way lands for those who wait for it and for nobody else. Says whether it did.
    pub(super) fn revoke(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().removed, true)
    }

    /// Lets go of the credential: moka keeps the memory of what was taken out until other work of its own comes up.
    fn release(&self) {
        let mut state = self.state.lock();
        state.entry.release();
        if !state.entry.is_flying() {
            let ended = Failure::Unavailable("the entry has ended".into());
            state.progress.send_replace(Progress::Landed(Err(ended)));
        }
    }

    pub(super) fn held(&self) -> Option<Arc<Credential>> {
        self.state.lock().entry.held().cloned()
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.state.lock().progress.subscribe()
    }

    pub(super) fn publish(&self, progress: Progress) {
        self.state.lock().progress.send_replace(progress);
    }

    /// Whether a load of it shows if the node's own access works: the node signs it, or it failed for want of access.
    pub(super) fn shows_access(&self) -> bool {
        let lacked_access = || matches!(self.state.lock().entry.last_failure(), Some(Failure::Misconfigured(_)));
        self.key.grant.is_signed_by_node() || lacked_access()
    }

    pub(super) fn newest(&self) -> Arc<Presented> {
        Arc::clone(self.state.lock().entry.newest())
    }

    pub(super) fn expiry_to_watch(&self, now: Now) -> Option<SystemTime> {
        self.state.lock().entry.expiry_to_watch(now)
    }

    pub(super) fn status(&self, now: Now) -> EntryStatus {
        EntryStatus::of(&self.key, &self.state.lock().entry, now)
    }
}

/// All places.
pub(super) struct Slots {
    config: Config,
    kept: AtomicUsize,
    passing: AtomicUsize,
    by_key: moka::sync::Cache<EntryKey, Arc<Slot>, RandomState>,
    metrics: Arc<Metrics>,
}

impl Slots {
    pub(super) fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        let bound = u64::try_from(config.capacity.saturating_add(PASSING_PLACES).saturating_mul(2)).unwrap_or(u64::MAX);
        let by_key = moka::sync::Cache::builder().max_capacity(bound).build_with_hasher(RandomState::default());
        Self { config, kept: AtomicUsize::new(0), passing: AtomicUsize::new(0), by_key, metrics }
    }

    pub(super) fn find(&self, key: &EntryKey) -> Option<Arc<Slot>> {
        self.by_key.get(key)
    }

    /// `None` when there is no place.
    pub(super) fn find_or_add(&self, caller: &Caller, grant: &Grant, now: Now) -> Option<Arc<Slot>> {
        let key = EntryKey { subject: Arc::clone(caller.subject()), grant: grant.clone() };
        if let Some(slot) = self.by_key.get(&key) {
            return Some(slot);
        }
        self.make_room(now);
        let owned = key.clone();
        self.by_key.optionally_get_with(key, || self.place(owned, caller.presented(), now))
    }

    /// The slot that has learnt what another agent knows, in a place of its own if it is new; `None` if there is none to keep it.
    pub(super) fn learn(&self, key: &EntryKey, told: PackedEntry<'_>, now: Now) -> Option<Arc<Slot>> {
        if let Some(slot) = self.by_key.get(key) {
            slot.learn(told, now);
            return Some(slot);
        }
        self.make_room(now);
        let entry = told.unpack(self.config.keeping(true), now)?;
        self.by_key.optionally_get_with(key.clone(), || self.take_kept().then(|| Slot::new(key.clone(), true, entry)))
    }

    /// Takes a slot out whose entry has ended; asks that hold it already are sent to a new one.
    pub(super) fn remove(&self, slot: &Slot, end: End) {
        self.by_key.invalidate(&slot.key);
        slot.release();
        self.give_back(slot.kept);
        self.metrics.cache.evicted(match end {
            End::Lapsed => EvictionCause::Lapsed,
            End::Denied => EvictionCause::Denied,
            End::Revoked => EvictionCause::Revoked,
            End::PodDeleted => EvictionCause::PodDeleted,
            End::Empty | End::Passing => EvictionCause::Unused,
        });
    }

    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.by_key.iter().map(|(_, slot)| slot).collect()
    }

    fn place(&self, key: EntryKey, presented: &Arc<Presented>, now: Now) -> Option<Arc<Slot>> {
        let kept = self.take_kept();
        if !kept && !take_place(&self.passing, PASSING_PLACES) {
            return None;
        }
        Some(Slot::new(key, kept, Entry::new(Arc::clone(presented), self.config.keeping(kept), now)))
    }

    fn take_kept(&self) -> bool {
        let kept = self.config.caches() && take_place(&self.kept, self.config.capacity);
        if kept {
            self.metrics.cache.entries.inc();
        }
        kept
    }

    fn make_room(&self, now: Now) {
        if self.config.caches() && self.kept.load(Ordering::Relaxed) >= self.config.capacity {
            self.drop_orphans(now);
        }
    }

    fn give_back(&self, kept: bool) {
        if kept {
            self.kept.fetch_sub(1, Ordering::Relaxed);
            self.metrics.cache.entries.dec();
        } else {
            self.passing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Entries whose pod can't prove itself any more are the only ones that make room.
    fn drop_orphans(&self, now: Now) {
        for slot in self.all().iter().filter(|slot| slot.retire(now)) {
            self.remove(slot, End::Lapsed);
        }
    }
}

fn take_place(count: &AtomicUsize, most: usize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < most).then_some(taken + 1)).is_ok()
}
