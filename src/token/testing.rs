//! Keys and tokens for tests.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::egress::aws::{Aws, Source};
use crate::egress::https::Https;
use crate::limits::upstream::{self, UpstreamBudget};
use crate::observe::Context;
use crate::token::Access;
use crate::token::config::{Config, Mode};

/// A signing key.
pub(super) enum Signer {
    Rsa(RsaKeyPair),
    Ec256(EcdsaKeyPair),
    Ec384(EcdsaKeyPair),
}

static RSA: LazyLock<Signer> = LazyLock::new(new_rsa);
static RSA_OTHER: LazyLock<Signer> = LazyLock::new(new_rsa);
static EC256: LazyLock<Signer> = LazyLock::new(|| Signer::Ec256(new_ec(&ECDSA_P256_SHA256_FIXED_SIGNING)));
static EC384: LazyLock<Signer> = LazyLock::new(|| Signer::Ec384(new_ec(&ECDSA_P384_SHA384_FIXED_SIGNING)));

pub(super) fn rsa() -> &'static Signer {
    &RSA
}

pub(super) fn rsa_other() -> &'static Signer {
    &RSA_OTHER
}

pub(super) fn ec256() -> &'static Signer {
    &EC256
}

pub(super) fn ec384() -> &'static Signer {
    &EC384
}

fn new_rsa() -> Signer {
    Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

fn new_ec(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(algorithm).unwrap()
}

impl Signer {
    pub(super) fn alg(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec256(_) => "ES256",
            Self::Ec384(_) => "ES384",
        }
    }

    pub(super) fn jwk(&self, kid: &str) -> Value {
        let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |crv: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({"kty": "EC", "use": "sig", "alg": self.alg(), "kid": kid, "crv": crv, "x": base64(x), "y": base64(y)})
        };
        match self {
            // RSAPublicKey in DER (RFC 8017 §A.1.1): the modulus of 2048 bits lies at a fixed place.
            Self::Rsa(pair) => {
                let n = &pair.public_key().as_ref()[9..265];
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": base64(n), "e": "AQAB"})
            }
            Self::Ec256(pair) => ec("P-256", pair.public_key().as_ref()),
            Self::Ec384(pair) => ec("P-384", pair.public_key().as_ref()),
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec256(pair) | Self::Ec384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    /// A token with the usual header.
    pub(super) fn token(&self, kid: &str, payload: &Value) -> String {
        self.token_of(&json!({"alg": self.alg(), "kid": kid}).to_string(), &payload.to_string())
    }

    /// A token of any header and payload.
    pub(super) fn token_of(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// A key set of these keys.
pub(super) fn document(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

/// When [`payload`] was issued, Unix seconds.
pub(super) const ISSUED_AT: i64 = 1_800_000_000;
pub(super) const ISSUER: &str = "https://oidc.example/id/A";
pub(super) const AUDIENCE: &str = "pods.eks.amazonaws.com";
pub(super) const NODE: &str = "ip-10-0-0-1.ec2.internal";

/// The claims of a good token.
pub(super) fn payload() -> Value {
    json!({
        "aud": [AUDIENCE],
        "exp": ISSUED_AT + 86_400,
        "iat": ISSUED_AT,
        "iss": ISSUER,
        "jti": "d1c5",
        "kubernetes.io": {
            "namespace": "default",
            "node": {"name": NODE, "uid": "n-1"},
            "pod": {"name": "app-0", "uid": "p-1"},
            "serviceaccount": {"name": "s3-sa", "uid": "s-1"},
        },
        "nbf": ISSUED_AT,
        "sub": "system:serviceaccount:default:s3-sa",
    })
}

/// The good claims with the one at `pointer` (RFC 6901) replaced; `null` removes it.
pub(super) fn payload_with(pointer: &str, value: impl Into<Value>) -> Value {
    let mut claims = payload();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let members = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    let value = value.into();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    claims
}

/// The configuration to which [`payload`] answers, without issuers.
pub(super) fn config(mode: Mode) -> Config {
    Config {
        audiences: vec![AUDIENCE.into()],
        node_name: Some(NODE.to_owned()),
        mode,
        issuers: Vec::new(),
        api_server: None,
        cluster: None,
        memo_capacity: 16,
    }
}

/// Ways out that no test takes.
pub(super) fn access(context: &Context) -> Access {
    let http = Https::new(&|_| None).unwrap();
    let aws = Arc::new(Aws::new(http.clone(), Source::Standard, context));
    Access { http, aws, budget: UpstreamBudget::new(upstream::Config { per_second: 5.0 }, context.clone()) }
}
