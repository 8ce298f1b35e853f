//! The key sets of all issuers, kept current by pollers and published on a watch channel.
//!
//! A key is published at least `max-age` before it signs, so polling within that time makes an unknown `kid` the sign of a
//! forgery or of a surprise: one shared refetch decides, no more often than every 30 s.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::clock::{Clock, Now};
use crate::base::readiness::Part;
use crate::domain::refusal::{Reason, Refusal};
use crate::observe::metrics::Metrics;
use crate::token::config::{ApiServer, Config, IssuerConfig, KeySource, Mode, Standing};
use crate::token::jwks;
use crate::token::keys::{Keys, SourceId};
use crate::token::source::{Fetcher, Loaded, Means, SourceError};
use crate::token::status::{JwksAge, KeyringStatus};

/// Bounds of the time between polls.
const LEAST_POLL: Duration = Duration::from_secs(60);
const LONGEST_POLL: Duration = Duration::from_secs(3_600);
/// Between polls of a source that names no `max-age`.
const DEFAULT_POLL: Duration = Duration::from_secs(300);
/// After the first failure and at most; doubled in between.
const LEAST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// For a caller that came before the keys.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The key sets in force.
#[derive(Debug, Clone)]
pub struct Keyring {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    keys: watch::Sender<Keys>,
    clock: Clock,
    readiness: Part,
    delegated: Gauge,
}

/// A source to poll.
#[derive(Debug)]
struct Poll {
    id: SourceId,
    issuer: Arc<str>,
    source: KeySource,
}

/// A search for an issuer that was not configured. Until it has failed or ended, requests wait.
#[derive(Debug)]
pub struct Search {
    keyring: Keyring,
    id: SourceId,
}

impl Keyring {
    /// An empty keyring, its metrics registered; `readiness` is dropped with the first key set.
    #[must_use]
    pub fn new(mode: Mode, clock: Clock, readiness: Part, metrics: &Metrics) -> Self {
        let keys = watch::Sender::new(Keys::new(mode));
        metrics.register_collector(Box::new(JwksAge::new(keys.subscribe(), clock.clone())));
        let delegated = metrics.verification_delegated.clone();
        Self { shared: Arc::new(Shared { keys, clock, readiness, delegated }) }
    }

    /// Begins to poll the sources of the configured issuers, or to search for the issuer when there is none.
    pub fn start(&self, config: &Config, means: &Means) {
        let issuers = if config.mode == Mode::Delegated { &[] } else { config.issuers.as_slice() };
        let polls: Vec<Poll> = issuers.iter().flat_map(|issuer| self.add(issuer)).collect();
        let server = config.api_server.as_ref().filter(|_| config.mode != Mode::Delegated && config.issuers.is_empty());
        let search = server.map(|server| (self.search(KeySource::ApiServer(Arc::clone(server)).label("")), server));
        self.update(|keys, _| keys.decide());
        polls.into_iter().for_each(|poll| self.spawn(poll, means));
        if let Some((search, server)) = search {
            means.tasks.spawn(search.ask(Arc::clone(server), means.clone()));
        }
    }

    /// Adds an issuer with a key set that never changes.
    ///
    /// # Errors
    /// With the reason when `document` is no key set with a usable key.
    pub fn add_fixed(&self, issuer: Arc<str>, document: &[u8]) -> Result<(), String> {
        let keys = jwks::parse(document).map_err(|error| error.to_string())?;
        self.update(|all, now| {
            let id = all.add(Some(issuer), "fixed".to_owned());
            all.succeeded(id, keys, now.mono);
        });
        Ok(())
    }

    /// Announces a search for an issuer; `label` says where, for status and logs.
    #[must_use]
    pub fn search(&self, label: String) -> Search {
        let id = self.update(|keys, _| keys.add(None, label));
        Search { keyring: self.clone(), id }
    }

    /// What status shows.
    #[must_use]
    pub fn status(&self) -> KeyringStatus {
        KeyringStatus::of(&self.shared.keys.borrow(), self.shared.clock.now().mono)
    }

