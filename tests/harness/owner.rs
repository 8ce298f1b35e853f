//! Whose credentials an answer bears: whatever happens to agents, no pod is ever given those of another one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use credlet::sim::pod::Claims;
use credlet::sim::sessions;
use serde_json::Value;

/// A pod, and the last document that was found to be its own: a million looks at the same one cost little.
#[derive(Debug)]
pub(crate) struct Owner {
    pod_uid: String,
    own: Vec<u8>,
}

impl Owner {
    /// The pod with this UID.
    pub(crate) fn new(pod_uid: &str) -> Self {
        Self { pod_uid: pod_uid.to_owned(), own: Vec::new() }
    }

    /// The pod that a token is bound to, unproved; `None` if it names none.
    pub(crate) fn of(token: &str) -> Option<Self> {
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        Some(Self::new(&claims.kubernetes.pod.uid))
    }

    /// Whether these credentials are of a session that EKS Auth made for this very pod.
    pub(crate) fn owns(&mut self, document: &[u8]) -> bool {
        if self.own == document {
            return true;
        }
        let is_own = pod_of(document).is_some_and(|uid| uid == self.pod_uid);
        if is_own {
            self.own = document.to_vec();
        }
        is_own
    }
}

fn pod_of(document: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(document).ok()?;
    sessions::pod_of(document.get("AccessKeyId")?.as_str()?, document.get("Token")?.as_str()?)
}
