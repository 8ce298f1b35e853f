//! The key sets of all issuers, kept current by pollers and published on a watch channel.
//!
//! A key is published at least `max-age` before it signs, so polling within that time makes an unknown `kid` the sign of a
//! forgery or of a surprise: one shared refetch decides, no more often than every 30 s.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::backoff::doubled;
use crate::base::clock::Now;
use crate::base::parcel::{Parcel, Unreadable};
use crate::base::readiness::Part;
use crate::domain::refusal::{Reason, Refusal};
use crate::observe::Context;
use crate::token::config::{Config, IssuerConfig, KeySource, Mode, Standing};
use crate::token::jwks;
use crate::token::keys::{Keys, SourceId};
use crate::token::search::Search;
use crate::token::source::{Access, Fetcher, Loaded, SourceError};
use crate::token::status::{JwksAge, KeyringStatus};

/// Bounds of the time between polls.
const LEAST_POLL: Duration = Duration::from_secs(60);
const LONGEST_POLL: Duration = Duration::from_secs(3_600);
/// Between polls of a source that names no `max-age`.
const DEFAULT_POLL: Duration = Duration::from_secs(300);
/// After the first failure and at most; doubled in between.
const LEAST_BACKOFF: Duration = Duration::from_secs(1);
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
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
    context: Context,
    readiness: Part,
    /// Told while verification is delegated; that holds nothing up.
    delegation: Part,
}

/// A source to poll.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) id: SourceId,
    pub(super) issuer: Arc<str>,
    pub(super) source: KeySource,
}

impl Keyring {
    /// An empty keyring, its metrics registered. Readiness waits for the first key set.
    #[must_use]
    pub fn new(mode: Mode, context: &Context) -> Self {
        let keys = watch::Sender::new(Keys::new(mode));
        context.metrics.register_collector(Box::new(JwksAge::new(keys.subscribe(), context.clock.clone())));
        let readiness = context.readiness.part("keys", "no key source has answered yet");
        let delegation = context.readiness.advisory("token verification");
        Self { shared: Arc::new(Shared { keys, context: context.clone(), readiness, delegation }) }
    }

    /// Begins to poll the sources of the configured issuers, or to search for the issuer when there is none.
    pub(super) fn start(&self, config: &Config, access: Access) {
        let fetcher = Arc::new(Fetcher::new(access, &self.shared.context));
        let polls: Vec<Poll> = config.accepted().iter().flat_map(|issuer| self.add(issuer)).collect();
        let search = Search::announce(self, config.places());
        self.update(|keys, _| keys.decide());
        polls.into_iter().for_each(|poll| self.spawn(poll, &fetcher));
        if let Some(search) = search {
            self.shared.context.tasks.spawn(search.run(fetcher));
        }
    }

    /// Adds an issuer with a key set that never changes.
    ///
    /// # Errors
    /// With the reason when `document` is no key set with a usable key.
    pub fn add_fixed(&self, issuer: Arc<str>, document: &[u8]) -> Result<(), String> {
        let keys = jwks::parse(document).map_err(|error| error.to_string())?;
        self.update(|all, now| {
            let id = all.add(Some(issuer), "fixed".to_owned(), now.mono);
            all.succeeded(id, keys, now.mono);
        });
        Ok(())
    }

    /// Each source's last good key set.
    pub(super) fn export(&self) -> Parcel {
        self.keys().pack(self.now().mono)
    }