    /// The keys in force.
    pub(super) fn keys(&self) -> watch::Ref<'_, Keys> {
        self.shared.keys.borrow()
    }

    /// How tokens are verified, once that is known.
    pub(super) async fn standing(&self, deadline: Instant) -> Result<Standing, Refusal> {
        let mut watcher = self.shared.keys.subscribe();
        let known = timeout_at(deadline, watcher.wait_for(|keys| keys.standing() != Standing::Waiting)).await;
        match known {
            Ok(Ok(keys)) => Ok(keys.standing()),
            Ok(Err(_)) | Err(_) => Err(unavailable("no key set has been loaded yet")),
        }
    }

    /// Waits for a key of that name, and asks for it if that may help.
    pub(super) async fn find(&self, kid: &str, deadline: Instant) -> Result<(), Refusal> {
        if self.keys().knows(kid) {
            return Ok(());
        }
        let now = self.shared.clock.now();
        self.shared.keys.send_if_modified(|keys| keys.ask_again(now.mono));
        let mut watcher = self.shared.keys.subscribe();
        let settled = timeout_at(deadline, watcher.wait_for(|keys| keys.knows(kid) || keys.settled())).await.is_ok();
        let keys = self.keys();
        match (keys.knows(kid), settled && keys.complete(self.shared.clock.now().mono)) {
            (true, _) => Ok(()),
            (false, true) => Err(Refusal::new(Reason::UnknownKid, "no issuer has published the key that the header names")),
            (false, false) => Err(unavailable("the key is not known and the key sets are not current")),
        }
    }

    /// Makes room for an issuer's sources, all of it before any is polled: what they hold together decides.
    fn add(&self, issuer: &IssuerConfig) -> Vec<Poll> {
        let add = |source: &KeySource| {
            let (name, label) = (Arc::clone(&issuer.issuer), source.label(&issuer.issuer));
            let id = self.update(|keys, _| keys.add(Some(name), label));
            Poll { id, issuer: Arc::clone(&issuer.issuer), source: source.clone() }
        };
        issuer.sources.iter().map(add).collect()
    }

    fn spawn(&self, poll: Poll, means: &Means) {
        self.update(|keys, _| keys.ask(poll.id));
        let (id, keyring, shutdown) = (poll.id, self.clone(), means.tasks.shutting_down());
        let (fetcher, poll) = (Arc::new(Fetcher::new(means, &self.shared.clock)), Arc::new(poll));
        let fetch = move || {
            let (fetcher, poll) = (Arc::clone(&fetcher), Arc::clone(&poll));
            async move { fetcher.load(&poll.issuer, &poll.source).await }
        };
        means.tasks.spawn_critical("keys", async move {
            tokio::select! {
                () = shutdown => {}
                () = keyring.poll(id, fetch) => {}
            }
        });
    }

    /// Fetches for ever: when the last answer is old enough, after a failure, and when asked to.
    async fn poll<F, T>(&self, id: SourceId, mut fetch: F)
    where
        F: FnMut() -> T + Send,
        T: Future<Output = Result<Loaded, SourceError>> + Send,
    {
        let mut failures = 0;
        loop {
            self.update(|keys, now| keys.began(id, now.mono));
            let outcome = fetch().await;
            failures = if outcome.is_ok() { 0 } else { failures + 1 };
            let pause = outcome.as_ref().map_or_else(|_| backoff(failures), |loaded| until_next_poll(loaded.max_age));
            self.record(id, outcome);
            self.pause(id, pause).await;
        }
    }

    fn record(&self, id: SourceId, outcome: Result<Loaded, SourceError>) {
        match outcome {
            Ok(loaded) => {
                let kids: Vec<_> = loaded.keys.iter().map(|key| key.kid().to_owned()).collect();
                if self.update(|keys, now| keys.succeeded(id, loaded.keys, now.mono)) {
                    tracing::info!(?kids, "the key set has changed");
                }
            }
            Err(error) => self.record_failure(id, &error.to_string()),
        }
    }

    /// A failure is logged once, not at each attempt.
    fn record_failure(&self, id: SourceId, error: &str) {
        if self.update(|keys, now| keys.failed(id, error, now.mono)) {
            tracing::warn!(error, "a key source gave no keys; the last good set stays in force for 24 h");
        }
    }

    async fn pause(&self, id: SourceId, pause: Duration) {
        let mut watcher = self.shared.keys.subscribe();
        let asked = async { drop(watcher.wait_for(|keys| keys.is_asked(id)).await) };
        tokio::select! {
            () = sleep(pause) => {}
            () = asked => {}
        }
    }

    /// Changes the keys, and says so wherever that matters.
    fn update<T: Default>(&self, change: impl FnOnce(&mut Keys, Now) -> T) -> T {
        let now = self.shared.clock.now();
        let (mut result, mut before) = (T::default(), Standing::Waiting);
        self.shared.keys.send_modify(|keys| {
            before = keys.standing();
            result = change(keys, now);
        });
        self.report(before);
        result
    }

    fn report(&self, before: Standing) {
        let keys = self.keys();
        let standing = keys.standing();
        self.shared.delegated.set(i64::from(standing == Standing::Delegated));
        if keys.usable() {
            self.shared.readiness.ready();
        } else {
            self.shared.readiness.pending("no key source has answered yet, or none for 24 h");
        }
        match (before, standing) {
            (Standing::Delegated, Standing::Local) => tracing::warn!("a key source answers: tokens are verified on this node"),
            (Standing::Waiting, Standing::Delegated) => tracing::warn!("EKS Auth alone verifies tokens: no key source answers"),
            _ => {}
        }
    }
}

