//! What a caller may have at this moment: the policy in force, asked for a proven caller.

use std::sync::Arc;

use crate::domain::identity::Subject;
use crate::domain::policy::{Claimant, Grant, Policy};
use crate::domain::refusal::Refusal;
use crate::token::Caller;

/// Grants rights by the policy in force.
#[derive(Debug)]
pub struct Grants {
    policy: Arc<Policy>,
}

impl Grants {
    /// Grants by a policy that never changes.
    #[must_use]
    pub fn fixed(policy: Policy) -> Self {
        Self { policy: Arc::new(policy) }
    }

    /// What `caller` may have; `target` is the NAME of the request, if it bore one.
    ///
    /// # Errors
    /// The refusal that the caller is told.
    pub fn grant(&self, caller: &Caller, target: Option<&str>) -> Result<Grant, Refusal> {
        self.policy.grant(&claimant(caller.subject()), caller.audience(), target, None)
    }
}

fn claimant(subject: &Subject) -> Claimant {
    subject.identity().map_or_else(|| Claimant::new("", ""), Claimant::from)
}
