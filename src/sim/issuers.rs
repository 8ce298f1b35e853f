//! Whose tokens the simulated AWS accepts: the cloud's own cluster's, and those of issuers that a test makes it trust.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::Value;

use crate::sim::jwt::{Jwt, Rejected, TokenClaims};
use crate::sim::keys::Keys;
use crate::sim::public_key::PublicKey;

/// Issuers by name, with their keys.
#[derive(Debug)]
pub(super) struct Issuers {
    own: Keys,
    trusted: Mutex<BTreeMap<String, Vec<PublicKey>>>,
}

/// Which keys of the cloud's own cluster a service goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// All of them: EKS Auth knows its cluster.
    All,
    /// What the issuer publishes: STS knows no more.
    Published,
}

impl Issuers {
    pub(super) fn new(own: Keys) -> Self {
        Self { own, trusted: Mutex::default() }
    }

    /// Accepts tokens of `issuer` by the keys of this JWKS (RFC 7517 §5), in place of any that it had before.
    pub(super) fn trust(&self, issuer: &str, jwks: &[u8]) -> Result<(), String> {
        let set: Value = serde_json::from_slice(jwks).map_err(|error| format!("the key set of {issuer} is not JSON: {error}"))?;
        let keys = usable(&set);
        if keys.is_empty() {
            return Err(format!("the key set of {issuer} holds no key that Kubernetes signs with"));
        }
        self.trusted.lock().insert(issuer.to_owned(), keys);
        Ok(())
    }

    /// The claims of a token that is good at `now`, Unix seconds, whatever its audience.
    pub(super) fn verify(&self, token: &str, known: Known, now: i64) -> Result<TokenClaims, Rejected> {
        let jwt = Jwt::parse(token)?;
        let keys = self.keys_of(jwt.issuer(), known).ok_or(Rejected::UnknownIssuer)?;
        jwt.verify(&keys, now)
    }

    fn keys_of(&self, issuer: &str, known: Known) -> Option<Vec<PublicKey>> {
        match known {
            _ if issuer != self.own.issuer() => self.trusted.lock().get(issuer).cloned(),
            Known::All => Some(self.own.all()),
            Known::Published => Some(usable(&self.own.jwks())),
        }
    }
}

fn usable(jwks: &Value) -> Vec<PublicKey> {
    let keys = jwks.get("keys").and_then(Value::as_array);
    keys.into_iter().flatten().filter_map(PublicKey::from_jwk).collect()
}
