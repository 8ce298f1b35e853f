//! The issuer's signing keys: what is published, which of them signs, and the tokens they make.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::base::clock::Clock;
use crate::domain::identity::TokenDigest;
use crate::sim::key::Key;
use crate::sim::pod::{Claims, PodSpec};
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

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It is past its `exp`.
    Expired,
    /// Anything else; the text is for people.
    Invalid(&'static str),
}

impl Keys {
    /// Keys of `issuer`, with one that is published and signs.
    #[must_use]
    pub fn new(issuer: &str, algorithm: Algorithm, clock: Clock) -> Self {
        let signer = generate(algorithm);
        let ring = Ring { keys: vec![signer.clone()], published: vec![signer.jwk()], signer };
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
        json!({ "alg": signer.algorithm.name(), "kid": signer.kid }).to_string()
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
        self.signer().kid.clone()
    }

    /// Makes a key that is neither published nor signs yet, and returns its `kid`.
    pub fn generate(&self, algorithm: Algorithm) -> String {
        let key = generate(algorithm);
        let kid = key.kid.clone();
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
            ring.published.push(key.jwk());
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

    /// The claims of a token that one of these keys signed, published or not, for `audience`, and that is still good.
    pub(super) fn verify(&self, token: &str, audience: &str) -> Result<Claims, Rejected> {
        let (message, signature) = token.rsplit_once('.').ok_or(Rejected::Invalid("malformed"))?;
        let (header, payload) = message.split_once('.').ok_or(Rejected::Invalid("malformed"))?;
        let key = self.key_named_in(header).ok_or(Rejected::Invalid("unknown key"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Rejected::Invalid("malformed signature"))?;
        if !key.verifies(message.as_bytes(), &signature) {
            return Err(Rejected::Invalid("signature mismatch"));
        }
        let claims: Claims = parse(payload).ok_or(Rejected::Invalid("missing claims"))?;
        self.check(&claims, audience)?;
        Ok(claims)
    }

    fn check(&self, claims: &Claims, audience: &str) -> Result<(), Rejected> {
        let now = self.clock.now().unix();
        let faults = [
            (claims.exp <= now, Rejected::Expired),
            (claims.nbf > now, Rejected::Invalid("not valid yet")),
            (*claims.iss != *self.issuer, Rejected::Invalid("unknown issuer")),
            (claims.aud != [audience], Rejected::Invalid("invalid audience")),
        ];
        faults.into_iter().find_map(|(is_fault, rejected)| is_fault.then_some(rejected)).map_or(Ok(()), Err)
    }

    fn key_named_in(&self, header: &str) -> Option<Arc<Key>> {
        let header: Value = parse(header)?;
        let key = self.ring.lock().find(header.get("kid")?.as_str()?)?;
        (header.get("alg")?.as_str()? == key.algorithm.name()).then_some(key)
    }

    fn signer(&self) -> Arc<Key> {
        self.ring.lock().signer.clone()
    }
}

impl Ring {
    fn find(&self, kid: &str) -> Option<Arc<Key>> {
        self.keys.iter().find(|key| key.kid == kid).cloned()
    }
}

#[expect(clippy::expect_used, reason = "generation fails only if memory does, and a fake has nobody to tell")]
fn generate(algorithm: Algorithm) -> Arc<Key> {
    Arc::new(Key::generate(algorithm).expect("the system has entropy"))
}

fn parse<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// What records call a token, and the subject it claims, unverified.
pub(super) fn peek(token: &str) -> (String, Option<String>) {
    let payload: Option<Value> = token.split('.').nth(1).and_then(parse);
    let subject = payload.and_then(|payload| payload.get("sub")?.as_str().map(str::to_owned));
    (TokenDigest::of(token.as_bytes()).fingerprint(), subject)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;
    use crate::sim::pod::NODE;

    const AUDIENCE: &str = "pods.eks.amazonaws.com";
    const HOUR: Duration = Duration::from_secs(3600);

    fn keys(algorithm: Algorithm) -> Keys {
        Keys::new("https://issuer.test", algorithm, Clock::System)
    }

    fn pod() -> PodSpec {
        PodSpec::new("default", "app", "app-0")
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
            assert_eq!(keys.verify(&token, AUDIENCE).unwrap().kubernetes.pod.name, "app-0");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_has_the_shape_of_kubernetes() {
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let keys = Keys::new("https://issuer.test", Algorithm::Es256, clock);
        let pod = pod();
        let token = keys.token(&pod, AUDIENCE, HOUR);
        let mut parts = token.split('.');
        let header: Value = parse(parts.next().unwrap()).unwrap();
        assert_eq!(header, json!({ "alg": "ES256", "kid": keys.kid() }));
        let mut payload: Value = parse(parts.next().unwrap()).unwrap();
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
        let verdict = |token: &str, audience| keys.verify(token, audience).map(|_| ());
        assert_eq!(verdict(&token, "sts.amazonaws.com"), Err(Rejected::Invalid("invalid audience")));
        assert_eq!(verdict("a.b.c", AUDIENCE), Err(Rejected::Invalid("unknown key")));
        let forged = keys.sign(&keys.header(), "{}");
        let (message, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = forged.rsplit_once('.').unwrap();
        assert_eq!(verdict(&format!("{message}.{signature}"), AUDIENCE), Err(Rejected::Invalid("signature mismatch")));
        assert_eq!(verdict(&forged, AUDIENCE), Err(Rejected::Invalid("missing claims")));
        clock.step(3600);
        assert_eq!(verdict(&token, AUDIENCE), Err(Rejected::Expired));
    }

    #[test]
    fn rotation_and_publication_are_apart() {
        let keys = keys(Algorithm::Es256);
        let shown = || keys.jwks()["keys"].as_array().unwrap().iter().map(|jwk| jwk["kid"].clone()).collect::<Vec<_>>();
        let (first, second) = (keys.kid(), keys.generate(Algorithm::Es384));
        assert_eq!((shown(), keys.kid()), (vec![json!(first)], first.clone()));
        keys.sign_with(&second);
        assert_eq!((shown(), keys.kid()), (vec![json!(first)], second.clone()));
        assert!(keys.verify(&keys.token(&pod(), AUDIENCE, HOUR), AUDIENCE).is_ok(), "AWS knows what is not published");
        keys.publish(&second);
        keys.unpublish(&first);
        keys.publish_jwk(json!({ "kid": "weak" }));
        assert_eq!(shown(), [json!(second), json!("weak")]);
    }
}
