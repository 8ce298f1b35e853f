//! What has been verified, and what has been refused: the hot path.
//!
//! Verified tokens are found by their whole text under a seeded fast hash and compared in full, which takes a seventh of the time
//! of a SHA-256 digest. Only verified tokens are ever inserted, so nobody can plant collisions; and since tokens end in a
//! signature, the time of a comparison helps no one guess one. Refused tokens, which anyone can make, are kept by their digest.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::domain::identity::TokenDigest;
use crate::domain::refusal::{Reason, Refusal};
use crate::token::Caller;

/// Refusals remembered, and for how long.
const REFUSALS: usize = 4_096;
const REFUSAL_AGE: Duration = Duration::from_secs(30);

/// Verified tokens, bounded.
#[derive(Debug)]
pub(super) struct Verified {
    capacity: usize,
    known: RwLock<HashSet<Known, foldhash::fast::RandomState>>,
}

/// A caller, found by its token.
#[derive(Debug)]
struct Known {
    caller: Arc<Caller>,
    /// The key set under which it was verified.
    generation: u64,
}

impl Verified {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), known: RwLock::default() }
    }

    /// Whose token this is, if it was verified under this very key set. Whether it has expired since is for the caller to see.
    pub(super) fn get(&self, token: &[u8], generation: u64) -> Option<Arc<Caller>> {
        let known = self.known.read();
        known.get(token).filter(|known| known.generation == generation).map(|known| Arc::clone(&known.caller))
    }

    /// Remembers a verified token; those that are of no use any more go, and at capacity the one that expires first.
    pub(super) fn insert(&self, caller: Arc<Caller>, generation: u64, now: SystemTime) {
        let mut known = self.known.write();
        known.retain(|known| known.generation >= generation && known.expires_at() > Some(now));
        if known.len() >= self.capacity {
            let first = known.iter().min_by_key(|known| known.expires_at()).map(|known| Arc::clone(&known.caller));
            known.retain(|known| first.as_ref().is_none_or(|first| !Arc::ptr_eq(first, &known.caller)));
        }
        known.replace(Known { caller, generation });
    }
}

impl Known {
    fn expires_at(&self) -> Option<SystemTime> {
        self.caller.presented.expires_at
    }
}

fn token_of(caller: &Caller) -> &[u8] {
    caller.presented.token.expose().as_bytes()
}

impl Borrow<[u8]> for Known {
    fn borrow(&self) -> &[u8] {
        token_of(&self.caller)
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        token_of(&self.caller).hash(state);
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        token_of(&self.caller) == token_of(&other.caller)
    }
}

impl Eq for Known {}

/// Tokens that EKS Auth has taken, while nobody else verifies them. Bounded: the oldest goes first.
#[derive(Debug)]
pub(super) struct Confirmed {
    capacity: usize,
    known: Mutex<ByAge>,
}

#[derive(Debug, Default)]
struct ByAge {
    digests: HashSet<TokenDigest>,
    order: VecDeque<TokenDigest>,
}

impl Confirmed {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), known: Mutex::default() }
    }

    pub(super) fn contains(&self, digest: TokenDigest) -> bool {
        self.known.lock().digests.contains(&digest)
    }

    pub(super) fn insert(&self, digest: TokenDigest) {
        let mut known = self.known.lock();
        if !known.digests.insert(digest) {
            return;
        }
        known.order.push_back(digest);
        if known.order.len() > self.capacity
            && let Some(oldest) = known.order.pop_front()
        {
            known.digests.remove(&oldest);
        }
    }
}

/// Refusals of late, so that a client that insists costs a digest a time.
#[derive(Debug, Default)]
pub(super) struct Refused {
    of_late: Mutex<OfLate>,
}

/// All live equally long, so the oldest is the first to go.
#[derive(Debug, Default)]
struct OfLate {
    refusals: HashMap<TokenDigest, (Refusal, u64)>,
    order: VecDeque<(Instant, TokenDigest)>,
}

impl Refused {
    /// The refusal of this token under this very key set.
    pub(super) fn get(&self, digest: TokenDigest, generation: u64, now: Instant) -> Option<Refusal> {
        let mut of_late = self.of_late.lock();
        of_late.forget(now);
        of_late.refusals.get(&digest).filter(|(_, under)| *under == generation).map(|(refusal, _)| refusal.clone())
    }

