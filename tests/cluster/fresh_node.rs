//! A node that has just come: its startup taint keeps pods away until credlet serves there.
//!
//! The Node Readiness Controller can't be had here: the trial removes the taint as its rule would, once `/readyz` answers 200.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::pod::{self, Pod};
use crate::world::World;

/// As the recipe has it (`daemonset/fresh-nodes`).
const TAINT: &str = "readiness.k8s.io/credlet";
const READYZ: &str = "http://127.0.0.1:2703/readyz";

pub(crate) async fn startup_taint(world: Arc<World>) -> anyhow::Result<()> {
    world.other_agent.release.remove().await?;
    world.cluster.kubectl(&["taint", "node", "node-2", &format!("{TAINT}=pending:NoSchedule")]).await?;
    let outcome = first_call(&world).await;
    world.cluster.try_kubectl(&["taint", "node", "node-2", &format!("{TAINT}-")], None).await?;
    outcome
}

async fn first_call(world: &World) -> anyhow::Result<()> {
    let (cluster, agent) = (&world.cluster, &world.other_agent);
    cluster.namespace("fresh-node").await?;
    let manifest = scheduled(pod::asking(pod::injected("fresh-node", "app-0")));
    cluster.apply(&manifest).await?;
    let app = Pod::of(cluster, &manifest)?;
    let is_kept_away = async || Ok(condition(&app.object().await?, "PodScheduled")["reason"] == "Unschedulable");
    cluster.wait_until("the pod is kept away", is_kept_away).await?;

    let early = agent.node_gets(READYZ).await;
    ensure!(early.is_err(), "there is an agent already: {early:?}");
    agent.install().await?;
    ensure!(agent.node_gets(READYZ).await?.status == 200, "the agent tolerates the taint, and is ready");
    ensure!(is_kept_away().await?, "the pod came before the agent");
    cluster.kubectl(&["taint", "node", &agent.node.name, &format!("{TAINT}-")]).await?;

    app.become_ready().await?;
    cluster.wait_until("the first answer", async || Ok(!app.answers().await?.is_empty())).await?;
    let first = app.answers().await?.into_iter().next().context("no answer")?;
    ensure!(first.status == 200, "{} {}", first.status, first.body);
    Ok(())
}

/// For the second node, by the scheduler's decision.
fn scheduled(mut pod: Value) -> Value {
    pod["spec"]["nodeName"].take();
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "node-2" });
    pod
}

fn condition(pod: &Value, name: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == name).cloned().unwrap_or_default()
}
