//! Ready is a pod whose own process serves, whoever else answers on the node's ports.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::pod::Pod;
use crate::release::{NAMESPACE, Release};
use crate::world::World;

const READYZ: &str = "http://127.0.0.1:2703/readyz";

/// A second agent of the first node, of another release: it has a handover folder of its own, and waits.
pub(crate) async fn second_agent(world: Arc<World>) -> anyhow::Result<()> {
    let second = Release::new(&world.cluster, "credlet-second");
    let installed = second.try_put(&world.agent.least_values(), &[]).await?;
    ensure!(installed.status.success(), "{installed:?}");
    let outcome = stays_unready(&world, &second).await;
    second.remove().await?;
    outcome
}

async fn stays_unready(world: &World, second: &Release) -> anyhow::Result<()> {
    world.cluster.wait_until("a pod", async || Ok(!second.pods().await?.is_empty())).await?;
    let pod = second.pod().await?;
    world.cluster.wait_until("a probe that fails", async || Ok(failed_probe(world, &pod).await?.is_some())).await?;
    let said = failed_probe(world, &pod).await?.context("no probe")?;
    ensure!(said.contains("169.254.170.23:80 is held by a process of uid 17023"), "{said}");

    let ready = world.agent.node_gets(READYZ).await?;
    ensure!(ready.status == 200, "by the node's port somebody is ready: {}", ready.body);
    ensure!(!pod.is_ready().await?, "the kubelet takes it for ready");
    Ok(())
}

/// What the kubelet was told when it asked last whether the pod is ready.
async fn failed_probe(world: &World, pod: &Pod) -> anyhow::Result<Option<String>> {
    let of_pod = format!("--field-selector=reason=Unhealthy,involvedObject.name={}", pod.name);
    let words = ["get", "events", &format!("--namespace={NAMESPACE}"), &of_pod, "--output=json"];
    let events: Value = serde_json::from_str(&world.cluster.kubectl(&words).await?)?;
    let mut messages = events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str());
    Ok(messages.rfind(|message| message.starts_with("Readiness probe")).map(str::to_owned))
}