    /// Takes over the key sets of another agent of this node, for sources that have given none yet.
    pub(super) fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        self.update(|keys, now| Some(keys.learn(parcel, now.mono))).unwrap_or(Ok(()))
    }

    /// The issuer that another agent's search has found, if that is known before `until`.
    pub(super) async fn found_before(&self, until: Instant) -> Option<Arc<str>> {
        let mut watcher = self.shared.keys.subscribe();
        let found = timeout_at(until, watcher.wait_for(|keys| keys.found_before().is_some())).await;
        found.ok()?.ok()?.found_before().cloned()
    }

    /// Completes once this process serves.
    pub(super) async fn serving(&self) {
        self.shared.context.duty.until(true).await;
    }

    /// What status shows.
    pub(super) fn status(&self) -> KeyringStatus {
        KeyringStatus::of(&self.shared.keys.borrow(), self.shared.context.clock.now().mono)
    }

    /// Waits until each source has been asked once, also those that are found on the way.
    pub(super) async fn attempted(&self, deadline: Instant) {
        // Whoever waited too long sees by the status what is missing.
        let _ = timeout_at(deadline, self.shared.keys.subscribe().wait_for(Keys::attempted)).await;
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
        let now = || self.shared.context.clock.now().mono;
        self.shared.keys.send_if_modified(|keys| keys.ask_again(now()));
        let mut watcher = self.shared.keys.subscribe();
        let settled = timeout_at(deadline, watcher.wait_for(|keys| keys.knows(kid) || keys.settled(now()))).await.is_ok();
        let keys = self.keys();
        match (keys.knows(kid), settled && keys.complete(now())) {
            (true, _) => Ok(()),
            (false, true) => Err(Refusal::new(Reason::UnknownKid, "no issuer has published the key that the header names")),
            (false, false) => Err(unavailable("the key is not known and the key sets are not current")),
        }
    }

    /// Makes room for an issuer's sources, all of it before any is polled: what they hold together decides.
    pub(super) fn add(&self, issuer: &IssuerConfig) -> Vec<Poll> {
        let add = |source: &KeySource| {
            let (name, label) = (Arc::clone(&issuer.issuer), source.label(&issuer.issuer));
            let id = self.update(|keys, now| keys.add(Some(name), label, now.mono));
            Poll { id, issuer: Arc::clone(&issuer.issuer), source: source.clone() }
        };
        issuer.sources.iter().map(add).collect()
    }

    pub(super) fn spawn(&self, poll: Poll, fetcher: &Arc<Fetcher>) {
        self.update(|keys, _| keys.ask(poll.id));
        let tasks = &self.shared.context.tasks;
        let (id, keyring, shutdown) = (poll.id, self.clone(), tasks.shutting_down());
        let (fetcher, poll) = (Arc::clone(fetcher), Arc::new(poll));
        let fetch = move || {
            let (fetcher, poll) = (Arc::clone(&fetcher), Arc::clone(&poll));
            async move { fetcher.load(&poll.issuer, &poll.source).await }
        };
        tasks.spawn_critical("keys", async move {
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
            let pause =
                outcome.as_ref().map_or_else(|_| backoff(failures, LONGEST_BACKOFF), |loaded| until_next_poll(loaded.max_age));
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
            tracing::warn!(error, "a key source gave no keys; a set that it gave before stays in force for 24 h");
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

    pub(super) fn now(&self) -> Now {
        self.shared.context.clock.now()
    }

    /// Completes when the process is told to end.
    pub(super) fn shutting_down(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.context.tasks.shutting_down()
    }

    /// Changes the keys, and says so wherever that matters.
    pub(super) fn update<T: Default>(&self, change: impl FnOnce(&mut Keys, Now) -> T) -> T {
        let now = self.shared.context.clock.now();
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
        let delegated = standing == Standing::Delegated;
        self.shared.context.metrics.verification_delegated.set(i64::from(delegated));
        if delegated {
            self.shared.delegation.pending("EKS Auth alone verifies tokens: each new one costs a call to AWS");
        } else {
            self.shared.delegation.ready();
        }
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

fn unavailable(cause: &str) -> Refusal {
    Refusal::new(Reason::KeysUnavailable, cause).retry_after(RETRY_AFTER)
}

/// Spread over a fifth of the time, so that the nodes of a cluster do not ask together.
fn until_next_poll(max_age: Option<Duration>) -> Duration {
    let longest = max_age.unwrap_or(DEFAULT_POLL).min(LONGEST_POLL);
    longest.mul_f64(rand::random_range(0.8..=1.0)).max(LEAST_POLL)
}

/// Doubled from a second up to `longest`, and spread.
pub(super) fn backoff(failures: u32, longest: Duration) -> Duration {
    doubled(LEAST_BACKOFF, failures, longest).mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
