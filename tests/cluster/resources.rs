//! What the agent of a full node takes: the requests and limits of the chart follow from these figures.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use credlet::base::clock::Clock;
use serde_json::json;

use crate::agent::Agent;
use crate::pod;
use crate::process::Process;
use crate::world::World;

/// With the agent itself as many as a kubelet runs by default.
const PODS: u32 = 109;
/// From one request of a pod to the next, in seconds.
const PERIOD: u32 = 5;
/// For how long processor time is measured.
const STEADY: Duration = Duration::from_secs(30);
/// From one look at the agent's metrics to the next.
const LOOK: Duration = Duration::from_millis(500);
/// Pods start one after the other, half a second each.
const START_LIMIT: Duration = Duration::from_secs(300);
/// A quarter of the chart's `resources.limits.memory`, most of which is for connections that never come to a request.
const MOST_KIB: u64 = 64 * 1024;

pub(crate) async fn full_node(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.agent;
    let process = Process::of(&agent.pod().await?, "credlet").await?;
    report("nothing asked yet", &process)?;
    world.cluster.namespace("full-node").await?;
    let begin = Clock::System.now().mono;
    world.cluster.apply(&replicas()).await?;
    tokio::time::timeout(START_LIMIT, all_served(agent)).await??;
    let (took, [_, failed]) = (Clock::System.now().mono - begin, agent.requests().await?);
    report(&format!("{PODS} pods served, {} s after they were asked for, {failed} tries failed", took.as_secs()), &process)?;

    let (before, [served_before, failed_before]) = (process.processor_time()?, agent.requests().await?);
    tokio::time::sleep(STEADY).await;
    let (time, [served, failed]) = (process.processor_time()? - before, agent.requests().await?);
    let (rate, millicores) = ((served - served_before) / STEADY.as_secs_f64(), 1000.0 * time / STEADY.as_secs_f64());
    report(&format!("{rate:.0} requests a second, {millicores:.1} millicores"), &process)?;

    ensure!(failed == failed_before, "{} requests failed", failed - failed_before);
    ensure!(agent.calls("full-node") == usize::try_from(PODS)?, "a call for each pod");
    ensure!(process.memory()?.1 <= MOST_KIB, "it took more than {MOST_KIB} KiB");
    Ok(())
}

/// Returns once AWS has been asked for each pod, and each has been answered once more.
async fn all_served(agent: &Agent) -> anyhow::Result<()> {
    while agent.calls("full-node") < usize::try_from(PODS)? {
        tokio::time::sleep(LOOK).await;
    }
    let round = agent.requests().await?[0] + f64::from(PODS);
    while agent.requests().await?[0] < round {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn report(when: &str, process: &Process) -> anyhow::Result<()> {
    let (now, most) = process.memory()?;
    eprintln!("{when}: {now} KiB, at most {most} KiB");
    Ok(())
}

fn replicas() -> serde_json::Value {
    let mut pod = pod::asking_every(pod::injected("full-node", "app"), PERIOD);
    let labels = json!({ "app": "full-node", "credlet.io/inject": "pod-identity" });
    pod["metadata"] = json!({ "labels": labels });
    let selector = json!({ "matchLabels": { "app": "full-node" } });
    let metadata = json!({ "namespace": "full-node", "name": "app" });
    let template = json!({ "metadata": pod["metadata"], "spec": pod["spec"] });
    let spec = json!({ "replicas": PODS, "selector": selector, "template": template });
    json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec })
}
