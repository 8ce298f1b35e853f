//! The API server goes away: what credlet knows it still knows.

use std::sync::Arc;

use anyhow::ensure;

use crate::pod;
use crate::world::World;

pub(crate) async fn api_server(world: Arc<World>) -> anyhow::Result<()> {
    world.cluster.namespace("outage").await?;
    let pod = world.cluster.run(&pod::with_identity("outage", "app-0", "default")).await?;
    let token = pod.token().await?;
    world.cluster.stop_api_server().await?;
    // The first fetch of this pod: its proof needs the keys, which only the API server has.
    let answer = world.agent.ask(&token).await;
    let is_gone = world.cluster.kubectl(&["get", "--raw=/readyz"]).await.is_err();
    world.cluster.start_api_server().await?;
    let answer = answer?;
    ensure!(is_gone, "the API server was there");
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    ensure!(pod.ask().await?.body == answer.body, "the same session after it has come back");
    Ok(())
}