#[cfg(test)]
impl Keyring {
    /// Replaces the first source's keys, as a poll would.
    pub(super) fn replace_fixed(&self, document: &[u8]) {
        self.update(|keys, now| keys.succeeded(SourceId::default(), jwks::parse(document).unwrap(), now.mono));
    }
}

impl Search {
    /// This attempt has failed; the search goes on.
    pub fn failed(&self, error: &str) {
        self.keyring.record_failure(self.id, error);
    }

    /// The issuer has been found, and its sources are polled from now on. The first takes the place of the search.
    pub fn found(self, issuer: &IssuerConfig, means: &Means) {
        let Some((first, others)) = issuer.sources.split_first() else { return self.failed("the issuer has no key source") };
        let name = &issuer.issuer;
        tracing::info!(issuer = &**name, "the issuer has been found");
        self.keyring.update(|keys, _| keys.found(self.id, Arc::clone(name), first.label(name)));
        let first = Poll { id: self.id, issuer: Arc::clone(name), source: first.clone() };
        let others = self.keyring.add(&IssuerConfig { issuer: Arc::clone(name), sources: others.to_vec() });
        std::iter::once(first).chain(others).for_each(|poll| self.keyring.spawn(poll, means));
    }

    /// Asks the API server until it answers.
    async fn ask(self, server: Arc<ApiServer>, means: Means) {
        let fetcher = Fetcher::new(&means, &self.keyring.shared.clock);
        let shutdown = means.tasks.shutting_down();
        let found = async {
            let mut failures = 0;
            loop {
                match fetcher.issuer_of(&server).await {
                    Ok(issuer) => return issuer,
                    Err(error) => self.failed(&error.to_string()),
                }
                failures += 1;
                sleep(backoff(failures)).await;
            }
        };
        let issuer = tokio::select! {
            () = shutdown => return,
            issuer = found => issuer,
        };
        // EKS up to 1.33 leaves rotating keys out of what the API server publishes: ask the public document too.
        let sources = vec![KeySource::ApiServer(server), KeySource::Discovery];
        self.found(&IssuerConfig { issuer, sources }, &means);
    }
}

fn unavailable(cause: &str) -> Refusal {
    Refusal::new(Reason::KeysUnavailable, cause).retry_after(RETRY_AFTER)
}

/// Spread over a fifth of the time, so that the nodes of a cluster do not ask together.
fn until_next_poll(max_age: Option<Duration>) -> Duration {
    let longest = max_age.unwrap_or(DEFAULT_POLL).min(LONGEST_POLL);
    longest.mul_f64(rand::random_range(0.8..=1.0)).max(LEAST_POLL)
}

