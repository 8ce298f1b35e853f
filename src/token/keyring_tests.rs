//! Polling, publishing and waiting, against sources whose answers the test decides.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use super::*;
use crate::base::clock::Clock;
use crate::token::testing::{access, config, document, rsa, rsa_other};

/// A keyring with one polled source whose answers the test decides.
struct Bench {
    keyring: Keyring,
    context: Context,
    fetches: Arc<AtomicUsize>,
    answer: watch::Sender<Option<Vec<u8>>>,
}

impl Bench {
    fn new(mode: Mode, answer: Option<Vec<u8>>) -> Self {
        let context = Context::new(Clock::simulated(UNIX_EPOCH));
        let keyring = Keyring::new(mode, &context);
        let id = keyring.update(|keys, now| keys.add(Some("A".into()), "test".to_owned(), now.mono));
        keyring.update(|keys, _| keys.ask(id));
        let (fetches, answer) = (Arc::default(), watch::Sender::new(answer));
        let bench = Self { keyring, context, fetches, answer };
        bench.poll(id);
        bench
    }

    fn poll(&self, id: SourceId) {
        let (keyring, fetches, answer) = (self.keyring.clone(), Arc::clone(&self.fetches), self.answer.subscribe());
        let fetch = move || {
            fetches.fetch_add(1, Ordering::Relaxed);
            let document = answer.borrow().clone();
            async move {
                sleep(Duration::from_millis(20)).await;
                let keys = jwks::parse(&document.unwrap_or_default());
                let keys = keys.map_err(|error| SourceError::Keys("test".into(), error))?;
                Ok(Loaded { keys, max_age: Some(Duration::from_secs(1_000)) })
            }
        };
        tokio::spawn(async move { keyring.poll(id, fetch).await });
    }

    fn deadline(&self) -> Instant {
        self.context.clock.now().mono + Duration::from_millis(900)
    }

