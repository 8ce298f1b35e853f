//! What is known of one service account, as a pure state machine: every age rule of annotations stands here.
//!
//! An answer of the API server is used for [`REFRESH_AGE`], then used while a new one is fetched, and from [`WAIT_AGE`] on used
//! only after a moment's wait for the new one: so a changed annotation counts within [`WAIT_AGE`]. It ages from when its read
//! began, for nobody knows when on its way it was true. An API server that is away costs that moment once, and takes nothing away:
//! what is known serves until it is back.
//!
//! A UID is never given twice, and a proven token is younger than its account. So a read begun for a token that does not find the
//! token's account means that it is gone for good, and is known like any other answer. For a token of yet another UID it means
//! nothing after a moment: that account may have been made since.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::backoff::doubled;
use crate::domain::policy::{Annotations, Faults};

/// From this age on an answer that is used is fetched anew.
pub(super) const REFRESH_AGE: Duration = Duration::from_secs(30);
/// From this age on the new answer is waited for. An account that nobody asked for in so long is out of use.
const WAIT_AGE: Duration = Duration::from_secs(60);
/// So long after its fetch began, an answer is not waited for any more if there is an older one.
const PATIENCE: Duration = Duration::from_millis(300);
/// What does not count for the caller's UID is asked for again, unless the answer came less than this ago: the account may have
/// been made since. Counted from the answer, not from its read, or who waited for a slow answer could never use it.
const SETTLED: Duration = Duration::from_secs(1);
/// Jittered backoff after a failed fetch: from half of this, doubling.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Its bound where an earlier answer serves, and where callers are refused meanwhile.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
const LONGEST_BACKOFF_UNKNOWN: Duration = Duration::from_secs(4);

/// A service account as the API server has it.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// `metadata.uid`.
    pub uid: String,
    /// What its annotations ask for, or what is wrong with them.
    pub annotations: Result<Annotations, Faults>,
}

/// An answer of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The account as it is.
    Present(Arc<ServiceAccount>),
    /// There is no such account.
    Absent,
}

/// The state of one account.
#[derive(Debug, Default)]
pub(super) struct Account {
    known: Option<Known>,
    fetching: Option<Fetch>,
    last_asked: Option<Instant>,
    setback: Option<Setback>,
}

/// The fetch under way.
#[derive(Debug)]
struct Fetch {
    began: Instant,
    /// The UID of who began it.
    uid: Option<Arc<str>>,
}

#[derive(Debug)]
struct Known {
    answer: Answer,
    /// When its read began.
    at: Instant,
    landed_at: Instant,
    /// The UID that it was read for.
    read_for: Option<Arc<str>>,
}

#[derive(Debug)]
struct Setback {
    error: Arc<str>,
    in_a_row: u32,
    until: Instant,
}

/// What is known, for one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The account.
    pub account: Answer,
    /// Asking again before this brings nothing new.
    pub look_again: Instant,
}

/// What an ask gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Get {
    /// This, at once.
    Known(Found),
    /// This, unless the fetch under way lands before the instant given: then ask again.
    KnownAfter(Found, Instant),
    /// Whatever the fetch under way brings.
    Wait,
    /// Nothing, for a failure remembered so long.
    Failed(Arc<str>, Duration),
}

impl Account {
    /// Somebody asks, by a token of the account with this UID; the UID is unknown where AWS verified the token. Says also whether
    /// this begins a fetch, which the shell now runs.
    pub(super) fn ask(&mut self, uid: Option<&str>, now: Instant) -> (Get, bool) {
        self.last_asked = Some(now);
        let rest = self.rest(now);
        let begins = self.is_due(uid, now) && self.fetching.is_none() && rest.is_none();
        if begins {
            self.fetching = Some(Fetch { began: now, uid: uid.map(Arc::from) });
        }
        let get = match (self.usable(uid, now), self.patience(now)) {
            (Some(known), Some(until)) if known.age(now) >= WAIT_AGE => Get::KnownAfter(self.found(known, uid), until),
            (Some(known), _) => Get::Known(self.found(known, uid)),
            (None, _) => rest.map_or(Get::Wait, |(error, left)| Get::Failed(error, left)),
        };
        (get, begins)
    }

