//! The issuer's signing keys: what is published, which of them signs, and the tokens they make.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::base::clock::Clock;
use crate::sim::key::Key;
use crate::sim::pod::{Claims, PodSpec};
use crate::sim::public_key::PublicKey;
use crate::sim::random;

/// An algorithm of JWS that Kubernetes signs with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256; keys of 2,048 bits.
    #[default]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
}

impl Algorithm {
    /// The `alg` of RFC 7518.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }
}

/// The keys of one issuer. Clones share them.
#[derive(Debug, Clone)]
pub struct Keys {
    issuer: Arc<str>,
    clock: Clock,
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug)]
struct Ring {
    keys: Vec<Arc<Key>>,
    signer: Arc<Key>,
    /// What the JWKS shows, in order.
    published: Vec<Value>,
}

impl Keys {
    /// Keys of `issuer`, with one that is published and signs.
    #[must_use]
    pub fn new(issuer: &str, algorithm: Algorithm, clock: Clock) -> Self {
        let signer = generate(algorithm);
        let ring = Ring { keys: vec![signer.clone()], published: vec![signer.public.jwk()], signer };
        Self { issuer: issuer.into(), clock, ring: Arc::new(Mutex::new(ring)) }
    }

    /// A projected token as the API server issues it for a pod.
    #[must_use]
    pub fn token(&self, pod: &PodSpec, audience: &str, ttl: Duration) -> String {
        let payload = json!(self.claims(pod, audience, ttl));
        self.sign(&self.header(), &payload.to_string())
    }

    /// The claims of such a token, to be altered.
    #[must_use]
    pub fn claims(&self, pod: &PodSpec, audience: &str, ttl: Duration) -> Claims {
        let now = self.clock.now().unix();
        Claims {
            aud: vec![audience.to_owned()],
            exp: now.saturating_add_unsigned(ttl.as_secs()),
            iat: now,
            iss: self.issuer.to_string(),
            jti: random::uuid(),
            kubernetes: pod.kubernetes(),
            nbf: now,
            sub: format!("system:serviceaccount:{}:{}", pod.namespace, pod.service_account),
        }
    }

    /// The JOSE header that goes with the key that signs, as JSON.
    #[must_use]
    pub fn header(&self) -> String {
        let signer = self.signer();
        json!({ "alg": signer.public.algorithm.name(), "kid": signer.public.kid }).to_string()
    }

    /// A token of exactly these two texts, whatever they say, signed by the key that signs: for forging.
    #[must_use]
    #[expect(clippy::expect_used, reason = "signing fails only if memory does, and a fake has nobody to tell")]
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.signer().sign(message.as_bytes()).expect("a generated key signs");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The `kid` of the key that signs.
    #[must_use]
    pub fn kid(&self) -> String {
        self.signer().public.kid.clone()
    }

    /// Makes a key that is neither published nor signs yet, and returns its `kid`.
    pub fn generate(&self, algorithm: Algorithm) -> String {
        let key = generate(algorithm);
        let kid = key.public.kid.clone();
        self.ring.lock().keys.push(key);
        kid
    }

    /// Makes a key that is published and signs from now on; the others stay published. Returns its `kid`.
    pub fn rotate(&self, algorithm: Algorithm) -> String {
        let kid = self.generate(algorithm);
        self.publish(&kid);
        self.sign_with(&kid);
        kid
    }

    /// Lets the key of this `kid` sign from now on; an unknown one changes nothing.
    pub fn sign_with(&self, kid: &str) {
        let mut ring = self.ring.lock();
        if let Some(key) = ring.find(kid) {
            ring.signer = key;
        }
    }

    /// Adds the key of this `kid` to the JWKS; an unknown one changes nothing.
    pub fn publish(&self, kid: &str) {
        let mut ring = self.ring.lock();
        if let Some(key) = ring.find(kid) {
            ring.published.push(key.public.jwk());
        }
    }

    /// Adds any JSON to the JWKS: weak, broken, doubled or foreign keys.
    pub fn publish_jwk(&self, jwk: Value) {
        self.ring.lock().published.push(jwk);
    }

    /// Takes every key of this `kid` out of the JWKS. EKS Auth still knows it.
    pub fn unpublish(&self, kid: &str) {
        self.ring.lock().published.retain(|jwk| jwk.get("kid").and_then(Value::as_str) != Some(kid));
    }

    /// The JWKS (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({ "keys": self.ring.lock().published })
    }

    /// The exact `iss` of its tokens.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// All public keys, published or not.
    pub(super) fn all(&self) -> Vec<PublicKey> {
        self.ring.lock().keys.iter().map(|key| key.public.clone()).collect()
    }

    fn signer(&self) -> Arc<Key> {
        self.ring.lock().signer.clone()
    }
}

impl Ring {
    fn find(&self, kid: &str) -> Option<Arc<Key>> {
        self.keys.iter().find(|key| key.public.kid == kid).cloned()
    }
}

