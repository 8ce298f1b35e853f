//! The service accounts of this node's callers: fetched on first use by a task of the process, and kept for as long as it runs.

use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::readiness::Part;
use crate::cluster::account::{Account, Answer, Found, Get, REFRESH_AGE};
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
    /// Age of the oldest answer of an account in use.
    pub oldest_seconds: Option<u64>,
    /// The error of an account in use whose last fetch failed.
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
    landings: watch::Sender<()>,
    changes: watch::Sender<()>,
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
            landings: watch::Sender::new(()),
            changes: watch::Sender::new(()),
            context,
        };
        let accounts = Self { shared: Arc::new(shared) };
        let (context, advice) = (&accounts.shared.context, accounts.shared.context.readiness.advisory("service accounts"));
        context.tasks.spawn_critical("service accounts", accounts.clone().advise(advice));
        accounts
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
        let slots = self.shared.slots.iter();
        let (now, in_use) = (self.now(), self.in_use());
        Status {
            known: slots.filter(|(_, slot)| slot.account.lock().answer().is_some()).count(),
            oldest_seconds: in_use.iter().filter_map(|slot| slot.account.lock().age(now)).max().map(|age| age.as_secs()),
            error: in_use.iter().find_map(|slot| slot.error()),
        }
    }

    fn now(&self) -> Instant {
        self.shared.context.clock.now().mono
    }

    fn in_use(&self) -> Vec<Arc<Slot>> {
        let (now, slots) = (self.now(), self.shared.slots.iter().map(|(_, slot)| slot));
        slots.filter(|slot| slot.account.lock().is_in_use(now)).collect()
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
            accounts.landed(&slot, fetched);
        });
    }

    fn landed(&self, slot: &Slot, fetched: Result<Answer, Arc<str>>) {
        if let Err(error) = &fetched {
            tracing::warn!(namespace = slot.namespace, service_account = slot.name, %error, "a service account can't be read");
        }
        let changed = slot.account.lock().landed(fetched, rand::random(), self.now());
        slot.landed.send_replace(());
        self.shared.landings.send_replace(());
        if changed {
            tracing::info!(namespace = slot.namespace, service_account = slot.name, "a service account has changed");
            self.shared.changes.send_replace(());
        }
    }

    async fn fetched(self, slot: Arc<Slot>) -> Result<Answer, Arc<str>> {
        let _permit = self.shared.permits.acquire().await;
        let fetched = self.shared.reader.fetch(&slot.namespace, &slot.name).await;
        fetched.map_err(|error| error.to_string().into())
    }

    /// Says what ails an account in use: after each landing, and while one does, as it may go out of use.
    async fn advise(self, advice: Part) {
        let mut landings = self.shared.landings.subscribe();
        loop {
            let error = self.in_use().iter().find_map(|slot| slot.error());
            let ails = error.is_some();
            error.map_or_else(|| advice.ready(), |error| advice.pending(error));
            tokio::select! {
                () = self.shared.context.tasks.shutting_down() => return,
                _ = landings.changed() => {}
                () = sleep(REFRESH_AGE), if ails => {}
            }
        }
    }
}

impl Slot {
    fn error(&self) -> Option<String> {
        self.account.lock().error().map(|error| format!("{}/{}: {error}", self.namespace, self.name))
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

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::base::clock::Clock;
    use crate::cluster::account::ServiceAccount;
    use crate::domain::policy::Annotations;

    /// Accounts that are told what the API server, of which there is none, says.
    struct World {
        context: Context,
        accounts: ServiceAccounts,
    }

    impl World {
        fn new() -> Self {
            let [token_file, ca_file] = ["/nowhere/token", "/nowhere/ca.crt"].map(Into::into);
            let server = ApiServer { url: Url::parse("https://127.0.0.1:1").unwrap(), token_file, ca_file };
            let context = Context::new(Clock::System);
            Self { accounts: ServiceAccounts::new(Arc::new(server), context.clone()), context }
        }

        async fn lands(&self, name: &str, fetched: Result<Answer, Arc<str>>) {
            let slot = self.accounts.slot("ns", name);
            slot.account.lock().ask(Some("uid"), self.accounts.now());
            self.accounts.landed(&slot, fetched);
            sleep(Duration::from_millis(1)).await;
        }

        /// As readiness and status say it.
        fn ails(&self) -> (Option<String>, Option<String>) {
            (self.context.readiness.advice().get("service accounts").cloned(), self.accounts.status().error)
        }
    }

    fn present() -> Result<Answer, Arc<str>> {
        Ok(Answer::Present(Arc::new(ServiceAccount { uid: "uid".into(), annotations: Ok(Annotations::default()) })))
    }

    fn both(error: &str) -> (Option<String>, Option<String>) {
        (Some(error.to_owned()), Some(error.to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn one_accounts_success_hides_no_failure_of_another() {
        let world = World::new();
        world.lands("bad", Err("no right".into())).await;
        world.lands("good", present()).await;
        assert_eq!(world.ails(), both("ns/bad: no right"));
        world.lands("bad", present()).await;
        assert_eq!(world.ails(), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_out_of_use_ails_no_more_and_has_no_age() {
        let world = World::new();
        world.lands("left", present()).await;
        world.lands("left", Err("away".into())).await;
        sleep(Duration::from_secs(45)).await;
        assert_eq!((world.ails(), world.accounts.status().oldest_seconds), (both("ns/left: away"), Some(45)));
        world.lands("stays", present()).await;
        sleep(Duration::from_secs(46)).await;
        assert_eq!(world.ails(), (None, None));
        let status = world.accounts.status();
        assert_eq!((status.known, status.oldest_seconds), (2, Some(46)));
        sleep(Duration::from_secs(15)).await;
        assert_eq!(world.accounts.status().oldest_seconds, None);
    }
}
