//! The life of one credential, as a pure state machine: every age rule of the cache stands here and nowhere else.
//!
//! Nothing here waits, locks or calls. An entry is told what happened ([`Entry::ask`], [`Entry::landed`], [`Entry::wake`],
//! [`Entry::learn`]) and at what time, and answers what to do. The shell around it ([`crate::cache::flight`], [`crate::cache::refresh`]) does it.
//!
//! The promise behind the rules: while AWS is well, everything served has [`crate::domain::credential::FRESH_LIFE`] left; while it is not, what is held
//! goes on being served until [`LEAST_SERVED_LIFE`] is all that remains.

pub(super) mod told;

use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::base::backoff::doubled;
use crate::base::clock::Now;
use crate::domain::credential::{Credential, LEAST_SERVED_LIFE};
use crate::domain::identity::Presented;
use crate::domain::mint::{DEFAULT_REST, Failure, Urgency};

/// A renewal runs at this share of a credential's life, give or take [`JITTER`] of it, so that a node's entries spread out.
const RENEW_AT_SHARE: f64 = 0.5;
const JITTER: f64 = 0.1;
/// A request that meets a running renewal of something still servable waits this long after the renewal began.
const RENEWAL_PATIENCE: Duration = Duration::from_millis(500);
/// A refusal by AWS is asked again after this, doubling to [`LONGEST_DENIAL`]; with something held, the second one counts.
const FIRST_DENIAL: Duration = Duration::from_secs(5);
const LONGEST_DENIAL: Duration = Duration::from_secs(60);
/// Full-jitter backoff after AWS was not there: up to this, doubling to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// After a fault of the agent's own access: short, since an operator who mends it is waiting.
const MISCONFIGURED_PAUSE: Duration = Duration::from_secs(5);
/// Between renewals that end in nonsense. Requests that find nothing held ask at once: nonsense is not remembered.
const BUG_PAUSE: Duration = Duration::from_secs(30);
/// An entry that holds nothing is forgotten so long after anybody asked; a refusal's doubling lasts that long.
const EMPTY_RETENTION: Duration = Duration::from_secs(120);
/// An entry that nobody asked for in so many lifetimes is not renewed.
const IDLE_LIFETIMES: u32 = 2;
/// With no room to keep it, a credential is held so long after it came, so that the retry of a client that had to be put off finds
/// it.
const PASSING_RETENTION: Duration = Duration::from_secs(5);

/// What the operator decided about keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keeping {
    /// Whether there is room to keep what was fetched, or it is handed out and forgotten.
    pub(super) kept: bool,
    /// Renew at the latest after this, whatever the lifetime.
    pub(super) longest: Option<Duration>,
}

/// One credential's state.
#[derive(Debug)]
pub(super) struct Entry {
    keeping: Keeping,
    landed_at: Instant,
    held: Option<Held>,
    newest: Arc<Presented>,
    asked_at: Instant,
    flight: Option<Flight>,
    setback: Option<Setback>,
    unconfirmed_denial: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    credential: Arc<Credential>,
    renew_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    began: Instant,
}

/// The last failure, how many came in a row, and until when nobody tries again.
#[derive(Debug)]
struct Setback {
    failure: Failure,
    in_a_row: u32,
    until: Instant,
}

/// What a request gets.
#[derive(Debug)]
pub(super) enum Answer {
    /// This, at once.
    Serve(Arc<Credential>),
    /// This, unless the load under way brings a newer one before `until`.
    ServeAfter {
        /// Valid, but with less than [`crate::domain::credential::FRESH_LIFE`] left.
        held: Arc<Credential>,
        /// When the patience with the renewal ends.
        until: Instant,
    },
    /// Whatever the load under way brings.
    Wait,
    /// Nothing, for a reason remembered until then.
    Refuse(Failure, Duration),
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Asked {
    /// What it gets.
    pub(super) answer: Answer,
    /// Whether it began a load, which the shell now runs.
    pub(super) begins: bool,
    /// Whether it woke an entry that was left to lapse, so that its next renewal has to be planned.
    pub(super) revives: bool,
}

/// What the background does with an entry whose timer went off.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Begin a renewal that was due at the instant given.
    Renew(Urgency, Instant),
    /// Look again then.
    Sleep(Instant),
    /// A load is under way; its landing sets the next timer.
    Flying,
    /// Forget the entry.
    Drop(End),
}

/// Why an entry ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// What it held has ended and nobody wants another one.
    Lapsed,
    /// It held nothing, for AWS refused.
    Denied,
    /// It held nothing.
    Empty,
    /// There was no room to keep it.
    Passing,
    /// Its grant was taken back.
    Revoked,
    /// Its pod was deleted.
    PodDeleted,
}

