//! What is remembered, counted and waited for on the way from a token to a caller; what is wrong with tokens themselves is in the
//! table of `tests/agent/vectors`.

use std::net::Ipv4Addr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::token::config::Mode;
use crate::token::testing::{
    AUDIENCE, ISSUED_AT, ISSUER, Signer, config, document, ec256, ec384, payload, payload_with, rsa, rsa_other,
};

struct Bench {
    verifier: Verifier,
    keyring: Keyring,
    clock: Clock,
}

impl Bench {
    /// A verifier of mode `mode` that stands 10 s after the good token was issued.
    fn new(mode: Mode, keys: &[Value]) -> Self {
        let clock = Clock::simulated(from_unix_seconds(ISSUED_AT + 10).unwrap());
        let metrics = Metrics::new();
        let keyring = Keyring::new(mode, &Context::new(clock.clone()));
        if !keys.is_empty() {
            keyring.add_fixed(ISSUER.into(), &document(keys)).unwrap();
        }
        let verifier = Verifier::new(&config(mode), keyring.clone(), clock.clone(), &metrics);
        Self { verifier, keyring, clock }
    }

    fn usual() -> Self {
        Self::new(Mode::Local, &[rsa().jwk("rsa"), ec256().jwk("ec256"), ec384().jwk("ec384")])
    }

    async fn verify(&self, token: &str) -> Result<Arc<Caller>, Refusal> {
        self.verify_from(token, 1).await
    }

    async fn verify_from(&self, token: &str, source: u32) -> Result<Arc<Caller>, Refusal> {
        self.verifier.verify(RawToken::new(token.as_bytes()), IpAddr::V4(Ipv4Addr::from(source)), self.clock.now()).await
    }

    async fn reason(&self, token: &str) -> Option<Reason> {
        self.verify(token).await.err().map(|refusal| refusal.reason)
    }
}

fn good() -> String {
    rsa().token("rsa", &payload())
}

/// The token with one of its parts replaced.
fn spliced(token: &str, part: usize, with: &str) -> String {
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[part] = with;
    parts.join(".")
}

#[tokio::test(start_paused = true)]
async fn good_tokens_of_every_algorithm() {
    let bench = Bench::usual();
    for (signer, kid) in [(rsa(), "rsa"), (ec256(), "ec256"), (ec384(), "ec384")] {
        let caller = bench.verify(&signer.token(kid, &payload())).await.unwrap();
        assert_eq!(caller.subject().identity().unwrap().pod, "app-0");
        assert_eq!((&**caller.audience(), caller.presented().token_id.as_str()), (AUDIENCE, "d1c5"));
        assert_eq!(caller.presented().expires_at, from_unix_seconds(ISSUED_AT + 86_400));
    }
    let nameless = bench.verify(&rsa().token("rsa", &payload_with("/jti", Value::Null))).await.unwrap();
    assert_eq!(nameless.presented().token_id.len(), 16, "the fingerprint");
}

