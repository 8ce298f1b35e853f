//! The policy in force and what was decided by it: the hot path.
//!
//! A grant follows from the caller's identity, the audience of its token, the NAME it asks for, the policy and the annotations of
//! its service account. The first three are compared in full; when one of the others changes, everything is forgotten. Refusals
//! are not kept: they are rare, and whoever mends a policy wants to see it.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::domain::identity::Subject;
use crate::domain::policy::{Grant, Policy};
use crate::token::Caller;

/// Callers remembered: many times the pods of a node. With one more all are forgotten, which costs each of them a decision.
const CALLERS: usize = 4_096;

/// Decisions by the policy in force.
#[derive(Debug)]
pub(super) struct Memo {
    in_force: RwLock<InForce>,
}

#[derive(Debug)]
struct InForce {
    policy: Arc<Policy>,
    /// Counts the changes of policy and annotations.
    epoch: u64,
    decided: HashMap<Arc<Subject>, Vec<Decision>, RandomState>,
}

#[derive(Debug)]
struct Decision {
    grant: Grant,
    /// When what it follows from has to be looked at again; `None`: not before a change is told.
    until: Option<Instant>,
}

/// What a decision is made on.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) policy: Arc<Policy>,
    epoch: u64,
}

impl Memo {
    pub(super) fn new(policy: Arc<Policy>) -> Self {
        Self { in_force: RwLock::new(InForce { policy, epoch: 0, decided: HashMap::default() }) }
    }

    /// What was decided for `caller` and `target`.
    pub(super) fn recall(&self, caller: &Caller, target: Option<&str>, now: Instant) -> Option<Grant> {
        let in_force = self.in_force.read();
        let mut decisions = in_force.decided.get(caller.subject())?.iter();
        decisions.find(|decision| decision.answers(caller, target, now)).map(|decision| decision.grant.clone())
    }

    /// What to decide on now.
    pub(super) fn basis(&self) -> Basis {
        let in_force = self.in_force.read();
        Basis { policy: Arc::clone(&in_force.policy), epoch: in_force.epoch }
    }

    /// Remembers a decision made on `basis`, unless that has changed meanwhile.
    pub(super) fn remember(&self, subject: &Arc<Subject>, grant: &Grant, until: Option<Instant>, basis: &Basis) {
        let mut in_force = self.in_force.write();
        if in_force.epoch != basis.epoch {
            return;
        }
        if in_force.decided.len() >= CALLERS && !in_force.decided.contains_key(subject) {
            in_force.decided.clear();
        }
        let decisions = in_force.decided.entry(Arc::clone(subject)).or_default();
        decisions.retain(|earlier| !earlier.is_like(grant));
        decisions.push(Decision { grant: grant.clone(), until });
    }

    /// The policy has changed.
    pub(super) fn adopt(&self, policy: Arc<Policy>) {
        let mut in_force = self.in_force.write();
        in_force.policy = policy;
        in_force.forget();
    }

    /// Something else has changed that decisions follow from.
    pub(super) fn forget(&self) {
        self.in_force.write().forget();
    }
}

impl InForce {
    fn forget(&mut self) {
        self.epoch += 1;
        self.decided.clear();
    }
}

impl Decision {
    fn answers(&self, caller: &Caller, target: Option<&str>, now: Instant) -> bool {
        let holds = self.until.is_none_or(|until| now < until);
        holds && self.grant.target() == target && self.grant.audience() == caller.audience()
    }

    fn is_like(&self, grant: &Grant) -> bool {
        self.grant.target() == grant.target() && self.grant.audience() == grant.audience()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;
    use crate::domain::identity::{BearerToken, Presented, TokenDigest};
    use crate::domain::policy::Claimant;

    fn memo() -> Memo {
        Memo::new(Arc::new(Policy::without_rules(Some("demo".into()))))
    }

    fn caller(number: usize) -> Caller {
        let token = BearerToken::parse(b"aaaaaaaaaa.bbbbbbbbbb.cccccccccc").unwrap();
        let presented = Presented { token, expires_at: None, token_id: String::new() };
        Caller::for_tests(Subject::Delegated(TokenDigest::of(&number.to_be_bytes())), presented)
    }

    fn grant(basis: &Basis, caller: &Caller) -> Grant {
        basis.policy.case(&Claimant::hypothetical("default", "app")).grant(caller.audience(), None, None).unwrap()
    }

    #[test]
    fn a_decision_is_recalled_for_its_caller_and_target_until_its_time_is_over() {
        let (memo, now) = (memo(), Clock::System.now().mono);
        let (basis, until) = (memo.basis(), now + Duration::from_secs(30));
        memo.remember(caller(1).subject(), &grant(&basis, &caller(1)), Some(until), &basis);
        let recalls = |number, target, at| memo.recall(&caller(number), target, at).is_some();
        assert!(recalls(1, None, now) && !recalls(1, None, until));
        assert!(!recalls(2, None, now) && !recalls(1, Some("other"), now));
        memo.remember(caller(1).subject(), &grant(&basis, &caller(1)), None, &basis);
        assert!(recalls(1, None, until), "the newest decision counts");
        assert_eq!(memo.in_force.read().decided[caller(1).subject()].len(), 1);
    }

    #[test]
    fn a_change_forgets_all_and_what_was_decided_before_it() {
        let (memo, now) = (memo(), Clock::System.now().mono);
        let basis = memo.basis();
        let decided = grant(&basis, &caller(1));
        for change in [|memo: &Memo| memo.forget(), |memo: &Memo| memo.adopt(Arc::default())] {
            let before = memo.basis();
            memo.remember(caller(1).subject(), &decided, None, &before);
            assert!(memo.recall(&caller(1), None, now).is_some());
            change(&memo);
            memo.remember(caller(1).subject(), &decided, None, &before);
            assert!(memo.recall(&caller(1), None, now).is_none());
        }
    }

    #[test]
    fn callers_are_bounded() {
        let memo = memo();
        let basis = memo.basis();
        for number in 0..=CALLERS {
            memo.remember(caller(number).subject(), &grant(&basis, &caller(number)), None, &basis);
        }
        assert_eq!(memo.in_force.read().decided.len(), 1);
    }
}
