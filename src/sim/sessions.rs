//! The principals that simulated AWS knows: the node's static key, and the sessions it has issued.
//!
//! A session is written into its own token under a MAC, and its secret follows from its access key, so that nothing is kept and
//! a hundred thousand sessions cost no memory.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Request;
use serde::{Deserialize, Serialize};

use crate::base::clock::{Now, from_unix_seconds, unix_seconds};
use crate::base::secret::Secret;
use crate::domain::credential::{Session, account_of};
use crate::sim::iam::arn::RoleArn;
use crate::sim::random;
use crate::sim::role_request::RoleRequest;
use crate::sim::sigv4::{Scope, Signature, Unauthenticated};

/// The account of node, cluster and pods that nothing else is said of.
pub(super) const ACCOUNT: &str = "111122223333";

/// Bytes of content that bring a session token to about 1 KB, the length of a real one.
const CONTENT_BYTES: usize = 740;

/// Bytes of the MAC before a token's content: HMAC-SHA256.
const MAC_BYTES: usize = 32;

/// The session tag by which EKS names a pod's UID.
pub(super) const POD_UID: &str = "kubernetes-pod-uid";

/// The UID of the pod for which EKS Auth made the session of this access key, as its token says; `None` if that is the token of
/// another access key, or names no pod.
#[must_use]
pub fn pod_of(access_key_id: &str, session_token: &str) -> Option<String> {
    let bytes = STANDARD.decode(session_token).ok()?;
    let content: Content = serde_json::from_slice(bytes.get(MAC_BYTES..)?).ok()?;
    let tags = (content.access_key_id == access_key_id).then_some(content.identity.tags)?;
    tags.into_iter().find_map(|(key, value)| (key == POD_UID).then_some(value))
}

/// Issues and recognises sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    mac: hmac::Key,
    pub(super) node: Principal,
}

/// Who signs requests.
#[derive(Debug, Clone)]
pub(super) struct Principal {
    pub(super) access_key_id: String,
    pub(super) secret: Secret,
    pub(super) identity: Identity,
    expires_at: Option<SystemTime>,
}

/// Who a principal is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Of the user, or of the role session.
    pub(super) arn: String,
    /// `UserId` of `GetCallerIdentity`.
    pub(super) user_id: String,
    /// The role of a role session; a user has none.
    pub(super) role_arn: Option<String>,
    /// Session tags, inherited ones too.
    pub(super) tags: Vec<(String, String)>,
    /// Keys of the tags that sessions made by this one inherit.
    pub(super) transitive_tag_keys: Vec<String>,
    /// Once set it stays over a chain.
    pub(super) source_identity: Option<String>,
}

/// What a session token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Content {
    access_key_id: String,
    identity: Identity,
    expires_at: i64,
    padding: String,
}

impl Identity {
    pub(super) fn user(arn: &str, user_id: &str) -> Self {
        Self { arn: arn.to_owned(), user_id: user_id.to_owned(), ..Self::default() }
    }

    /// The session that a request for `role` makes of `parent`, whose transitive tags and source identity it inherits.
    pub(super) fn assume(parent: &Self, role: &RoleArn, request: &RoleRequest) -> Self {
        let inherited = parent.tags.iter().filter(|(key, _)| parent.hands_on(key));
        Self {
            arn: role.session(&request.session_name),
            user_id: format!("{}:{}", role.unique_id(), request.session_name),
            role_arn: Some(role.as_str().to_owned()),
            tags: inherited.chain(&request.tags).cloned().collect(),
            transitive_tag_keys: parent.transitive_tag_keys.iter().chain(&request.transitive_tag_keys).cloned().collect(),
            source_identity: parent.source_identity.clone().or_else(|| request.source_identity.clone()),
        }
    }

    /// Whether sessions made by this one inherit the tag of this key; keys are not case-sensitive.
    pub(super) fn hands_on(&self, key: &str) -> bool {
        self.transitive_tag_keys.iter().any(|transitive| transitive.to_lowercase() == key.to_lowercase())
    }

    pub(super) fn account(&self) -> &str {
        account_of(&self.arn).unwrap_or_default()
    }
}

impl Sessions {
    pub(super) fn new() -> Self {
        let node = Principal {
            access_key_id: format!("AKIA{}", random::text(random::UPPER, 16)),
            secret: Secret::new(random::text(random::MIXED, 40)),
            identity: Identity::user(
                &format!("arn:aws:iam::{ACCOUNT}:user/node"),
                &format!("AIDA{}", random::text(random::UPPER, 17)),
            ),
            expires_at: None,
        };
        Self { mac: hmac::Key::new(hmac::HMAC_SHA256, random::text(random::MIXED, 64).as_bytes()), node }
    }

    /// A new session.
    pub(super) fn issue(&self, identity: &Identity, expires_at: SystemTime) -> Session {
        let content = Content {
            access_key_id: format!("ASIA{}", random::text(random::UPPER, 16)),
            identity: identity.clone(),
            expires_at: unix_seconds(expires_at),
            padding: String::new(),
        };
        Session {
            secret_access_key: self.secret_of(&content.access_key_id),
            session_token: self.seal(&padded(content.clone())),
            access_key_id: content.access_key_id,
            expires_at,
            assumed_role_arn: content.identity.arn,
        }
    }

    /// Who signed `request` for `scope`.
    pub(super) fn authenticate(
        &self,
        request: &Request<Bytes>,
        scope: Scope<'_>,
        now: Now,
    ) -> Result<Principal, Unauthenticated> {
        let signature = Signature::of(request)?;
        let principal = self.find(&signature).ok_or(Unauthenticated::UnknownKey)?;
        if principal.expires_at.is_some_and(|expiry| expiry <= now.wall) {
            return Err(Unauthenticated::Expired);
        }
        signature.verify(&principal.secret, scope, now)?;
        Ok(principal)
    }

    fn find(&self, signature: &Signature<'_>) -> Option<Principal> {
        let Some(token) = signature.session_token else {
            return (signature.access_key_id == self.node.access_key_id).then(|| self.node.clone());
        };
        let content = self.open(token).filter(|content| content.access_key_id == signature.access_key_id)?;
        Some(Principal {
            secret: self.secret_of(&content.access_key_id),
            access_key_id: content.access_key_id,
            identity: content.identity,
            expires_at: Some(from_unix_seconds(content.expires_at).unwrap_or(SystemTime::UNIX_EPOCH)),
        })
    }

    fn secret_of(&self, access_key_id: &str) -> Secret {
        let encoded = STANDARD.encode(hmac::sign(&self.mac, access_key_id.as_bytes()));
        Secret::new(encoded.chars().take(40).collect())
    }

    fn seal(&self, content: &Content) -> Secret {
        let content = serde_json::json!(content).to_string();
        let mac = hmac::sign(&self.mac, content.as_bytes());
        Secret::new(STANDARD.encode([mac.as_ref(), content.as_bytes()].concat()))
    }

    fn open(&self, token: &str) -> Option<Content> {
        let bytes = STANDARD.decode(token).ok()?;
        let (mac, content) = bytes.split_at_checked(MAC_BYTES)?;
        hmac::verify(&self.mac, content, mac).ok()?;
        serde_json::from_slice(content).ok()
    }
}

fn padded(content: Content) -> Content {
    let length = serde_json::json!(content).to_string().len();
    Content { padding: random::text(random::MIXED, CONTENT_BYTES.saturating_sub(length)), ..content }
}