#[tokio::test(start_paused = true)]
async fn a_memoised_token_is_held_against_the_clock() {
    let bench = Bench::usual();
    let first = bench.verify(&good()).await.unwrap();
    assert!(Arc::ptr_eq(&first, &bench.verify(&good()).await.unwrap()), "a hit");
    bench.clock.step(86_400);
    assert_eq!(bench.reason(&good()).await, Some(Reason::Expired));
    bench.clock.step(-86_400);
    assert!(bench.verify(&good()).await.is_ok(), "the clock was set right");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_two_hours_off_refuses_for_no_longer_than_it_is() {
    let bench = Bench::usual();
    bench.clock.step(-7_200);
    assert_eq!(bench.reason(&good()).await, Some(Reason::NotYetValid));
    bench.clock.step(7_200);
    assert_eq!(bench.reason(&good()).await, None);
    let short = rsa().token("rsa", &payload_with("/exp", ISSUED_AT + 3_600));
    bench.clock.step(7_200);
    assert_eq!(bench.reason(&short).await, Some(Reason::Expired));
    bench.clock.step(-7_200);
    assert_eq!(bench.reason(&short).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_removed_key_ends_what_it_signed() {
    let bench = Bench::usual();
    assert!(bench.verify(&good()).await.is_ok());
    bench.keyring.replace_fixed(&document(&[rsa_other().jwk("new")]));
    assert_eq!(bench.reason(&good()).await, Some(Reason::UnknownKid));
    bench.keyring.replace_fixed(&document(&[rsa_other().jwk("rsa")]));
    assert_eq!(bench.reason(&good()).await, Some(Reason::Signature));
    bench.keyring.replace_fixed(&document(&[rsa().jwk("rsa")]));
    assert_eq!(bench.reason(&good()).await, None, "a refusal is of its key set too");
}

#[tokio::test(start_paused = true)]
async fn issuers_that_share_a_kid_are_told_apart_by_their_keys() {
    let bench = Bench::new(Mode::Local, &[rsa().jwk("k")]);
    bench.keyring.add_fixed("https://b.example".into(), &document(&[rsa_other().jwk("k")])).unwrap();
    let token = |signer: &Signer, issuer: &str| signer.token("k", &payload_with("/iss", issuer));
    assert_eq!(bench.reason(&token(rsa(), ISSUER)).await, None);
    assert_eq!(bench.reason(&token(rsa_other(), "https://b.example")).await, None);
    assert_eq!(bench.reason(&token(rsa_other(), ISSUER)).await, Some(Reason::Issuer));
    assert_eq!(bench.reason(&token(rsa(), "https://b.example")).await, Some(Reason::Issuer));
}

#[tokio::test(start_paused = true)]
async fn failures_spend_their_sources_budget_only() {
    let bench = Bench::usual();
    let forged: Vec<_> = (0..60).map(|number| spliced(&good(), 2, &URL_SAFE_NO_PAD.encode([number; 256]))).collect();
    let mut shed = 0;
    for token in &forged {
        shed += usize::from(bench.reason(token).await == Some(Reason::VerifyBudget));
    }
    assert_eq!(shed, 20);
    assert_eq!(bench.reason(&forged[0]).await, Some(Reason::Signature), "a known forgery costs no check");
    let refusal = bench.verify(&good()).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.retry_after), (Reason::VerifyBudget, Some(RETRY_AFTER)));
    assert!(bench.verify_from(&good(), 2).await.is_ok());
    assert!(bench.verify(&good()).await.is_ok(), "what is verified is served whoever asks");
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_missing_charge_nobody() {
    let bench = Bench::new(Mode::Local, &[]);
    for _ in 0..50 {
        assert_eq!(bench.reason(&good()).await, Some(Reason::KeysUnavailable));
    }
    bench.keyring.add_fixed(ISSUER.into(), &document(&[rsa().jwk("rsa")])).unwrap();
    assert_eq!(bench.reason(&good()).await, None);
}

#[tokio::test(start_paused = true)]
async fn delegated_verification_reads_no_claim() {
    let bench = Bench::new(Mode::Delegated, &[rsa().jwk("rsa")]);
    let token = rsa_other().token("unknown", &json!({}));
    let caller = bench.verify(&token).await.unwrap();
    assert_eq!(**caller.subject(), Subject::Delegated(TokenDigest::of(token.as_bytes())));
    assert_eq!((&**caller.audience(), caller.presented().expires_at), (POD_IDENTITY_AUDIENCE, None));
    assert!(!Arc::ptr_eq(&caller, &bench.verify(&token).await.unwrap()), "and remembers nothing");
    assert_eq!(bench.reason(&"A".repeat(100)).await, Some(Reason::TokenMalformed));
}

#[tokio::test(start_paused = true)]
async fn tokens_that_only_aws_can_tell_are_limited_until_it_has() {
    let bench = Bench::new(Mode::Delegated, &[rsa().jwk("rsa")]);
    let good = bench.verify("e30.e30.GGGGGGGGGGGG").await.unwrap();
    bench.verifier.confirm(&good);
    let junk: Vec<_> = (100..150).map(|number| format!("e30.e30.AAAAAAAAA{number}")).collect();
    let mut reasons = Vec::new();
    for token in &junk {
        reasons.push(bench.reason(token).await);
    }
    assert_eq!(reasons.iter().filter(|reason| reason.is_none()).count(), 9);
    assert_eq!(reasons.last(), Some(&Some(Reason::VerifyBudget)));
    assert_eq!(bench.reason("e30.e30.GGGGGGGGGGGG").await, None, "a confirmed one goes on");
    assert!(bench.verify_from(&junk[40], 2).await.is_ok(), "and so does a neighbour");
}

#[test]
fn verifying_is_a_task_of_its_own() {
    fn is_send<T: Send>(_: T) {}
    let (bench, now) = (Bench::usual_now(), Clock::System.now());
    is_send(bench.verifier.verify(RawToken::new(b""), IpAddr::V4(Ipv4Addr::LOCALHOST), now));
}

impl Bench {
    fn usual_now() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { Self::usual() })
    }
}

proptest! {
    #[test]
    fn any_other_byte_anywhere_is_refused(place in any::<prop::sample::Index>(), byte in any::<u8>(), which in 0..3_usize) {
        let (signer, kid) = [(rsa(), "rsa"), (ec256(), "ec256"), (ec384(), "ec384")][which];
        let mut token = signer.token(kid, &payload()).into_bytes();
        let place = place.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(async {
            let bench = Bench::usual();
            bench.verifier.verify(RawToken::new(&token), IpAddr::V4(Ipv4Addr::LOCALHOST), bench.clock.now()).await
        });
        prop_assert!(outcome.is_err());
    }
}
