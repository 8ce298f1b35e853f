//! A pod, and the claims of the token that the kubelet projects into it.

use serde::{Deserialize, Serialize};

use crate::domain::identity::TokenDigest;
use crate::sim::random;

/// The node of pods that name no other.
pub const NODE: &str = "node-1";

/// What a pod's token says about it.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Namespace of the pod and of its service account.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// UID of the service account.
    pub service_account_uid: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the node; tokens from before Kubernetes 1.30 bear none.
    pub node: Option<String>,
}

impl PodSpec {
    /// A pod with a UID of its own on [`NODE`]. The service account's UID follows from its name, so that pods of one service
    /// account agree on it.
    #[must_use]
    pub fn new(namespace: &str, service_account: &str, pod: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            service_account_uid: uid_of(&format!("{namespace}/{service_account}")),
            pod: pod.to_owned(),
            pod_uid: random::uuid(),
            node: Some(NODE.to_owned()),
        }
    }

    pub(super) fn kubernetes(&self) -> Kubernetes {
        Kubernetes {
            namespace: self.namespace.clone(),
            node: self.node.as_ref().map(|name| Object { name: name.clone(), uid: uid_of(name) }),
            pod: Object { name: self.pod.clone(), uid: self.pod_uid.clone() },
            serviceaccount: Object { name: self.service_account.clone(), uid: self.service_account_uid.clone() },
        }
    }
}

/// The claims of a pod-bound token as Kubernetes 1.32 issues it, in its order of members.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, in Unix seconds.
    pub exp: i64,
    /// Time of issue, in Unix seconds.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Identifier of the token.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    /// Start of validity, in Unix seconds.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// The private claims of Kubernetes (KEP-1205, KEP-4193).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kubernetes {
    /// Namespace of pod and service account.
    pub namespace: String,
    /// The node, if the token names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Object>,
    /// The pod.
    pub pod: Object,
    /// The service account.
    pub serviceaccount: Object,
}

/// A reference to an object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A UUID that follows from `name`.
fn uid_of(name: &str) -> String {
    let hex = TokenDigest::of(name.as_bytes()).fingerprint();
    let (head, tail) = hex.split_at(8);
    format!("{head}-0000-4000-8000-0000{tail}")
}
