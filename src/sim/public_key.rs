//! The public half of a signing key, of whatever issuer: read from and written as a JWK (RFC 7517).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::sim::keys::Algorithm;

/// A key by which signatures are verified, with the name by which tokens refer to it.
#[derive(Debug, Clone)]
pub(super) struct PublicKey {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) material: Material,
}

#[derive(Debug, Clone)]
pub(super) enum Material {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// The point `4 ‖ x ‖ y` (SEC 1 §2.3.3).
    Ec(Vec<u8>),
}

impl PublicKey {
    /// `None` for key types and algorithms that Kubernetes does not sign with.
    pub(super) fn from_jwk(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let algorithm = Algorithm::named(text("alg")?)?;
        let material = match algorithm.curve() {
            None => Material::Rsa(RsaPublicKeyComponents { n: bytes("n")?, e: bytes("e")? }),
            Some(curve) if text("crv")? == curve => Material::Ec([vec![4], bytes("x")?, bytes("y")?].concat()),
            Some(_) => return None,
        };
        Some(Self { kid: text("kid")?.to_owned(), algorithm, material })
    }

    /// The JWK with the members that Kubernetes publishes.
    pub(super) fn jwk(&self) -> Value {
        let (kid, alg) = (&self.kid, self.algorithm.name());
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.material {
            Material::Rsa(public) => json!({
                "use": "sig", "kid": kid, "alg": alg, "kty": "RSA", "n": encoded(&public.n), "e": encoded(&public.e),
            }),
            Material::Ec(point) => {
                let coordinates = point.get(1..).unwrap_or_default();
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                let curve = self.algorithm.curve();
                json!({ "use": "sig", "kid": kid, "alg": alg, "kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y) })
            }
        }
    }

    /// Whether `signature` (in the form of RFC 7518 §3.3, §3.4) is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let by_point = |algorithm: &'static dyn VerificationAlgorithm, point| {
            UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
        };
        match (&self.material, self.algorithm) {
            (Material::Rsa(public), _) => public.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok(),
            (Material::Ec(point), Algorithm::Es384) => by_point(&ECDSA_P384_SHA384_FIXED, point),
            (Material::Ec(point), _) => by_point(&ECDSA_P256_SHA256_FIXED, point),
        }
    }
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        [Self::Rs256, Self::Es256, Self::Es384].into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The `crv` of RFC 7518 §6.2.1.1; `None` for RSA.
    fn curve(self) -> Option<&'static str> {
        match self {
            Self::Rs256 => None,
            Self::Es256 => Some("P-256"),
            Self::Es384 => Some("P-384"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_kinds_of_key_are_none_of_ours() {
        let jwk = |alg: &str, crv: &str| json!({ "kid": "a", "kty": "EC", "alg": alg, "crv": crv, "x": "AA", "y": "AA" });
        assert!(PublicKey::from_jwk(&jwk("ES256", "P-256")).is_some());
        for (alg, crv) in [("ES512", "P-521"), ("ES256", "P-384"), ("none", "P-256")] {
            assert!(PublicKey::from_jwk(&jwk(alg, crv)).is_none(), "{alg} {crv}");
        }
        assert!(PublicKey::from_jwk(&json!({ "kid": "a", "kty": "RSA", "alg": "RS256", "n": "AQAB" })).is_none());
    }
}
