//! The verifier: steps 6 to 15 of token validation, cheapest first.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::clock::{Clock, Now, from_unix_seconds};
use crate::domain::identity::{BearerToken, Presented, RawToken, Subject, TokenDigest};
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::domain::refusal::{Reason, Refusal};
use crate::egress::https::Https;
use crate::limits::verification::{DELEGATED, LOCAL, VerificationBudget};
use crate::observe::Context;
use crate::observe::metrics::Metrics;
use crate::token::Caller;
use crate::token::claims::Claims;
use crate::token::compact::Compact;
use crate::token::config::{Config, Standing};
use crate::token::header::Header;
use crate::token::keyring::Keyring;
use crate::token::memo::{Confirmed, Refused, Verified};
use crate::token::rules::Rules;
use crate::token::status::KeyringStatus;

/// From the complete head to when waiting for keys ends; 50 ms of the 900 are left for the answer.
const WAIT: Duration = Duration::from_millis(850);
/// For a source that has spent its budget; a token of it is back in less.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Verifies tokens against a keyring.
#[derive(Debug)]
pub struct Verifier {
    keyring: Keyring,
    rules: Rules,
    verified: Verified,
    refused: Refused,
    confirmed: Confirmed,
    budget: VerificationBudget,
    undecided: VerificationBudget,
    delegated_audience: Arc<str>,
    clock: Clock,
}

impl Verifier {
    /// A verifier whose keys are polled in the background, until shutdown.
    #[must_use]
    pub fn start(config: &Config, http: Https, context: &Context) -> Self {
        let keyring = Keyring::new(config.mode, context);
        keyring.start(config, http);
        Self::new(config, keyring, context.clock.clone(), &context.metrics)
    }

    /// A verifier that remembers nothing yet.
    #[must_use]
    pub fn new(config: &Config, keyring: Keyring, clock: Clock, metrics: &Metrics) -> Self {
        metrics.node_name_known.set(i64::from(config.node_name.is_some()));
        if config.node_name.is_none() {
            tracing::warn!("this node's name is not known: tokens of pods on other nodes are not refused");
        }
        Self {
            keyring,
            rules: Rules::new(config.audiences.clone(), config.node_name.clone()),
            verified: Verified::new(config.memo_capacity),
            refused: Refused::default(),
            confirmed: Confirmed::new(config.memo_capacity),
            budget: VerificationBudget::new(LOCAL, &clock),
            undecided: VerificationBudget::new(DELEGATED, &clock),
            // Claims are not read then, and delegated verification knows the Pod Identity exchange only.
            delegated_audience: POD_IDENTITY_AUDIENCE.into(),
            clock,
        }
    }

    /// Who presents `token`, asked at `asked`. A token seen before costs a look-up; only a missing key makes anyone wait.
    ///
    /// # Errors
    /// With the reason of the first check that fails.
    pub async fn verify(&self, token: RawToken<'_>, source: IpAddr, asked: Now) -> Result<Arc<Caller>, Refusal> {
        let generation = self.keyring.keys().generation();
        if let Some(caller) = self.verified.get(token.expose(), generation) {
            return in_time(caller, asked);
        }
        let token = BearerToken::parse(token.expose()).ok_or(Reason::TokenMalformed)?;
        let digest = TokenDigest::of(token.expose().as_bytes());
        if let Some(refusal) = self.refused.get(digest, generation, asked.mono) {
            return Err(refusal);
        }
        if !self.budget.admits(source, asked) {
            return Err(over_budget("too many failed verifications"));
        }
        let outcome = Box::pin(self.prove(token, digest, source, asked.mono + WAIT)).await;
        if let Err(refusal) = &outcome {
            self.failed(refusal, digest, generation, source);
        }
        outcome
    }

    /// What status shows.
    #[must_use]
    pub fn status(&self) -> KeyringStatus {
        self.keyring.status()
    }

    /// Steps 8 to 15.
    async fn prove(
        &self,
        token: BearerToken,
        digest: TokenDigest,
        source: IpAddr,
        deadline: Instant,
    ) -> Result<Arc<Caller>, Refusal> {
        let compact = Compact::split(token.expose())?;
        if self.keyring.standing(deadline).await? == Standing::Delegated {
            self.admit_undecided(digest, source)?;
            return Ok(Arc::new(self.delegated(token, digest)));
        }
        let header = Header::parse(&compact.header)?;
        self.keyring.find(&header.kid, deadline).await?;
        let proof = self.keyring.keys().prove(&header, &compact)?;
        let claims = Claims::parse(&compact.payload)?;
        let expires_at = from_unix_seconds(claims.exp);
        let token_id = claims.jti.clone().unwrap_or_else(|| digest.fingerprint());
        let now = self.clock.now();
        let (identity, audience) = self.rules.check(claims, &proof.issuers, now)?;
        let presented = Arc::new(Presented { token, expires_at, token_id });
        let caller = Arc::new(Caller { subject: Arc::new(Subject::Verified(identity)), presented, audience });
        self.verified.insert(Arc::clone(&caller), proof.generation, now.wall);
        Ok(caller)
    }

    /// EKS Auth has answered for this caller: while verification is delegated, its token is limited no more.
    pub fn confirm(&self, caller: &Caller) {
        if let Subject::Delegated(digest) = **caller.subject() {
            self.confirmed.insert(digest);
        }
    }

