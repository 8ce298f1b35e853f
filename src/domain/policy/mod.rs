//! What a caller may have: the operator's rules, else the annotations of its service account, else what its token's audience says.
//!
//! Pure: text and names in, a [`Grant`] or a [`Refusal`] out. Only the policy and annotations choose a role, always for a proven
//! identity; of a request nothing counts but the NAME of a target, and that only among the caller's own.

use std::sync::Arc;

use crate::domain::identity::Identity;
use crate::domain::refusal::{Reason, Refusal};

mod grant;

pub use grant::{Exchange, Grant, Hop, WebIdentity};

/// The audience of EKS Pod Identity tokens.
pub const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// The audience of tokens for STS web identity.
pub const WEB_IDENTITY_AUDIENCE: &str = "sts.amazonaws.com";

/// Whom the policy is asked about. Where AWS verified the token, only the first two are known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claimant {
    /// Namespace of pod and service account.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// Name of the pod.
    pub pod: Option<String>,
    /// UID of the pod.
    pub pod_uid: Option<String>,
    /// Name of the node.
    pub node: Option<String>,
}

impl Claimant {
    /// A claimant of whom no more is known.
    #[must_use]
    pub fn new(namespace: impl Into<String>, service_account: impl Into<String>) -> Self {
        let (namespace, service_account) = (namespace.into(), service_account.into());
        Self { namespace, service_account, pod: None, pod_uid: None, node: None }
    }
}

impl From<&Identity> for Claimant {
    fn from(identity: &Identity) -> Self {
        Self {
            namespace: identity.namespace.clone(),
            service_account: identity.service_account.clone(),
            pod: Some(identity.pod.clone()),
            pod_uid: Some(identity.pod_uid.clone()),
            node: identity.node.clone(),
        }
    }
}

/// The policy in force.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `--cluster-name`; without it there is no Pod Identity exchange.
    cluster: Option<Arc<str>>,
}

/// What the annotations of a service account ask for (`--service-account-roles`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {}

impl Policy {
    /// The policy of an agent without a policy file.
    #[must_use]
    pub fn without_rules(cluster: Option<Arc<str>>) -> Self {
        Self { cluster }
    }

    /// Whether a rule is about `who`, so that its annotations don't matter.
    #[must_use]
    pub fn decides(&self, _who: &Claimant) -> bool {
        false
    }

    /// What `who` may have whose token bears `audience`; `target` is the NAME of the request, if it bore one, and `annotations`
    /// are those of its service account, if they count.
    ///
    /// # Errors
    /// `no_target` for a NAME that is none of the caller's, `no_role` when nothing leads to a role.
    pub fn grant(
        &self,
        who: &Claimant,
        audience: &Arc<str>,
        target: Option<&str>,
        annotations: Option<&Annotations>,
    ) -> Result<Grant, Refusal> {
        let _ = (who, annotations);
        if target.is_some() {
            return Err(Refusal::new(Reason::NoTarget, "no policy names targets"));
        }
        match &**audience {
            POD_IDENTITY_AUDIENCE if self.cluster.is_some() => {
                Ok(Grant::new(Arc::clone(audience), None, Exchange::PodIdentity, Vec::new()))
            }
            other => Err(Refusal::new(Reason::NoRole, format!("nothing gives a role to a token for audience {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_decides_and_names_are_nobodys() {
        let who = Claimant::new("n", "s");
        let policy = Policy::without_rules(Some("c".into()));
        let reason =
            |audience: &str, target| policy.grant(&who, &audience.into(), target, None).map_err(|refusal| refusal.reason);
        assert!(reason(POD_IDENTITY_AUDIENCE, None).is_ok());
        assert_eq!(reason(WEB_IDENTITY_AUDIENCE, None), Err(Reason::NoRole));
        assert_eq!(reason(POD_IDENTITY_AUDIENCE, Some("x")), Err(Reason::NoTarget));
    }
}
