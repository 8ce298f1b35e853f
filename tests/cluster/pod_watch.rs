//! A thief keeps the token of a pod that is deleted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use credlet::base::clock::Clock;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::pod;
use crate::world::World;

/// From `deletionTimestamp`: as long as the API server itself takes the token for good, and five seconds.
const REFUSED: std::ops::Range<Duration> = Duration::from_secs(60)..Duration::from_secs(65);

/// Enough to read `deletionTimestamp` in: a pod's first process ignores SIGTERM unless it says otherwise.
const GRACE_SECONDS: u32 = 4;

const POLL: Duration = Duration::from_millis(200);

pub(crate) async fn stolen_token(world: Arc<World>) -> anyhow::Result<()> {
    let (cluster, agent, namespace) = (&world.cluster, &world.agent, "stolen-token");
    cluster.namespace(namespace).await?;
    let mut victim = pod::with_identity(namespace, "victim", "default");
    victim["spec"]["terminationGracePeriodSeconds"] = json!(GRACE_SECONDS);
    let victim = cluster.run(&victim).await?;
    let thief = cluster.run(&pod::sleeping(namespace, "thief")).await?;
    agent.serves(&victim).await?;
    let (token, uid) = (victim.token().await?, victim.object().await?["metadata"]["uid"].clone());
    ensure!(agent.status().await?["pod_watch"]["synced"] == true, "no watch");

    let namespace = format!("--namespace={namespace}");
    cluster.kubectl(&["delete", "pod", "victim", &namespace, "--wait=false"]).await?;
    let deletion = victim.object().await?["metadata"]["deletionTimestamp"].clone();
    let deletion = humantime::parse_rfc3339(deletion.as_str().context("no deletionTimestamp")?)?;
    let is_held = async || {
        let entries = agent.status().await?["entries"].as_array().cloned().unwrap_or_default();
        anyhow::Ok(entries.iter().any(|entry| entry["pod_uid"] == uid))
    };
    ensure!(is_held().await?, "it is served while it ends");
    cluster.wait_until("the end of its credentials", async || Ok(!is_held().await?)).await?;
    let since = |deletion: SystemTime| Clock::System.now().wall.duration_since(deletion).unwrap_or_default();
    ensure!(since(deletion) < REFUSED.start, "its credentials outlived it by {:?}", since(deletion));

    ensure!(thief.ask_with(&token).await?.status == 200, "the minute that the API server gives too");
    // By a process of the node, which needs no kubectl to ask: seconds count.
    let refused = async {
        loop {
            let answer = agent.ask(&token).await?;
            match answer.status {
                200 => sleep(POLL).await,
                401 => return anyhow::Ok(since(deletion)),
                other => anyhow::bail!("{other}: {}", answer.body),
            }
        }
    };
    let after = timeout(Duration::from_secs(90), refused).await.context("it is never refused")??;
    ensure!(REFUSED.contains(&after), "refused {after:?} after deletionTimestamp");
    ensure!(thief.ask_with(&token).await?.status == 401, "the thief is not");
    ensure!(agent.refused_pod(&victim).await?["reason"] == "pod_gone", "for another reason");
    // A moment later than the refusals begin, for those who asked just before.
    cluster.wait_until("the end of what the thief had meanwhile", async || Ok(!is_held().await?)).await
}