    async fn find(&self, kid: &str) -> Option<Reason> {
        self.keyring.find(kid, self.deadline()).await.err().map(|refusal| refusal.reason)
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

fn one(kid: &str) -> Option<Vec<u8>> {
    Some(document(&[rsa().jwk(kid)]))
}

async fn after(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_first_keys() {
    let bench = Bench::new(Mode::Local, one("a"));
    assert!(bench.context.readiness.pending().contains_key("keys"));
    assert_eq!(bench.keyring.standing(bench.deadline()).await.unwrap(), Standing::Local);
    assert!(bench.context.readiness.pending().is_empty());
    assert_eq!(bench.find("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_until_their_deadline_only() {
    let bench = Bench::new(Mode::Local, None);
    let deadline = bench.deadline();
    let refusal = bench.keyring.standing(deadline).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.retry_after), (Reason::KeysUnavailable, Some(Duration::from_secs(1))));
    assert!(bench.context.clock.now().mono >= deadline);
    bench.answer.send_replace(one("a"));
    after(3).await;
    assert_eq!(bench.find("a").await, None, "a failed first attempt is followed by others soon");
}

#[tokio::test(start_paused = true)]
async fn auto_delegates_until_a_source_answers() {
    let bench = Bench::new(Mode::Auto, None);
    assert_eq!(bench.keyring.standing(bench.deadline()).await.unwrap(), Standing::Delegated);
    assert_eq!(bench.context.metrics.verification_delegated.get(), 1);
    assert!(bench.context.readiness.pending().is_empty());
    bench.answer.send_replace(one("a"));
    after(61).await;
    assert_eq!(bench.keyring.standing(bench.deadline()).await.unwrap(), Standing::Local);
    assert_eq!(bench.context.metrics.verification_delegated.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_forged_kids_cost_one_fetch() {
    let bench = Bench::new(Mode::Local, one("a"));
    after(40).await;
    assert_eq!(bench.fetches(), 1);
    let storm = (0..10_000).map(|number| {
        let (keyring, deadline) = (bench.keyring.clone(), bench.deadline());
        tokio::spawn(async move { keyring.find(&number.to_string(), deadline).await.unwrap_err().reason })
    });
    for forged in storm.collect::<Vec<_>>() {
        assert_eq!(forged.await.unwrap(), Reason::UnknownKid);
    }
    assert_eq!(bench.fetches(), 2);
    after(29).await;
    assert_eq!(bench.find("forged").await, Some(Reason::UnknownKid));
    assert_eq!(bench.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_makes_nobody_wait() {
    let bench = Bench::new(Mode::Local, one("a"));
    let hole = bench.keyring.update(|keys, now| {
        let id = keys.add(Some("B".into()), "hole".to_owned(), now.mono);
        keys.ask(id);
        id
    });
    let keyring = bench.keyring.clone();
    tokio::spawn(async move { keyring.poll(hole, std::future::pending).await });
    assert_eq!(bench.find("forged").await, Some(Reason::KeysUnavailable), "its first attempt may still end");
    after(40).await;
    let start = bench.context.clock.now().mono;
    assert_eq!(bench.find("forged").await, Some(Reason::UnknownKid));
    assert!(bench.context.clock.now().mono - start < Duration::from_millis(50), "one refetch of what holds keys");
}

#[tokio::test(start_paused = true)]
async fn a_surprise_key_is_found_while_its_first_user_waits() {
    let bench = Bench::new(Mode::Local, one("a"));
    after(40).await;
    bench.answer.send_replace(one("b"));
    assert_eq!(bench.find("b").await, None);
    assert_eq!(bench.find("a").await, Some(Reason::UnknownKid), "and the removed one is gone");
    assert_eq!(bench.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_not_refused_for_good_while_its_source_fails() {
    let bench = Bench::new(Mode::Local, one("a"));
    after(1).await;
    bench.answer.send_replace(None);
    after(290).await;
    assert_eq!(bench.find("b").await, Some(Reason::UnknownKid), "the set is young");
    after(300).await;
    assert_eq!(bench.find("b").await, Some(Reason::KeysUnavailable));
    assert_eq!(bench.find("a").await, None, "known keys stay");
    after(24 * 3_600).await;
    assert_eq!(bench.find("a").await, Some(Reason::KeysUnavailable), "for a day");
    assert!(bench.context.readiness.pending().contains_key("keys"));
    bench.answer.send_replace(Some(document(&[rsa_other().jwk("a")])));
    after(61).await;
    assert_eq!(bench.find("a").await, None);
    assert!(bench.context.readiness.pending().is_empty());
}

#[tokio::test(start_paused = true)]
async fn polls_follow_max_age() {
    let bench = Bench::new(Mode::Local, one("a"));
    after(799).await;
    assert_eq!(bench.fetches(), 1);
    after(202).await;
    assert_eq!(bench.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_set_is_complete() {
    let context = Context::new(Clock::simulated(UNIX_EPOCH));
    let keyring = Keyring::new(Mode::Local, &context);
    keyring.add_fixed("A".into(), &one("a").unwrap()).unwrap();
    assert!(keyring.add_fixed("A".into(), b"<html>").is_err());
    let refusal = keyring.find("b", context.clock.now().mono).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UnknownKid);
    after(70).await;
    assert!(context.metrics.encode().unwrap().contains("credlet_jwks_age_seconds{issuer=\"0\"} 70"));
    let status = serde_json::to_value(keyring.status()).unwrap();
    assert_eq!(status["verification"], "local");
    assert_eq!(status["issuers"][0]["kids"][0], "a");
}

#[tokio::test]
async fn issuers_are_polled_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    std::fs::write(&path, one("a").unwrap()).unwrap();
    let context = Context::new(Clock::System);
    let keyring = Keyring::new(Mode::Auto, &context);
    let issuer = IssuerConfig { issuer: "A".into(), sources: vec![KeySource::File(path)] };
    keyring.start(&Config { issuers: vec![issuer], ..config(Mode::Auto) }, access(&context));
    let deadline = Clock::System.now().mono + Duration::from_secs(10);
    assert_eq!(keyring.standing(deadline).await.unwrap(), Standing::Local);
    assert!(keyring.find("a", deadline).await.is_ok());
    context.tasks.shutdown();
    context.tasks.drained().await;
    assert!(context.tasks.ended().is_empty());
}

/// Tells `to` what `from` has.
fn tell(from: &Bench, to: &Bench) {
    to.keyring.import(&from.keyring.export()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_of_another_agent_verify_while_no_source_answers_and_their_age_goes_on() {
    let [old, new] = [Bench::new(Mode::Auto, one("a")), Bench::new(Mode::Local, None)];
    after(20 * 3600).await;
    old.answer.send_replace(None);
    after(2 * 3600).await;
    assert!(new.context.readiness.pending().contains_key("keys"));
    tell(&old, &new);
    assert!(new.keyring.keys().knows("a") && new.context.readiness.pending().is_empty());
    assert_eq!(new.keyring.standing(new.deadline()).await.unwrap(), Standing::Local);
    let age = new.keyring.status().issuers[0].age_seconds.unwrap();
    assert!((2 * 3600..3 * 3600).contains(&age), "{age}");
    after(21 * 3600).await;
    assert!(new.keyring.keys().knows("a"));
    after(2 * 3600).await;
    assert!(!new.keyring.keys().knows("a"), "24 hours after their source last answered");
}

#[tokio::test(start_paused = true)]
async fn what_a_source_gives_itself_wins() {
    let [old, new] = [Bench::new(Mode::Local, one("a")), Bench::new(Mode::Local, one("b"))];
    after(1).await;
    tell(&old, &new);
    assert!(!new.keyring.keys().knows("a") && new.keyring.keys().knows("b"));
    let late = Bench::new(Mode::Local, one("b"));
    tell(&old, &late);
    let before = late.keyring.keys().generation();
    assert!(late.keyring.keys().knows("a"));
    after(1).await;
    assert!(!late.keyring.keys().knows("a") && late.keyring.keys().knows("b"));
    assert!(late.keyring.keys().generation() > before, "what the old keys proved is proved again");
}

#[tokio::test(start_paused = true)]
async fn keys_are_for_the_source_that_had_them_and_for_no_other() {
    let old = Bench::new(Mode::Local, one("a"));
    after(1).await;
    let context = Context::new(Clock::simulated(UNIX_EPOCH));
    let keyring = Keyring::new(Mode::Local, &context);
    keyring.import(&old.keyring.export()).unwrap();
    for (issuer, label) in [("B", "test"), ("A", "other")] {
        keyring.update(|keys, now| keys.add(Some(issuer.into()), label.to_owned(), now.mono));
        assert!(!keyring.keys().knows("a"), "{issuer} {label}");
    }
    keyring.update(|keys, now| keys.add(Some("A".into()), "test".to_owned(), now.mono));
    assert!(keyring.keys().knows("a"), "also one that comes later");
    assert!(keyring.import(&Parcel::pack(9, &0_u8)).is_err());
}