/// What a landing changed, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    /// The new credential is held.
    Renewed,
    /// Nothing was held, and nothing is.
    Refused,
    /// What was held goes on being served.
    Kept,
    /// AWS refused while something was held; a second refusal will count.
    Unconfirmed,
    /// AWS refused a second time: what was held is dropped.
    Dropped,
}

impl Entry {
    /// An entry that holds nothing, asked for at `now` with this token.
    #[must_use]
    pub(super) fn new(presented: Arc<Presented>, keeping: Keeping, now: Now) -> Self {
        Self {
            keeping,
            landed_at: now.mono,
            held: None,
            newest: presented,
            asked_at: now.mono,
            flight: None,
            setback: None,
            unconfirmed_denial: None,
        }
    }

    /// A request came.
    pub(super) fn ask(&mut self, presented: &Arc<Presented>, now: Now) -> Asked {
        let revives = self.is_dormant(now);
        self.asked_at = now.mono;
        // Of the same one twice, the one that others here hold too: a copy that another agent told is one too many.
        if presented.expires_at >= self.newest.expires_at && !Arc::ptr_eq(presented, &self.newest) {
            self.newest = Arc::clone(presented);
        }
        let (answer, begins) = match self.servable(now) {
            Some(held) if held.is_aging(now) => self.ask_aging(held, now),
            Some(held) => (Answer::Serve(held), false),
            None => self.ask_empty(now),
        };
        Asked { answer, begins, revives }
    }

    /// A load ended.
    pub(super) fn landed(&mut self, result: Result<Arc<Credential>, Failure>, roll: f64, now: Now) -> Landed {
        self.flight = None;
        self.landed_at = now.mono;
        match result {
            Ok(credential) => {
                self.setback = None;
                self.unconfirmed_denial = None;
                let life = life_until_renewal(&credential, roll).min(self.keeping.longest.unwrap_or(Duration::MAX));
                self.held = Some(Held { renew_at: now.mono + life, credential });
                Landed::Renewed
            }
            Err(failure) => self.failed(failure, roll, now),
        }
    }

    /// The entry's timer went off. [`Wake::Renew`] leaves the start to [`Entry::begin_renewal`].
    pub(super) fn wake(&mut self, now: Now) -> Wake {
        if self.flight.is_some() {
            return Wake::Flying;
        }
        match &self.held {
            _ if !self.keeping.kept => self.wake_passing(now),
            Some(held) if held.credential.is_servable(now) => self.wake_held(held, now),
            Some(_) => Wake::Drop(End::Lapsed),
            None => self.wake_empty(now),
        }
    }

    /// Marks a renewal as under way, unless a load is already.
    pub(super) fn begin_renewal(&mut self, now: Now) -> bool {
        let free = self.flight.is_none();
        if free {
            self.flight = Some(Flight { began: now.mono });
        }
        free
    }

    /// The entry has ended: lets go of what is held.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// The newest token: what the next load presents.
    #[must_use]
    pub(super) fn newest(&self) -> &Arc<Presented> {
        &self.newest
    }

    /// What is held, valid or not.
    #[must_use]
    pub(super) fn held(&self) -> Option<&Arc<Credential>> {
        self.held.as_ref().map(|held| &held.credential)
    }

    /// The last failure, if nothing has gone well since.
    #[must_use]
    pub(super) fn last_failure(&self) -> Option<&Failure> {
        self.setback.as_ref().map(|setback| &setback.failure)
    }

