//! Tokens as AWS reads them: parsed, verified by whatever keys the service knows, and judged by time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::identity::TokenDigest;
use crate::sim::one_or_many::one_or_many;
use crate::sim::public_key::PublicKey;

/// Why a token is not accepted. Display is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    #[error("malformed")]
    Malformed,
    #[error("missing claims")]
    MissingClaims,
    #[error("unknown issuer")]
    UnknownIssuer,
    #[error("unknown key")]
    UnknownKey,
    #[error("signature mismatch")]
    Signature,
    #[error("not valid yet")]
    NotYetValid,
    #[error("invalid audience")]
    Audience,
    /// It is past its `exp`, in Unix seconds.
    #[error("expired")]
    Expired(i64),
}

/// The claims that AWS reads; further ones are ignored.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TokenClaims {
    pub(super) iss: String,
    pub(super) sub: String,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) aud: Vec<String>,
    pub(super) exp: i64,
    nbf: Option<i64>,
    /// What Kubernetes says of the token's pod; any JSON.
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// A token that is read but not verified.
#[derive(Debug)]
pub(super) struct Jwt<'a> {
    message: &'a str,
    signature: Vec<u8>,
    header: Header,
    claims: TokenClaims,
}

impl<'a> Jwt<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, Rejected> {
        let (message, signature) = token.rsplit_once('.').ok_or(Rejected::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Rejected::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Rejected::Malformed)?;
        let header = decoded(header).ok_or(Rejected::Malformed)?;
        let claims = decoded(payload).ok_or(Rejected::MissingClaims)?;
        Ok(Self { message, signature, header, claims })
    }

    /// The issuer that it claims.
    pub(super) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// The claims, if one of `keys` signed them and they hold at `now`, Unix seconds.
    pub(super) fn verify(self, keys: &[PublicKey], now: i64) -> Result<TokenClaims, Rejected> {
        let named = |key: &&PublicKey| key.kid == self.header.kid && key.algorithm.name() == self.header.alg;
        let key = keys.iter().find(named).ok_or(Rejected::UnknownKey)?;
        if !key.verifies(self.message.as_bytes(), &self.signature) {
            return Err(Rejected::Signature);
        }
        if self.claims.exp <= now {
            return Err(Rejected::Expired(self.claims.exp));
        }
        if self.claims.nbf.is_some_and(|nbf| nbf > now) {
            return Err(Rejected::NotYetValid);
        }
        Ok(self.claims)
    }
}

/// What records call a token, and the subject it claims, unverified.
pub(super) fn peek(token: &str) -> (String, Option<String>) {
    let payload: Option<Value> = token.split('.').nth(1).and_then(decoded);
    let subject = payload.and_then(|payload| payload.get("sub")?.as_str().map(str::to_owned));
    (TokenDigest::of(token.as_bytes()).fingerprint(), subject)
}

fn decoded<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
