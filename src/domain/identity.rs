//! Who asks: the pod behind a service account token, and the token itself.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::base::parcel::text;

/// Shortest and longest bearer token taken, in bytes. A pod's token has about 1,300; an ML-DSA signature alone would take 6,200.
pub const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 20..=16_384;

/// The claims of a verified, pod-bound service account token (Kubernetes KEP-1205, KEP-4193).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `iss`, exactly as configured.
    #[serde(with = "text")]
    pub issuer: Arc<str>,
    /// `kubernetes.io.namespace`.
    pub namespace: String,
    /// `kubernetes.io.serviceaccount.name`.
    pub service_account: String,
    /// `kubernetes.io.serviceaccount.uid`.
    pub service_account_uid: String,
    /// `kubernetes.io.pod.name`.
    pub pod: String,
    /// `kubernetes.io.pod.uid`.
    pub pod_uid: String,
    /// `kubernetes.io.node.name`; tokens from before Kubernetes 1.30 have none.
    pub node: Option<String>,
}

impl Identity {
    /// The `sub` of its tokens, by which trust policies name it.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }
}

/// SHA-256 of a token: names it in memory and in logs without being it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of `token`.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// The digest itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first 16 hexadecimal digits, for logs.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

/// On whose behalf a credential is asked for. To read one back proves nothing: nobody asks in its name without a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// This process verified the token's signature and claims.
    Verified(Identity),
    /// Nothing is known but the token: EKS Auth is the verifier (delegated verification).
    Delegated(TokenDigest),
}

impl Hash for Subject {
    /// What tells most subjects apart; whole identities would make every look-up slow.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Verified(identity) => identity.pod_uid.hash(state),
            Self::Delegated(digest) => digest.hash(state),
        }
    }
}

impl Subject {
    /// The verified identity, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Verified(identity) => Some(identity),
            Self::Delegated(_) => None,
        }
    }
}

/// Whether all `bytes` are of `[A-Za-z0-9_.-]`, as in a JWT in its compact form (RFC 7515 §3.1).
fn is_jwt_alphabet(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A bearer token as it stands in a request, before anything about it is known. It can't be printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawToken<'a>(&'a [u8]);

impl<'a> RawToken<'a> {
    /// Takes the bytes as they are.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for RawToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawToken({} bytes)", self.0.len())
    }
}

/// A bearer token whose bytes are those of a JWT (`[A-Za-z0-9_.-]`) and whose length is within [`TOKEN_BYTES`].
#[derive(Clone)]
pub struct BearerToken {
    text: Zeroizing<String>,
}

impl BearerToken {
    /// Checks length and alphabet, nothing else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if !TOKEN_BYTES.contains(&bytes.len()) || !is_jwt_alphabet(bytes) {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?.to_owned();
        Some(Self { text: Zeroizing::new(text) })
    }

    /// The token itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerToken({} bytes)", self.text.len())
    }
}

/// A token as it was presented: what a load shows upstream, until when it is good, and how logs call it.
#[derive(Debug, Clone)]
pub struct Presented {
    /// The token.
    pub token: BearerToken,
    /// Its `exp`; unknown when verification is delegated.
    pub expires_at: Option<SystemTime>,
    /// Its `jti`, else its fingerprint.
    pub token_id: String,
}

/// What a parcel holds of a [`Presented`]. It can't be printed.
#[derive(Serialize, Deserialize)]
pub struct PackedPresented<'a> {
    token: &'a str,
    expires_at: Option<SystemTime>,
    token_id: &'a str,
}

impl<'a> From<&'a Presented> for PackedPresented<'a> {
    fn from(presented: &'a Presented) -> Self {
        let Presented { token, expires_at, token_id } = presented;
        Self { token: token.expose(), expires_at: *expires_at, token_id }
    }
}

impl PackedPresented<'_> {
    /// What was packed; `None` if it bears no token.
    #[must_use]
    pub fn unpack(&self) -> Option<Presented> {
        let token = BearerToken::parse(self.token.as_bytes())?;
        Some(Presented { token, expires_at: self.expires_at, token_id: self.token_id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_has_the_alphabet_and_length_of_a_jwt() {
        let ok = [b'a'; 20];
        assert!(BearerToken::parse(&ok).is_some());
        assert!(BearerToken::parse(&[b'a'; 16_384]).is_some());
        assert!(BearerToken::parse(&[b'a'; 16_385]).is_none());
        assert!(BearerToken::parse(&ok[..19]).is_none());
        for byte in [b' ', b'\n', b'=', b'+', b'/', 0, 0xff] {
            let mut bad = ok;
            bad[3] = byte;
            assert!(BearerToken::parse(&bad).is_none(), "{byte:#x}");
        }
    }

    #[test]
    fn nothing_prints_a_token() {
        let token = BearerToken::parse(b"aaaaaaaaaaaaaaaaaaaaaaaa.bbb.ccc").unwrap();
        assert!(!format!("{token:?}").contains("aaa"));
        assert_eq!(TokenDigest::of(b"").fingerprint(), "e3b0c44298fc1c14");
    }
}
