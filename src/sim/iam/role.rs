//! A role of a simulated account.

use std::time::Duration;

use crate::sim::iam::arn::RoleArn;
use crate::sim::iam::condition::matches;
use crate::sim::iam::policy::TrustPolicy;

/// The shortest and longest that IAM lets a role's maximum session duration be; the shortest is also what it is by default.
const MAXIMUM_FROM: Duration = Duration::from_secs(3600);
const MAXIMUM_TO: Duration = Duration::from_secs(12 * 3600);

/// Why a role can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRole {
    /// The ARN is not `arn:PARTITION:iam::ACCOUNT:role/NAME`.
    #[error("{0:?} is not a role's ARN")]
    Arn(String),
    /// The trust policy is not IAM's JSON, or says what is not simulated.
    #[error("the trust policy of {arn}: {reason}")]
    Trust {
        /// Of the role.
        arn: String,
        /// What is wrong, for people.
        reason: String,
    },
}

/// A role, its account made by naming it.
#[derive(Debug)]
pub struct Role {
    pub(in crate::sim) arn: RoleArn,
    pub(in crate::sim) trust: TrustPolicy,
    pub(in crate::sim) maximum: Duration,
    may_assume: Option<Vec<String>>,
}

impl Role {
    /// A role that whoever its trust policy (IAM's JSON) allows may assume for up to 1 h, and that may itself assume any role that
    /// trusts it.
    ///
    /// # Errors
    /// When the ARN is none, or the policy says what is not simulated.
    pub fn new(arn: &str, trust: &str) -> Result<Self, InvalidRole> {
        let parsed = RoleArn::parse(arn).ok_or_else(|| InvalidRole::Arn(arn.to_owned()))?;
        let trust = TrustPolicy::parse(trust).map_err(|reason| InvalidRole::Trust { arn: arn.to_owned(), reason })?;
        Ok(Self { arn: parsed, trust, maximum: MAXIMUM_FROM, may_assume: None })
    }

    /// With another maximum session duration; brought within the 1 h to 12 h that IAM allows.
    #[must_use]
    pub fn maximum(self, maximum: Duration) -> Self {
        Self { maximum: maximum.clamp(MAXIMUM_FROM, MAXIMUM_TO), ..self }
    }

    /// Whose own policies let it assume these roles only: ARNs, in which `*` and `?` are wildcards.
    #[must_use]
    pub fn may_assume(self, resources: &[&str]) -> Self {
        Self { may_assume: Some(resources.iter().map(ToString::to_string).collect()), ..self }
    }

    /// Whether its own policies let it assume the role of this ARN.
    pub(in crate::sim) fn lets_assume(&self, arn: &str) -> bool {
        self.may_assume.as_ref().is_none_or(|allowed| allowed.iter().any(|pattern| matches(pattern, arn)))
    }
}
