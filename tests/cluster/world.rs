//! What all trials share: one cluster with an agent on each node, started by the first of them that runs.

use std::sync::Arc;

use anyhow::bail;
use serde_json::json;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::agent::{Agent, put_policy};
use crate::cluster::Cluster;
use crate::injection;

/// A cluster in which credlet serves both nodes, and equips the pods that ask for it.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    /// Of `node-1`, where pods run that name no other.
    pub(crate) agent: Agent,
    /// Of `node-2`, which renews what it holds every 20 seconds, for who wants to see renewals.
    pub(crate) other_agent: Agent,
}

impl World {
    async fn start() -> anyhow::Result<Self> {
        let cluster = Arc::new(Cluster::start(2).await?);
        let [first, second] = cluster.nodes() else { bail!("not two nodes") };
        put_policy(&cluster, "rules: []").await?;
        let often = json!({ "maxCredentialRetentionBeforeRenewal": "20s" });
        let (agent, other_agent) = tokio::try_join!(
            Agent::start(&cluster, first, "credlet", json!({})),
            Agent::start(&cluster, second, "credlet-node-2", often)
        )?;
        injection::install(&cluster).await?;
        Ok(Self { cluster, agent, other_agent })
    }
}

/// The world once somebody needs it. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Shared {
    world: Arc<Mutex<State>>,
    turns: Arc<RwLock<()>>,
}

#[derive(Default)]
enum State {
    #[default]
    NotYet,
    There(Arc<World>),
    /// It did not start: the first trial has told why.
    Failed,
}

impl Shared {
    /// The world and a turn that trials share.
    pub(crate) async fn world(&self) -> anyhow::Result<(Arc<World>, OwnedRwLockReadGuard<()>)> {
        Ok((self.started().await?, Arc::clone(&self.turns).read_owned().await))
    }

    /// The world and a turn that nobody shares.
    pub(crate) async fn world_alone(&self) -> anyhow::Result<(Arc<World>, OwnedRwLockWriteGuard<()>)> {
        Ok((self.started().await?, Arc::clone(&self.turns).write_owned().await))
    }

    /// Ends the cluster and everything in it.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        match std::mem::take(&mut *self.world.lock().await) {
            State::There(world) => world.cluster.stop().await,
            State::NotYet | State::Failed => Ok(()),
        }
    }

    async fn started(&self) -> anyhow::Result<Arc<World>> {
        let mut state = self.world.lock().await;
        if matches!(*state, State::NotYet) {
            *state = State::Failed;
            *state = State::There(Arc::new(World::start().await?));
        }
        match &*state {
            State::There(world) => Ok(Arc::clone(world)),
            State::NotYet | State::Failed => bail!("there is no cluster"),
        }
    }
}
