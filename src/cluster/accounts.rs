//! The service accounts of this node's callers: fetched on first use by a task of the process, and kept for as long as it runs.

use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::base::readiness::Part;
use crate::cluster::account::{Account, Answer, Found, Get};
use crate::cluster::client::Reader;
use crate::observe::Context;
use crate::token::ApiServer;

/// Accounts remembered: many times the pods of any node. The one not used for longest goes first.
const ACCOUNTS: u64 = 4_096;
/// Fetches at once.
const AT_ONCE: usize = 10;
/// When a caller should ask again that came before the API server's answer did.
const SOON: Duration = Duration::from_secs(1);

/// Nothing is known of an account, and the API server does not tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Unavailable {
    /// Why: of the last fetch.
    pub error: Arc<str>,
    /// When asking again makes sense.
    pub retry_after: Duration,
}

/// What status shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Accounts remembered.
    pub known: usize,
    /// Age of the oldest answer.
    pub oldest_seconds: Option<u64>,
    /// The error of an account whose last fetch failed.
    pub error: Option<String>,
}

/// Service accounts as far as they were asked for. Clones share them.
#[derive(Debug, Clone)]
pub struct ServiceAccounts {
    shared: Arc<Shared>,
}

struct Shared {
    reader: Reader,
    slots: moka::sync::Cache<String, Arc<Slot>, RandomState>,
    permits: Semaphore,
    changes: watch::Sender<()>,
    advice: Part,
    context: Context,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccounts").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Slot {
    namespace: String,
    name: String,
    account: Mutex<Account>,
    landed: watch::Sender<()>,
}

impl ServiceAccounts {
    /// None is known yet, and nothing is asked before somebody needs one.
    #[must_use]
    pub fn new(server: Arc<ApiServer>, context: Context) -> Self {
        let slots = moka::sync::Cache::builder().max_capacity(ACCOUNTS).eviction_policy(EvictionPolicy::lru());
        let shared = Shared {
            reader: Reader::new(server),
            slots: slots.build_with_hasher(RandomState::default()),
            permits: Semaphore::new(AT_ONCE),
            changes: watch::Sender::new(()),
            advice: context.readiness.advisory("service accounts"),
            context,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The account of a caller whose token is of the account with this UID, if that is known, by `until` at the latest.
    ///
    /// # Errors
    /// When nothing is known of it and the API server does not tell.
    pub async fn get(&self, namespace: &str, name: &str, uid: Option<&str>, until: Instant) -> Result<Found, Unavailable> {
        let slot = self.slot(namespace, name);
        let mut landings = slot.landed.subscribe();
        loop {
            let (get, begins) = slot.account.lock().ask(uid, self.now());
            if begins {
                self.fetch(&slot);
            }
            let (wait_until, known) = match get {
                Get::Known(found) => return Ok(found),
                Get::Failed(error, retry_after) => return Err(Unavailable { error, retry_after }),
                Get::KnownAfter(found, patience) => (patience.min(until), Some(found)),
                Get::Wait => (until, None),
            };
            if timeout_at(wait_until, landings.changed()).await.is_err() {
                return known.ok_or_else(Unavailable::pending);
            }
        }
    }

    /// The account as it is known, however old; `None` if nothing is.
    #[must_use]
    pub fn known(&self, namespace: &str, name: &str) -> Option<Answer> {
        self.shared.slots.get(&key(namespace, name))?.account.lock().answer().cloned()
    }

    /// Tells of each change of what was known.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    /// What status shows.
    #[must_use]
    pub fn status(&self) -> Status {
        let (now, slots) = (self.now(), self.shared.slots.iter().map(|(_, slot)| slot).collect::<Vec<_>>());
        let ages: Vec<Duration> = slots.iter().filter_map(|slot| slot.account.lock().age(now)).collect();
        Status {
            known: ages.len(),
            oldest_seconds: ages.iter().max().map(Duration::as_secs),
            error: slots.iter().find_map(|slot| slot.account.lock().error().map(|error| slot.says(error))),
        }
    }

    fn now(&self) -> Instant {
        self.shared.context.clock.now().mono
    }

    fn slot(&self, namespace: &str, name: &str) -> Arc<Slot> {
        self.shared.slots.get_with(key(namespace, name), || {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Arc::new(Slot { namespace, name, account: Mutex::default(), landed: watch::Sender::new(()) })
        })
    }

    /// A fetch belongs to the process: whoever asks next has its answer, though the one who began it has left.
    fn fetch(&self, slot: &Arc<Slot>) {
        let (accounts, slot) = (self.clone(), Arc::clone(slot));
        self.shared.context.tasks.spawn(async move {
            let fetch = accounts.shared.context.tasks.spawn(accounts.clone().fetched(Arc::clone(&slot)));
            let fetched = fetch.await.unwrap_or_else(|_| Err("the fetch panicked".into()));
            accounts.report(&slot, fetched.as_ref().err());
            let changed = slot.account.lock().landed(fetched, rand::random(), accounts.now());
            slot.landed.send_replace(());
            if changed {
                tracing::info!(namespace = slot.namespace, service_account = slot.name, "a service account has changed");
                accounts.shared.changes.send_replace(());
            }
        });
    }

    async fn fetched(self, slot: Arc<Slot>) -> Result<Answer, Arc<str>> {
        let _permit = self.shared.permits.acquire().await;
        let fetched = self.shared.reader.fetch(&slot.namespace, &slot.name).await;
        fetched.map_err(|error| error.to_string().into())
    }

    fn report(&self, slot: &Slot, error: Option<&Arc<str>>) {
        let Some(error) = error else { return self.shared.advice.ready() };
        tracing::warn!(namespace = slot.namespace, service_account = slot.name, %error, "a service account can't be read");
        self.shared.advice.pending(slot.says(error));
    }
}

impl Slot {
    fn says(&self, error: &str) -> String {
        format!("{}/{}: {error}", self.namespace, self.name)
    }
}

impl Unavailable {
    fn pending() -> Self {
        Self { error: "the API server has not answered yet".into(), retry_after: SOON }
    }
}

/// Names of namespaces hold no slash.
fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