    /// Anyone can make a token that only EKS Auth can tell from a good one, so few of one source are tried.
    fn admit_undecided(&self, digest: TokenDigest, source: IpAddr) -> Result<(), Refusal> {
        let now = self.clock.now();
        if self.confirmed.contains(digest) {
            return Ok(());
        }
        if !self.undecided.admits(source, now) {
            return Err(over_budget("too many tokens that EKS Auth has not confirmed"));
        }
        self.undecided.charge(source, now);
        Ok(())
    }

    /// A caller of whom nothing is known. It is never remembered: anyone can make such a token.
    fn delegated(&self, token: BearerToken, digest: TokenDigest) -> Caller {
        let presented = Presented { token, expires_at: None, token_id: digest.fingerprint() };
        Caller {
            subject: Arc::new(Subject::Delegated(digest)),
            presented: Arc::new(presented),
            audience: Arc::clone(&self.delegated_audience),
        }
    }

    /// A failure is charged to its source, unless it is ours.
    fn failed(&self, refusal: &Refusal, digest: TokenDigest, generation: u64, source: IpAddr) {
        let now = self.clock.now();
        if !matches!(refusal.reason, Reason::KeysUnavailable | Reason::VerifyBudget) {
            self.budget.charge(source, now);
        }
        self.refused.insert(digest, refusal, generation, now.mono);
    }
}

fn over_budget(cause: &str) -> Refusal {
    Refusal::new(Reason::VerifyBudget, cause).retry_after(RETRY_AFTER)
}

/// Step 15: a token is remembered for longer than it is good.
fn in_time(caller: Arc<Caller>, now: Now) -> Result<Arc<Caller>, Refusal> {
    let expires_at = caller.presented.expires_at;
    if expires_at.is_some_and(|at| at > now.wall) { Ok(caller) } else { Err(Refusal::new(Reason::Expired, "exp has passed")) }
}

#[cfg(test)]
mod tests {
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
    async fn forged_and_altered_tokens() {
        let bench = Bench::usual();
        let (token, encoded) = (good(), |text: &str| URL_SAFE_NO_PAD.encode(text));
        let forged_header = |header: &str| rsa().token_of(header, &payload().to_string());
        let public_key = rsa().jwk("rsa")["n"].to_string();
        let hmac_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public_key.as_bytes());
        let hmac_signed = format!("{}.{}", encoded(r#"{"alg":"HS256","kid":"rsa"}"#), encoded(&payload().to_string()));
        let hmac_tag = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&hmac_key, hmac_signed.as_bytes()));
        let other_payload = encoded(&payload_with("/kubernetes.io/namespace", "kube-system").to_string());
        for (what, token, expected) in [
            ("the payload of another", spliced(&token, 1, &other_payload), Reason::Signature),
            ("a signature of another key", rsa_other().token("rsa", &payload()), Reason::Signature),
            ("an empty RSA signature", spliced(&token, 2, "AA"), Reason::Signature),
            ("zeros for an EC signature", spliced(&ec256().token("ec256", &payload()), 2, &"A".repeat(86)), Reason::Signature),
            ("alg none", format!("{}.{}.AA", encoded(r#"{"alg":"none","kid":"rsa"}"#), encoded("{}")), Reason::Alg),
            ("no signature", spliced(&token, 2, ""), Reason::TokenMalformed),
            ("HMAC with the public key", format!("{hmac_signed}.{hmac_tag}"), Reason::Alg),
            ("a key in the header", forged_header(r#"{"alg":"RS256","kid":"rsa","jwk":{}}"#), Reason::Header),
            ("a URL in the header", forged_header(r#"{"alg":"RS256","kid":"rsa","jku":"http://127.0.0.1"}"#), Reason::Header),
            ("crit", forged_header(r#"{"alg":"RS256","kid":"rsa","crit":[]}"#), Reason::Header),
            ("ES256 for an RSA key", forged_header(r#"{"alg":"ES256","kid":"rsa"}"#), Reason::Alg),
            ("RS256 for an EC key", forged_header(r#"{"alg":"RS256","kid":"ec256"}"#), Reason::Alg),
            ("ES384 for a P-256 key", forged_header(r#"{"alg":"ES384","kid":"ec256"}"#), Reason::Alg),
            ("another known key", forged_header(r#"{"alg":"ES256","kid":"ec256"}"#), Reason::Signature),
            ("a key that does not exist", rsa().token("../rsa", &payload()), Reason::UnknownKid),
            ("an empty kid", rsa().token("", &payload()), Reason::UnknownKid),
            ("a kid with a NUL", rsa().token("rsa\0", &payload()), Reason::UnknownKid),
            ("no JWT", "A".repeat(100), Reason::TokenMalformed),
            ("forbidden bytes", format!("{token}\n"), Reason::TokenMalformed),
            ("a payload that is no object", rsa().token("rsa", &json!([])), Reason::Claims),
            ("a payload over 8 KiB", rsa().token("rsa", &payload_with("/x", "x".repeat(8_192))), Reason::TokenMalformed),
            ("a header over 1 KiB", rsa().token(&"k".repeat(1_024), &payload()), Reason::TokenMalformed),
            ("another issuer's name", rsa().token("rsa", &payload_with("/iss", "https://b.example")), Reason::Issuer),
            ("expired", rsa().token("rsa", &payload_with("/exp", ISSUED_AT)), Reason::Expired),
        ] {
            for source in [1, 2] {
                let refusal = bench.verify_from(&token, source).await.unwrap_err();
                assert_eq!(refusal.reason, expected, "{what}");
                assert!(!refusal.cause.contains(&token[..20]), "{what}");
            }
        }
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
}
