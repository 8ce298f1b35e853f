//! Credentials by pod and grant: the rules are in `entry`, the loads in `flight`, the timers in `refresh`, what agents tell each
//! other in `transfer`.
//!
//! The key is what was verified, never the token's text, so that a token the kubelet rotated is a hit; and never the service
//! account alone, since EKS Auth stamps the pod's name and UID into the session. A load belongs to the process: it goes on when
//! the client that caused it hangs up, and lands here for the client's next try.

mod entry;
mod flight;
mod key;
mod refresh;
mod slots;
pub mod status;
mod transfer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::cache::entry::{Answer, Asked, End, Keeping};
use crate::cache::key::EntryKey;
use crate::cache::refresh::Pause;
use crate::cache::slots::{Progress, Slot, Slots};
use crate::cache::transfer::Transfer;
use crate::domain::credential::Credential;
use crate::domain::identity::Subject;
use crate::domain::mint::{Failure, Mint, Urgency};
use crate::domain::policy::Grant;
use crate::observe::Context;
use crate::token::Caller;

/// From the complete head of a request to when its wait for a load ends; 50 ms of the 900 are left for the answer.
const WAIT: Duration = Duration::from_millis(850);

/// `--max-cache-size` and `--max-credential-retention-before-renewal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Entries kept; 0 keeps none.
    pub capacity: usize,
    /// Renew at the latest after this.
    pub longest_retention: Option<Duration>,
}

pub use transfer::Expectation;

/// The cache. Clones share it.
#[derive(Debug, Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

/// What the cache, its flights and its refresher share.
struct Shared {
    mint: Arc<dyn Mint>,
    slots: Slots,
    pause: Pause,
    timers: mpsc::UnboundedSender<EntryKey>,
    transfer: Transfer,
    context: Context,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// A credential, and how it came.
#[derive(Debug, Clone)]
pub struct Found {
    /// Servable when it was found.
    pub credential: Arc<Credential>,
    /// How it came.
    pub how: How,
}

/// How a credential came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was held.
    Held,
    /// It was waited for.
    Loaded,
    /// It was held with little life left, and its renewal has not come through.
    Stale,
}

/// Why there is no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Its load failed.
    #[error("{failure}")]
    Failed {
        /// How.
        failure: Failure,
        /// How long the failure is remembered; `None` if a new load may begin at once.
        remembered: Option<Duration>,
    },
    /// Its load has not ended yet, and goes on.
    #[error("AWS has not answered yet")]
    Pending,
    /// There is no room, not even for the moment that a load takes.
    #[error("the cache is full")]
    Full,
}

impl Cache {
    /// An empty cache; its refresher runs until shutdown.
    #[must_use]
    pub fn new(config: Config, mint: Arc<dyn Mint>, context: Context) -> Self {
        let (timers, due) = mpsc::unbounded_channel();
        let slots = Slots::new(config, Arc::clone(&context.metrics));
        let shared = Arc::new(Shared { mint, slots, pause: Pause::default(), timers, transfer: Transfer::default(), context });
        shared.context.tasks.spawn_critical("refresh", refresh::run(Arc::clone(&shared), due));
        Self { shared }
    }

    /// The credential that `grant` gives `caller`, for a request whose head was complete at `asked`.
    ///
    /// # Errors
    /// [`Missing`] when there is none in time.
    pub async fn credential(&self, caller: &Caller, grant: &Grant, asked: Now) -> Result<Found, Missing> {
        let (slot, answer, now) = self.ask(caller, grant)?;
        let wait_until = asked.mono + WAIT;
        match answer {
            Answer::Serve(credential) => Ok(Found::held(credential, now)),
            Answer::Refuse(failure, left) => Err(Missing::Failed { failure, remembered: Some(left) }),
            Answer::Wait => Box::pin(self.await_load(&slot, wait_until)).await,
            Answer::ServeAfter { held, until } => {
                let loaded = Box::pin(self.await_load(&slot, until.min(wait_until))).await;
                loaded.or_else(|missing| self.fall_back(held, missing))
            }
        }
    }

