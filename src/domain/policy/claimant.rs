//! Whom the policy is asked about.

use crate::domain::credential::Provenance;
use crate::domain::identity::Identity;

/// One who claims a role, as far as it is proven. Nobody makes one of names but [`Claimant::hypothetical`], and a grant to that is
/// for looking at. Where AWS verified the token, only namespace and service account are known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claimant {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) service_account_uid: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) pod_uid: Option<String>,
    pub(super) node: Option<String>,
}

impl Claimant {
    /// One whom nobody has proven: for `credlet policy explain` and tests.
    #[must_use]
    pub fn hypothetical(namespace: &str, service_account: &str) -> Self {
        Self::named(namespace, service_account)
    }

    /// The same one with a pod, its UID and its node.
    #[must_use]
    pub fn in_pod(self, pod: &str, uid: &str, node: &str) -> Self {
        Self { pod: Some(pod.to_owned()), pod_uid: Some(uid.to_owned()), node: Some(node.to_owned()), ..self }
    }

    /// One of whom nothing is known.
    pub(super) fn unknown() -> Self {
        Self::named("", "")
    }

    fn named(namespace: &str, service_account: &str) -> Self {
        let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
        Self { namespace, service_account, service_account_uid: None, pod: None, pod_uid: None, node: None }
    }

    /// Namespace of pod and service account.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name of the service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// UID of the service account, if it is known.
    #[must_use]
    pub fn service_account_uid(&self) -> Option<&str> {
        self.service_account_uid.as_deref()
    }
}

impl From<&Identity> for Claimant {
    /// The one whose token was verified here.
    fn from(identity: &Identity) -> Self {
        Self {
            namespace: identity.namespace.clone(),
            service_account: identity.service_account.clone(),
            service_account_uid: Some(identity.service_account_uid.clone()),
            pod: Some(identity.pod.clone()),
            pod_uid: Some(identity.pod_uid.clone()),
            node: identity.node.clone(),
        }
    }
}

impl From<&Provenance> for Claimant {
    /// The one whom AWS named when it gave the credential.
    fn from(confirmed: &Provenance) -> Self {
        Self::named(&confirmed.namespace, &confirmed.service_account)
    }
}