    /// A fetch ended; `roll` is uniform in 0…1. Says whether it changed what was known.
    pub(super) fn landed(&mut self, result: Result<Answer, Arc<str>>, roll: f64, now: Instant) -> bool {
        let (at, read_for) = self.fetching.take().map_or((now, None), |fetch| (fetch.began, fetch.uid));
        match result {
            Ok(answer) => {
                self.setback = None;
                let changed = self.known.as_ref().is_some_and(|known| known.answer != answer);
                self.known = Some(Known { answer, at, landed_at: now, read_for });
                changed
            }
            Err(error) => {
                self.failed(error, roll, now);
                false
            }
        }
    }

    /// The last answer, however old.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.known.as_ref().map(|known| &known.answer)
    }

    /// Whether somebody asked of late.
    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        self.last_asked.is_some_and(|asked| now.saturating_duration_since(asked) < WAIT_AGE)
    }

    /// How old the last answer is.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.known.as_ref().map(|known| known.age(now))
    }

    /// The last failure, if nothing has gone well since.
    pub(super) fn error(&self) -> Option<&Arc<str>> {
        self.setback.as_ref().map(|setback| &setback.error)
    }

    fn is_due(&self, uid: Option<&str>, now: Instant) -> bool {
        self.usable(uid, now).is_none_or(|known| known.age(now) >= REFRESH_AGE)
    }

    /// What is known, unless the account may have been made anew since: the caller's token may be newer than the answer.
    fn usable(&self, uid: Option<&str>, now: Instant) -> Option<&Known> {
        self.known.as_ref().filter(|known| known.counts_for(uid) || now < known.settled_until())
    }

    /// Until when the fetch under way is worth a wait. After one that has failed it is not.
    fn patience(&self, now: Instant) -> Option<Instant> {
        self.fetching.as_ref().map(|fetch| fetch.began + PATIENCE).filter(|until| now < *until && self.setback.is_none())
    }

    fn found(&self, known: &Known, uid: Option<&str>) -> Found {
        let refresh = if known.counts_for(uid) { known.at + REFRESH_AGE } else { known.settled_until() };
        let look_again = self.setback.as_ref().map_or(refresh, |setback| setback.until.max(refresh));
        Found { account: known.answer.clone(), look_again }
    }

    /// The failure that is not to be tried again yet, and for how long.
    fn rest(&self, now: Instant) -> Option<(Arc<str>, Duration)> {
        let setback = self.setback.as_ref()?;
        let left = setback.until.saturating_duration_since(now);
        (!left.is_zero()).then(|| (Arc::clone(&setback.error), left))
    }

    fn failed(&mut self, error: Arc<str>, roll: f64, now: Instant) {
        let in_a_row = self.setback.as_ref().map_or(0, |setback| setback.in_a_row).saturating_add(1);
        let longest = if self.known.is_some() { LONGEST_BACKOFF } else { LONGEST_BACKOFF_UNKNOWN };
        let pause = doubled(FIRST_BACKOFF, in_a_row, longest).mul_f64(roll.mul_add(0.5, 0.5));
        self.setback = Some(Setback { error, in_a_row, until: now + pause });
    }
}

impl Known {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }

    fn settled_until(&self) -> Instant {
        self.landed_at + SETTLED
    }

    /// Whether it tells of the account with this UID: what it is, or that it is gone.
    fn counts_for(&self, uid: Option<&str>) -> bool {
        let Some(uid) = uid else { return true };
        let is_its_own = matches!(&self.answer, Answer::Present(account) if account.uid == uid);
        is_its_own || self.read_for.as_deref() == Some(uid)
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