#[expect(clippy::expect_used, reason = "generation fails only if memory does, and a fake has nobody to tell")]
fn generate(algorithm: Algorithm) -> Arc<Key> {
    Arc::new(Key::generate(algorithm).expect("the system has entropy"))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;
    use crate::sim::jwt::{Jwt, Rejected, TokenClaims};
    use crate::sim::pod::NODE;

    const AUDIENCE: &str = "pods.eks.amazonaws.com";
    const HOUR: Duration = Duration::from_secs(3600);

    fn keys(algorithm: Algorithm) -> Keys {
        Keys::new("https://issuer.test", algorithm, Clock::System)
    }

    fn pod() -> PodSpec {
        PodSpec::new("default", "app", "app-0")
    }

    fn verify(keys: &Keys, token: &str) -> Result<TokenClaims, Rejected> {
        Jwt::parse(token)?.verify(&keys.all(), keys.clock.now().unix())
    }

    fn parse(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn another_library_verifies_tokens_of_every_algorithm_by_the_published_key() {
        for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384] {
            let keys = keys(algorithm);
            let token = keys.token(&pod(), AUDIENCE, HOUR);
            let set: JwkSet = serde_json::from_value(keys.jwks()).unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            let jwk = set.find(&header.kid.unwrap()).unwrap();
            let mut validation = Validation::new(header.alg);
            validation.set_audience(&[AUDIENCE]);
            validation.set_issuer(&["https://issuer.test"]);
            let decoded = jsonwebtoken::decode::<Claims>(&token, &DecodingKey::from_jwk(jwk).unwrap(), &validation).unwrap();
            assert_eq!(decoded.claims.sub, "system:serviceaccount:default:app");
            assert_eq!(verify(&keys, &token).unwrap().kubernetes.unwrap()["pod"]["name"], "app-0");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_has_the_shape_of_kubernetes() {
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let keys = Keys::new("https://issuer.test", Algorithm::Es256, clock);
        let pod = pod();
        let token = keys.token(&pod, AUDIENCE, HOUR);
        let mut parts = token.split('.');
        let header = parse(parts.next().unwrap());
        assert_eq!(header, json!({ "alg": "ES256", "kid": keys.kid() }));
        let mut payload = parse(parts.next().unwrap());
        assert_eq!(payload["jti"].take().as_str().unwrap().len(), 36);
        let node = payload["kubernetes.io"]["node"].take();
        assert_eq!(node["name"], NODE);
        let expected = json!({
            "aud": [AUDIENCE], "exp": 1_800_003_600, "iat": 1_800_000_000, "iss": "https://issuer.test", "jti": null,
            "kubernetes.io": {
                "namespace": "default", "node": null, "pod": { "name": "app-0", "uid": pod.pod_uid },
                "serviceaccount": { "name": "app", "uid": pod.service_account_uid },
            },
            "nbf": 1_800_000_000, "sub": "system:serviceaccount:default:app",
        });
        assert_eq!(payload, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_with_a_token_is_found() {
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let keys = Keys::new("https://issuer.test", Algorithm::Es256, clock.clone());
        let token = keys.token(&pod(), AUDIENCE, HOUR);
        let verdict = |token: &str| verify(&keys, token).map(|_| ());
        assert_eq!(verdict("a.b.c"), Err(Rejected::Malformed));
        let forged = keys.sign(&keys.header(), "{}");
        let (message, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = forged.rsplit_once('.').unwrap();
        assert_eq!(verdict(&format!("{message}.{signature}")), Err(Rejected::Signature));
        assert_eq!(verdict(&forged), Err(Rejected::MissingClaims));
        let (_, rest) = token.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"other"}"#);
        assert_eq!(verdict(&format!("{other}.{rest}")), Err(Rejected::UnknownKey));
        clock.step(-1);
        assert_eq!(verdict(&token), Err(Rejected::NotYetValid));
        clock.step(1);
        clock.step(3600);
        assert_eq!(verdict(&token), Err(Rejected::Expired(1_800_003_600)));
    }

    #[test]
    fn rotation_and_publication_are_apart() {
        let keys = keys(Algorithm::Es256);
        let shown = || keys.jwks()["keys"].as_array().unwrap().iter().map(|jwk| jwk["kid"].clone()).collect::<Vec<_>>();
        let (first, second) = (keys.kid(), keys.generate(Algorithm::Es384));
        assert_eq!((shown(), keys.kid()), (vec![json!(first)], first.clone()));
        keys.sign_with(&second);
        assert_eq!((shown(), keys.kid()), (vec![json!(first)], second.clone()));
        assert!(verify(&keys, &keys.token(&pod(), AUDIENCE, HOUR)).is_ok(), "EKS knows what is not published");
        keys.publish(&second);
        keys.unpublish(&first);
        keys.publish_jwk(json!({ "kid": "weak" }));
        assert_eq!(shown(), [json!(second), json!("weak")]);
    }
}
