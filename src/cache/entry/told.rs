//! What one agent tells another of an entry, and what that makes of it.
//!
//! Both may hold the entry, and either may know more: what is newer stays, whoever has it. Instants mean nothing to another
//! process, so times since and times left are told.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::cache::entry::{Entry, FIRST_DENIAL, Held, Keeping, Setback};
use crate::domain::credential::{Credential, LONGEST_LIFE, PackedCredential};
use crate::domain::identity::PackedPresented;
use crate::domain::mint::Failure;

/// An entry as it is told.
#[derive(Serialize, Deserialize)]
pub(in crate::cache) struct PackedEntry<'a> {
    #[serde(borrow)]
    newest: PackedPresented<'a>,
    #[serde(borrow)]
    held: Option<PackedHeld<'a>>,
    unasked_for: Duration,
    setback: Option<PackedSetback>,
    denied_for: Option<Duration>,
}

#[derive(Serialize, Deserialize)]
struct PackedHeld<'a> {
    #[serde(borrow)]
    credential: PackedCredential<'a>,
    renewal_in: Duration,
}

#[derive(Serialize, Deserialize)]
struct PackedSetback {
    failure: Failure,
    in_a_row: u32,
    rest: Duration,
}

impl PackedEntry<'_> {
    /// An entry of which nothing is known but this; `None` if that is worth no place.
    pub(in crate::cache) fn unpack(self, keeping: Keeping, now: Now) -> Option<Entry> {
        let asked = Now { mono: ago(now, self.unasked_for), ..now };
        let mut entry = Entry::new(Arc::new(self.newest.unpack()?), keeping, asked);
        entry.learn(self, now);
        entry.has_news(now).then_some(entry)
    }
}

impl Entry {
    /// All that another agent should know.
    pub(in crate::cache) fn pack(&self, now: Now) -> PackedEntry<'_> {
        let since = |at: Instant| now.mono.saturating_duration_since(at);
        let held = self.held.as_ref().filter(|held| held.credential.is_servable(now));
        PackedEntry {
            newest: (&*self.newest).into(),
            held: held.map(|held| PackedHeld {
                credential: (&*held.credential).into(),
                renewal_in: held.renew_at.saturating_duration_since(now.mono),
            }),
            unasked_for: since(self.asked_at),
            setback: self.resting(now).map(|(setback, rest)| PackedSetback {
                failure: setback.failure.clone(),
                in_a_row: setback.in_a_row,
                rest,
            }),
            denied_for: self.unconfirmed_denial.map(since),
        }
    }

    /// Whether there is anything to tell, or to keep: a credential that may be served, or a failure that is not to be met again.
    pub(in crate::cache) fn has_news(&self, now: Now) -> bool {
        self.servable(now).is_some() || self.resting(now).is_some()
    }

    /// Learns what another agent knows. Failures of one that held something older say nothing about what is held here.
    pub(in crate::cache) fn learn(&mut self, told: PackedEntry<'_>, now: Now) {
        if let Some(newer) = told.newest.unpack().filter(|presented| presented.expires_at > self.newest.expires_at) {
            self.newest = Arc::new(newer);
        }
        self.asked_at = self.asked_at.max(ago(now, told.unasked_for));
        if told.held.is_none() && told.denied_for.is_some_and(|since| self.is_refused_since(since, now)) {
            self.held = None;
        }
        let theirs = told.held.map(|held| (Arc::new(held.credential.unpack()), held.renewal_in));
        let outdated = match (&theirs, self.held()) {
            (Some((theirs, _)), Some(ours)) => theirs.obtained_at() < ours.obtained_at(),
            (None, _) | (_, None) => false,
        };
        if let Some((credential, renewal_in)) = theirs {
            self.hold_newer(credential, renewal_in, now);
        }
        if !outdated {
            self.learn_failures(told.setback, told.denied_for, now);
        }
    }

    /// What a load need not be made for: what is held has long to live, or AWS has said when to ask again.
    pub(in crate::cache) fn known(&self, now: Now) -> Option<Result<Arc<Credential>, Failure>> {
        if let Some(fresh) = self.servable(now).filter(|held| !held.is_aging(now)) {
            return Some(Ok(fresh));
        }
        let (setback, _) = self.resting(now)?;
        matches!(setback.failure, Failure::Denied(_) | Failure::Throttled { retry_after: Some(_) })
            .then(|| Err(setback.failure.clone()))
    }

    /// A load ended that another agent made: what came of it has been learnt.
    pub(in crate::cache) fn concluded(&mut self) {
        self.flight = None;
    }

    /// Whether what is held came before a refusal that was first met so long ago, which is long enough to be confirmed: who told of
    /// it has let go of the same.
    fn is_refused_since(&self, since: Duration, now: Now) -> bool {
        let older = |held: &Arc<Credential>| held.obtained_at().checked_add(since).is_none_or(|end| end < now.wall);
        since >= FIRST_DENIAL && self.held().is_some_and(older)
    }

    fn hold_newer(&mut self, credential: Arc<Credential>, renewal_in: Duration, now: Now) {
        let newer = self.held().is_none_or(|ours| credential.obtained_at() > ours.obtained_at());
        let plausible = now.until(credential.expires_at()).max(credential.lifetime()) <= LONGEST_LIFE;
        if newer && plausible && credential.is_servable(now) {
            let life = renewal_in.min(credential.lifetime()).min(self.keeping.longest.unwrap_or(Duration::MAX));
            self.held = Some(Held { credential, renew_at: now.mono + life });
            self.landed_at = now.mono;
            (self.setback, self.unconfirmed_denial) = (None, None);
        }
    }

    fn learn_failures(&mut self, setback: Option<PackedSetback>, denied_for: Option<Duration>, now: Now) {
        if let Some(PackedSetback { failure, in_a_row, rest }) = setback {
            let until = now.mono + rest.min(LONGEST_LIFE);
            if self.setback.as_ref().is_none_or(|ours| ours.until < until) {
                self.setback = Some(Setback { failure, in_a_row, until });
            }
        }
        let denied = denied_for.map(|since| ago(now, since));
        self.unconfirmed_denial = self.unconfirmed_denial.or(denied);
    }
}

/// The present, where the clock does not reach back so far.
fn ago(now: Now, since: Duration) -> Instant {
    now.mono.checked_sub(since).unwrap_or(now.mono)
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
