//! `--pod-watch`: the tokens of deleted pods are refused, and what is held for those pods is dropped.
//!
//! `watch` follows this node's pods at the API server, `departures` knows who is gone, and here stands what follows from that: at
//! the deletion the credentials go, and a minute later, when the tokens are refused, whatever came meanwhile and the pins. A pod
//! of which nothing is known passes, so that a new pod never waits for an event, and an API server that is away stops nobody.

mod departures;
mod watch;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::Notify;

use crate::base::clock::Now;
use crate::base::parcel::{Parcel, Unreadable};
use crate::base::readiness::Part;
use crate::cache::Cache;
use crate::cluster::client::FetchError;
use crate::cluster::pods::departures::{Departures, Told};
use crate::domain::identity::Subject;
use crate::domain::refusal::{Reason, Refusal};
use crate::node::source::binding::SourceBinding;
use crate::observe::Context;
use crate::observe::metrics::Watch;
use crate::token::ApiServer;

/// Of what is packed: [`departures::Known`].
const VERSION: u8 = 1;

/// Whose pods are watched, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// The API server, where the agent may list and watch pods.
    pub server: Arc<ApiServer>,
    /// This node's name: `spec.nodeName` of its pods.
    pub node_name: String,
}

impl Config {
    /// Whether the watch would work: its list and its watch, once each.
    ///
    /// # Errors
    /// Why not, for an operator.
    pub async fn try_once(&self) -> Result<(), String> {
        watch::try_once(self).await.map_err(|error| error.to_string())
    }
}

/// What status shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether the watch is up to date.
    pub synced: bool,
    /// Pods that are there.
    pub present: usize,
    /// Pods that are gone or going.
    pub gone: usize,
    /// Why the watch is not up to date.
    pub error: Option<String>,
}

/// This node's pods, as far as they are watched. Clones share them.
#[derive(Debug, Clone)]
pub struct Pods {
    watched: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    departures: RwLock<Departures>,
    /// Something is due earlier than was known.
    changed: Notify,
    /// A predecessor's pods have come, which a new list has to be held against.
    inherited: Notify,
    /// Why the watch is not up to date.
    ails: Mutex<Option<String>>,
    advice: Part,
    cache: Cache,
    binding: Arc<SourceBinding>,
    context: Context,
}

impl Pods {
    /// Nobody looks: every pod passes.
    #[must_use]
    pub fn unwatched() -> Self {
        Self { watched: None }
    }

    /// Watches by `config`, if there is one, until shutdown; what `cache` and `binding` hold for deleted pods goes.
    #[must_use]
    pub fn start(config: Option<Config>, cache: &Cache, binding: &Arc<SourceBinding>, context: &Context) -> Self {
        let Some(config) = config else { return Self::unwatched() };
        let shared = Arc::new(Shared {
            config,
            departures: RwLock::default(),
            changed: Notify::new(),
            inherited: Notify::new(),
            ails: Mutex::new(Some("the API server has not answered yet".to_owned())),
            advice: context.readiness.advisory("pod watch"),
            cache: cache.clone(),
            binding: Arc::clone(binding),
            context: context.clone(),
        });
        context.metrics.watch_synced(Watch::Pods, false);
        context.tasks.spawn_critical("pod watch", run(Arc::clone(&shared)));
        Self { watched: Some(shared) }
    }

    /// Whether the pod of `subject` may still use its tokens at `now`. Without a verified pod, none is known to be gone.
    ///
    /// # Errors
    /// `pod_gone`.
    pub fn admit(&self, subject: &Subject, now: Now) -> Result<(), Refusal> {
        let Some((shared, identity)) = self.watched.as_ref().zip(subject.identity()) else { return Ok(()) };
        match shared.departures.read().refuse(&identity.pod_uid, now) {
            true => Err(Refusal::new(Reason::PodGone, "deleted a minute ago or more")),
            false => Ok(()),
        }
    }

    /// What status shows, if pods are watched.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        let shared = self.watched.as_ref()?;
        let ((present, gone), error) = (shared.departures.read().count(), shared.ails.lock().clone());
        Some(Status { synced: error.is_none(), present, gone, error })
    }

    /// Which pods are there, and which are gone.
    #[must_use]
    pub fn export(&self) -> Parcel {
        let known = self.watched.as_ref().map(|shared| shared.departures.read().export());
        Parcel::pack(VERSION, &known.unwrap_or_default())
    }

    /// Takes over what another agent of this node knew. A new list tells which of its pods have gone meanwhile.
    ///
    /// # Errors
    /// [`Unreadable`] when another version packed it.
    pub fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        let known = parcel.open(VERSION)?;
        if let Some(shared) = &self.watched {
            let asks = shared.departures.write().import(known, shared.context.clock.now());
            shared.changed.notify_one();
            if asks {
                shared.inherited.notify_one();
            }
        }
        Ok(())
    }
}

async fn run(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.context.tasks.shutting_down() => (),
        () = watch::follow(&shared) => (),
        () = shared.bury() => (),
    }
}

impl Shared {
    fn seen(&self, pod: Told) {
        self.departures.write().seen(pod, self.context.clock.now());
        self.changed.notify_one();
    }

    fn deleted(&self, pod: Told) {
        let uid = pod.uid.clone();
        self.departures.write().deleted(pod, self.context.clock.now());
        self.cache.drop_pod(&uid);
        self.changed.notify_one();
    }

    fn before_list(&self) {
        self.departures.write().before_list();
    }

    fn listed(&self, pods: Vec<Told>) {
        let vanished = self.departures.write().listed(pods, self.context.clock.now());
        for uid in vanished {
            self.cache.drop_pod(&uid);
        }
        self.changed.notify_one();
    }

    fn synced(&self) {
        self.context.metrics.watch_synced(Watch::Pods, true);
        self.advice.ready();
        if self.ails.lock().take().is_some() {
            tracing::info!(pods = self.departures.read().count().0, "this node's pods are watched");
        }
    }

    fn lost(&self, error: &FetchError) {
        self.context.metrics.watch_synced(Watch::Pods, false);
        let error = error.to_string();
        self.advice.pending(&error);
        let before = self.ails.lock().replace(error.clone());
        if before.as_ref() != Some(&error) {
            tracing::warn!(%error, "this node's pods can't be watched; nobody is refused for it");
        }
    }

    /// Drops what is left of pods whose tokens are refused, as that comes.
    async fn bury(&self) {
        loop {
            let due = self.departures.write().due(self.context.clock.now());
            for uid in due {
                self.cache.drop_pod(&uid);
                self.binding.forget(&uid);
            }
            let next = self.departures.read().next_due();
            tokio::select! {
                () = self.changed.notified() => (),
                () = self.sleep_until(next) => (),
            }
        }
    }

    async fn sleep_until(&self, due: Option<std::time::SystemTime>) {
        match due {
            Some(due) => tokio::time::sleep(self.context.clock.now().until(due)).await,
            None => std::future::pending().await,
        }
    }
}