fn backoff(failures: u32) -> Duration {
    let doubled = LEAST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LONGEST_BACKOFF).mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::base::readiness::Readiness;
    use crate::base::tasks::Tasks;
    use crate::token::testing::{document, rsa, rsa_other};

    /// A keyring with one polled source whose answers the test decides.
    struct Bench {
        keyring: Keyring,
        clock: Clock,
        readiness: Readiness,
        fetches: Arc<AtomicUsize>,
        answer: watch::Sender<Option<Vec<u8>>>,
    }

    impl Bench {
        fn new(mode: Mode, answer: Option<Vec<u8>>) -> Self {
            let (clock, readiness) = (Clock::simulated(UNIX_EPOCH), Readiness::default());
            let keyring = Keyring::new(mode, clock.clone(), readiness.part("keys", "first fetch"), &Metrics::new());
            let id = keyring.update(|keys, _| keys.add(Some("A".into()), "test".to_owned()));
            keyring.update(|keys, _| keys.ask(id));
            let (fetches, answer) = (Arc::default(), watch::Sender::new(answer));
            let bench = Self { keyring, clock, readiness, fetches, answer };
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
            self.clock.now().mono + Duration::from_millis(900)
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
        assert!(bench.readiness.pending().contains_key("keys"));
        assert_eq!(bench.keyring.standing(bench.deadline()).await.unwrap(), Standing::Local);
        assert!(bench.readiness.pending().is_empty());
        assert_eq!(bench.find("a").await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_until_their_deadline_only() {
        let bench = Bench::new(Mode::Local, None);
        let deadline = bench.deadline();
        let refusal = bench.keyring.standing(deadline).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.retry_after), (Reason::KeysUnavailable, Some(Duration::from_secs(1))));
        assert!(bench.clock.now().mono >= deadline);
        bench.answer.send_replace(one("a"));
        after(3).await;
        assert_eq!(bench.find("a").await, None, "a failed first attempt is followed by others soon");
    }

    #[tokio::test(start_paused = true)]
    async fn auto_delegates_until_a_source_answers() {
        let bench = Bench::new(Mode::Auto, None);
        assert_eq!(bench.keyring.standing(bench.deadline()).await.unwrap(), Standing::Delegated);
        assert_eq!(bench.keyring.shared.delegated.get(), 1);
        assert!(bench.readiness.pending().is_empty());
        bench.answer.send_replace(one("a"));
        after(61).await;
        assert_eq!(bench.keyring.standing(bench.deadline()).await.unwrap(), Standing::Local);
        assert_eq!(bench.keyring.shared.delegated.get(), 0);
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
        assert!(bench.readiness.pending().contains_key("keys"));
        bench.answer.send_replace(Some(document(&[rsa_other().jwk("a")])));
        after(61).await;
        assert_eq!(bench.find("a").await, None);
        assert!(bench.readiness.pending().is_empty());
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
        let metrics = Metrics::new();
        let clock = Clock::simulated(UNIX_EPOCH);
        let keyring = Keyring::new(Mode::Local, clock.clone(), Readiness::default().part("keys", ""), &metrics);
        keyring.add_fixed("A".into(), &one("a").unwrap()).unwrap();
        assert!(keyring.add_fixed("A".into(), b"<html>").is_err());
        let refusal = keyring.find("b", clock.now().mono).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::UnknownKid);
        after(70).await;
        assert!(metrics.encode().unwrap().contains("credlet_jwks_age_seconds{issuer=\"0\"} 70"));
        let status = serde_json::to_value(keyring.status()).unwrap();
        assert_eq!(status["verification"], "local");
        assert_eq!(status["issuers"][0]["kids"][0], "a");
    }

    #[tokio::test]
    async fn issuers_are_polled_from_files_and_searches_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        std::fs::write(&path, one("a").unwrap()).unwrap();
        let tasks = Tasks::default();
        let metrics = Metrics::new();
        let readiness = Readiness::default();
        let keyring = Keyring::new(Mode::Auto, Clock::System, readiness.part("keys", ""), &metrics);
        let means = Means { http: crate::token::testing::https(), metrics: Arc::new(metrics), tasks: tasks.clone() };
        let search = keyring.search("eks:DescribeCluster".to_owned());
        let config = crate::token::testing::config(Mode::Auto);
        keyring.start(&config, &means);
        search.failed("throttled");
        let deadline = Clock::System.now().mono + Duration::from_secs(10);
        assert_eq!(keyring.standing(deadline).await.unwrap(), Standing::Delegated);
        search.found(&IssuerConfig { issuer: "A".into(), sources: vec![KeySource::File(path)] }, &means);
        keyring.shared.keys.subscribe().wait_for(|keys| keys.standing() == Standing::Local).await.unwrap();
        assert!(keyring.find("a", deadline).await.is_ok());
        tasks.shutdown();
        tasks.drained().await;
        assert!(tasks.ended().is_empty());
    }
}
