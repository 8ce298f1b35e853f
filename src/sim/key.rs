//! One signing key of the issuer.

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::sim::keys::Algorithm;

/// A key pair with the name by which tokens refer to it.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    /// A new key pair, named as Kubernetes names its own: base64url of the SHA-256 of the public key's DER.
    pub(super) fn generate(algorithm: Algorithm) -> Result<Self, Unspecified> {
        let pair = match algorithm {
            Algorithm::Rs256 => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            Algorithm::Es256 => Pair::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)?),
            Algorithm::Es384 => Pair::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING)?),
        };
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, pair.public_der()?.as_ref()));
        Ok(Self { kid, algorithm, pair })
    }

    /// A signature as JWS wants it (RFC 7518 §3.3, §3.4).
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut bytes = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &rng, message, &mut bytes)?;
                Ok(bytes)
            }
            Pair::Ec(pair) => Ok(pair.sign(&rng, message)?.as_ref().to_vec()),
        }
    }

    /// Whether `signature` is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ec(pair) => pair.public_key().as_ref(),
        };
        UnparsedPublicKey::new(self.algorithm.verification(), public).verify(message, signature).is_ok()
    }

    /// The public half as a JWK (RFC 7517), with the members that Kubernetes publishes.
    pub(super) fn jwk(&self) -> Value {
        let mut jwk = json!({ "use": "sig", "kid": self.kid, "alg": self.algorithm.name() });
        let members = match &self.pair {
            Pair::Rsa(pair) => rsa_members(pair),
            Pair::Ec(pair) => ec_members(pair, self.algorithm),
        };
        jwk.as_object_mut().into_iter().for_each(|jwk| jwk.extend(members.clone()));
        jwk
    }
}

impl Pair {
    fn public_der(&self) -> Result<PublicKeyX509Der<'static>, Unspecified> {
        match self {
            Self::Rsa(pair) => pair.public_key().as_der(),
            Self::Ec(pair) => pair.public_key().as_der(),
        }
    }
}

impl Algorithm {
    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        }
    }

    fn curve(self) -> &'static str {
        if self == Self::Es384 { "P-384" } else { "P-256" }
    }
}

type Members = serde_json::Map<String, Value>;

fn rsa_members(pair: &RsaKeyPair) -> Members {
    let public = pair.public_key();
    let number = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    let modulus = number(public.modulus().big_endian_without_leading_zero());
    let exponent = number(public.exponent().big_endian_without_leading_zero());
    [("kty".into(), "RSA".into()), ("n".into(), modulus), ("e".into(), exponent)].into_iter().collect()
}

/// The public point is `4 ‖ x ‖ y` (SEC 1 §2.3.3).
fn ec_members(pair: &EcdsaKeyPair, algorithm: Algorithm) -> Members {
    let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
    let (x, y) = point.split_at(point.len() / 2);
    let coordinate = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    let members = [("kty", "EC".into()), ("crv", algorithm.curve().into()), ("x", coordinate(x)), ("y", coordinate(y))];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