    /// Remembers a refusal, unless it may change though neither token nor keys do.
    pub(super) fn insert(&self, digest: TokenDigest, refusal: &Refusal, generation: u64, now: Instant) {
        if !is_lasting(refusal.reason) {
            return;
        }
        let mut of_late = self.of_late.lock();
        if of_late.refusals.insert(digest, (refusal.clone(), generation)).is_none() {
            of_late.order.push_back((now, digest));
        }
        of_late.forget(now);
    }
}

impl OfLate {
    /// Forgets what is too old or too much.
    fn forget(&mut self, now: Instant) {
        while let Some((at, digest)) = self.order.front()
            && (self.order.len() > REFUSALS || now.saturating_duration_since(*at) >= REFUSAL_AGE)
        {
            self.refusals.remove(digest);
            self.order.pop_front();
        }
    }
}

/// Time, new keys and a wall clock that is set right mend the others.
fn is_lasting(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TokenMalformed
            | Reason::Header
            | Reason::Alg
            | Reason::Signature
            | Reason::Claims
            | Reason::Issuer
            | Reason::Audience
            | Reason::Lifetime
            | Reason::Subject
            | Reason::NotPodBound
            | Reason::WrongNode
    )
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::base::clock::Clock;
    use crate::domain::identity::{BearerToken, Presented, Subject};

    fn caller(token: &str, expires: u64) -> Arc<Caller> {
        let token = BearerToken::parse(format!("{token:a<24}").as_bytes()).unwrap();
        let subject = Arc::new(Subject::Delegated(TokenDigest::of(b"")));
        let expires_at = Some(UNIX_EPOCH + Duration::from_secs(expires));
        let presented = Arc::new(Presented { token, expires_at, token_id: String::new() });
        Arc::new(Caller { subject, presented, audience: "a".into() })
    }

    fn remembered(memo: &Verified, token: &str, generation: u64) -> bool {
        memo.get(format!("{token:a<24}").as_bytes(), generation).is_some()
    }

    #[test]
    fn a_hit_is_the_whole_token_of_this_generation() {
        let memo = Verified::new(4);
        memo.insert(caller("x", 100), 7, UNIX_EPOCH);
        assert!(remembered(&memo, "x", 7));
        assert!(!remembered(&memo, "x", 8) && !remembered(&memo, "x", 6) && !remembered(&memo, "y", 7));
        memo.insert(caller("x", 100), 8, UNIX_EPOCH);
        assert!(remembered(&memo, "x", 8));
        assert_eq!(memo.known.read().len(), 1);
    }

    #[test]
    fn the_useless_go_first_then_what_expires_first() {
        let memo = Verified::new(3);
        for (token, expires) in [("late", 300), ("soon", 200), ("gone", 100)] {
            memo.insert(caller(token, expires), 1, UNIX_EPOCH);
        }
        let now = UNIX_EPOCH + Duration::from_secs(100);
        memo.insert(caller("new", 400), 1, now);
        assert!(remembered(&memo, "late", 1) && remembered(&memo, "soon", 1) && remembered(&memo, "new", 1));
        memo.insert(caller("newer", 500), 1, now);
        assert!(!remembered(&memo, "soon", 1) && remembered(&memo, "late", 1));
        memo.insert(caller("other", 500), 2, now);
        assert_eq!(memo.known.read().len(), 1, "what an older key set verified is of no use");
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_bounded_in_number_and_time() {
        let clock = Clock::simulated(UNIX_EPOCH);
        let memo = Refused::default();
        let digest = |number: usize| TokenDigest::of(&number.to_be_bytes());
        for number in 0..=REFUSALS {
            memo.insert(digest(number), &Reason::Signature.into(), 1, clock.now().mono);
            memo.insert(digest(number), &Reason::Signature.into(), 1, clock.now().mono);
        }
        let found = |number, generation| memo.get(digest(number), generation, clock.now().mono).map(|refusal| refusal.reason);
        assert_eq!(found(0, 1), None, "the oldest went");
        assert_eq!(found(1, 1), Some(Reason::Signature));
        assert_eq!(found(1, 2), None, "other keys may change the answer");
        tokio::time::advance(REFUSAL_AGE).await;
        assert_eq!(found(REFUSALS, 1), None);
        assert!(memo.of_late.lock().refusals.is_empty());
    }

    #[test]
    fn what_may_pass_is_not_remembered() {
        for reason in [Reason::KeysUnavailable, Reason::UnknownKid, Reason::NotYetValid, Reason::Expired, Reason::VerifyBudget] {
            assert!(!is_lasting(reason), "{reason:?}");
        }
    }
}