    /// When the next renewal is due, if one is planned.
    #[must_use]
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| self.not_before_setback(held.renew_at))
    }

    /// When what is held ends, if it is to be renewed before.
    #[must_use]
    pub(super) fn expiry_to_watch(&self, now: Now) -> Option<SystemTime> {
        self.held().filter(|_| self.keeping.kept && !self.is_dormant(now)).map(|held| held.expires_at())
    }

    /// Whether a load is under way.
    #[must_use]
    pub(super) fn is_flying(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether the pod's newest token has ended, so that the pod is gone or at least can't prove itself.
    #[must_use]
    pub(super) fn is_orphaned(&self, now: Now) -> bool {
        self.newest.expires_at.is_some_and(|end| end <= now.wall)
    }

    fn servable(&self, now: Now) -> Option<Arc<Credential>> {
        self.held().filter(|credential| credential.is_servable(now)).cloned()
    }

    fn ask_aging(&mut self, held: Arc<Credential>, now: Now) -> (Answer, bool) {
        let begins = self.flight.is_none() && self.resting(now).is_none();
        if begins {
            self.flight = Some(Flight { began: now.mono });
        }
        let patience = self.flight.map(|flight| flight.began + RENEWAL_PATIENCE);
        match patience.filter(|until| *until > now.mono) {
            Some(until) => (Answer::ServeAfter { held, until }, begins),
            None => (Answer::Serve(held), false),
        }
    }

    fn ask_empty(&mut self, now: Now) -> (Answer, bool) {
        if self.flight.is_some() {
            return (Answer::Wait, false);
        }
        match self.resting(now) {
            Some((setback, left)) if !matches!(setback.failure, Failure::Bug(_)) => {
                (Answer::Refuse(setback.failure.clone(), left), false)
            }
            _ => {
                self.flight = Some(Flight { began: now.mono });
                (Answer::Wait, true)
            }
        }
    }

    /// The setback that is not over yet, and what is left of it.
    fn resting(&self, now: Now) -> Option<(&Setback, Duration)> {
        let setback = self.setback.as_ref()?;
        let left = setback.until.saturating_duration_since(now.mono);
        (!left.is_zero()).then_some((setback, left))
    }

    fn failed(&mut self, failure: Failure, roll: f64, now: Now) -> Landed {
        let same = |setback: &&Setback| discriminant(&setback.failure) == discriminant(&failure);
        let in_a_row = self.setback.as_ref().filter(same).map_or(0, |setback| setback.in_a_row).saturating_add(1);
        let denied = matches!(failure, Failure::Denied(_));
        let until = now.mono + pause_after(&failure, in_a_row, roll);
        self.setback = Some(Setback { failure, in_a_row, until });
        if self.servable(now).is_none() {
            self.held = None;
            return Landed::Refused;
        }
        if !denied {
            return Landed::Kept;
        }
        let first = *self.unconfirmed_denial.get_or_insert(now.mono);
        if now.mono.saturating_duration_since(first) < FIRST_DENIAL {
            return Landed::Unconfirmed;
        }
        self.held = None;
        Landed::Dropped
    }

    fn wake_held(&self, held: &Held, now: Now) -> Wake {
        let end = now.mono + now.until(held.credential.expires_at()).saturating_sub(LEAST_SERVED_LIFE);
        if self.is_dormant(now) {
            return Wake::Sleep(end);
        }
        let due = self.not_before_setback(held.renew_at);
        if due > now.mono {
            return Wake::Sleep(due.min(end));
        }
        let urgency = if held.credential.is_aging(now) { Urgency::DueSoon } else { Urgency::Background };
        Wake::Renew(urgency, held.renew_at)
    }

    fn wake_passing(&self, now: Now) -> Wake {
        let end = self.not_before_setback(self.landed_at + PASSING_RETENTION);
        if end > now.mono { Wake::Sleep(end) } else { Wake::Drop(End::Passing) }
    }

    fn wake_empty(&self, now: Now) -> Wake {
        let end = self.not_before_setback(self.asked_at + EMPTY_RETENTION);
        if end > now.mono {
            return Wake::Sleep(end);
        }
        Wake::Drop(match self.last_failure() {
            Some(Failure::Denied(_)) => End::Denied,
            _ => End::Empty,
        })
    }

    /// Whether what is held is left to lapse: nobody has asked for long, or whoever asked can't prove itself any more.
    fn is_dormant(&self, now: Now) -> bool {
        let unasked = now.mono.saturating_duration_since(self.asked_at);
        self.held().is_some_and(|held| self.is_orphaned(now) || unasked >= held.lifetime() * IDLE_LIFETIMES)
    }

    fn not_before_setback(&self, at: Instant) -> Instant {
        self.setback.as_ref().map_or(at, |setback| at.max(setback.until))
    }
}

/// `roll` is uniform in 0…1.
fn life_until_renewal(credential: &Credential, roll: f64) -> Duration {
    let share = JITTER.mul_add(roll.mul_add(2.0, -1.0), 1.0) * RENEW_AT_SHARE;
    credential.lifetime().mul_f64(share)
}

fn pause_after(failure: &Failure, in_a_row: u32, roll: f64) -> Duration {
    match failure {
        Failure::Denied(_) => doubled(FIRST_DENIAL, in_a_row, LONGEST_DENIAL),
        Failure::Throttled { retry_after } => retry_after.unwrap_or(DEFAULT_REST),
        Failure::Unavailable(_) => doubled(FIRST_BACKOFF, in_a_row, LONGEST_BACKOFF).mul_f64(roll),
        Failure::Misconfigured(_) => MISCONFIGURED_PAUSE,
        Failure::Bug(_) => BUG_PAUSE,
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "entry_model.rs"]
mod model;
#[cfg(test)]
#[path = "entry_model_tests.rs"]
mod model_tests;