    /// Drops every entry that is not `granted` any more, given its subject, its grant and what is held, and says how many went.
    ///
    /// Who waits for a load of such an entry asked while it was granted, and gets what the load brings; nobody else finds it.
    pub fn revoke(&self, granted: impl Fn(&Subject, &Grant, Option<&Credential>) -> bool) -> usize {
        let slots = self.shared.slots.all();
        let lost = |slot: &&Arc<Slot>| !granted(&slot.key.subject, &slot.key.grant, slot.held().as_deref()) && slot.revoke();
        slots.iter().filter(lost).inspect(|slot| self.shared.slots.remove(slot, End::Revoked)).count()
    }

    /// Drops every entry of the pod with this UID, which has been deleted: it is served no more and not renewed.
    pub fn drop_pod(&self, uid: &str) {
        let is_its = |slot: &&Arc<Slot>| slot.key.subject.identity().is_some_and(|identity| identity.pod_uid == uid);
        for slot in self.shared.slots.all().iter().filter(is_its).filter(|slot| slot.revoke()) {
            self.shared.slots.remove(slot, End::PodDeleted);
        }
    }

    /// Every entry's state, for operators.
    #[must_use]
    pub fn status(&self) -> Vec<status::EntryStatus> {
        let now = self.shared.context.clock.now();
        self.shared.slots.all().iter().map(|slot| slot.status(now)).collect()
    }

    /// When the first of all credentials ends that are to be renewed before.
    #[must_use]
    pub fn earliest_expiry(&self) -> Option<SystemTime> {
        let now = self.shared.context.clock.now();
        self.shared.slots.all().iter().filter_map(|slot| slot.expiry_to_watch(now)).min()
    }

    /// Asks the entry, which a concurrent removal may have ended: then a new one.
    fn ask(&self, caller: &Caller, grant: &Grant) -> Result<(Arc<Slot>, Answer, Now), Missing> {
        loop {
            let now = self.shared.context.clock.now();
            let slot = self.shared.slots.find_or_add(caller, grant, now).ok_or(Missing::Full)?;
            let Some(Asked { answer, begins, revives }) = slot.ask(caller.presented(), now) else { continue };
            if begins {
                flight::launch(&self.shared, &slot, Urgency::Foreground);
            }
            if revives {
                self.shared.plan(&slot);
            }
            return Ok((slot, answer, now));
        }
    }

    fn fall_back(&self, held: Arc<Credential>, missing: Missing) -> Result<Found, Missing> {
        if held.is_servable(self.shared.context.clock.now()) {
            Ok(Found { credential: held, how: How::Stale })
        } else {
            Err(missing)
        }
    }

    async fn await_load(&self, slot: &Slot, until: Instant) -> Result<Found, Missing> {
        let mut progress = slot.progress();
        let ended = progress.wait_for(|progress| matches!(progress, Progress::Landed(_)));
        match tokio::time::timeout_at(until, ended).await.map(|ended| ended.map(|progress| landing(&progress))) {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(Missing::Pending),
            Err(_) => Err(so_far(&progress)),
        }
    }
}

impl Found {
    fn held(credential: Arc<Credential>, now: Now) -> Self {
        let how = if credential.is_aging(now) { How::Stale } else { How::Held };
        Self { credential, how }
    }
}

impl Shared {
    /// Has the refresher look at the entry: something has changed when it is due.
    fn plan(&self, slot: &Slot) {
        // The refresher ends with the process; then nothing is renewed any more anyway.
        let _ = self.timers.send(slot.key.clone());
    }
}

fn landing(progress: &Progress) -> Result<Found, Missing> {
    match progress {
        Progress::Landed(Ok(credential)) => Ok(Found { credential: Arc::clone(credential), how: How::Loaded }),
        Progress::Landed(Err(failure)) => Err(Missing::Failed { failure: failure.clone(), remembered: None }),
        Progress::Flying(_) => Err(Missing::Pending),
    }
}

/// A load that goes on after a failed attempt: the failure says more than that time is up.
fn so_far(progress: &watch::Receiver<Progress>) -> Missing {
    match &*progress.borrow() {
        Progress::Flying(Some(failure)) => Missing::Failed { failure: failure.clone(), remembered: None },
        Progress::Flying(None) | Progress::Landed(_) => Missing::Pending,
    }
}

impl Config {
    fn keeping(self, kept: bool) -> Keeping {
        Keeping { kept, longest: self.longest_retention }
    }

    fn caches(self) -> bool {
        self.capacity > 0 && self.longest_retention.is_none_or(|longest| !longest.is_zero())
    }
}

#[cfg(test)]
mod tests;
