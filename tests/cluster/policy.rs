//! The operator's policy, a `ConfigMap` that the kubelet mounts: as it changes it counts, above annotations.

use std::sync::Arc;

use anyhow::ensure;

use crate::agent::put_policy;
use crate::annotations::{ROLE, annotated};
use crate::pod;
use crate::world::World;

const BY_ANNOTATION: &str = "arn:aws:iam::111111111111:role/policy";
const BY_RULE: &str = "arn:aws:iam::222222222222:role/policy";

const RULE: &str = "rules: [{ match: { namespace: policy, serviceAccount: app }, exchange: web-identity, role: ROLE }]";
const FAULTS: f64 = 2.0;
const FAULTY: &str = "rules: [{ match: { namespace: policy, serviceAccount: app }, exchange: none, colour: red }]";

pub(crate) async fn changes(world: Arc<World>) -> anyhow::Result<()> {
    for role in [BY_ANNOTATION, BY_RULE] {
        world.agent.aws.put_role(role, "system:serviceaccount:policy:app")?;
    }
    annotated(&world.cluster, "policy", &[&format!("{ROLE}={BY_ANNOTATION}")]).await?;
    let pod = world.cluster.run(&pod::asking(pod::by_web_identity("policy", "app-0", "app"))).await?;
    pod.is_served_in("111111111111").await?;

    put_policy(&world.cluster, &RULE.replace("ROLE", BY_RULE)).await?;
    pod.is_served_in("222222222222").await?;

    let good = world.agent.status().await?["grants"]["policy"].take();
    ensure!(good["faults"].as_array().is_some_and(Vec::is_empty), "{good}");
    put_policy(&world.cluster, FAULTY).await?;
    world.cluster.wait_until("faults", async || Ok(world.agent.metric("credlet_policy_faults").await? == FAULTS)).await?;
    let faulty = world.agent.status().await?["grants"]["policy"].take();
    ensure!(faulty["faults"].to_string().contains("colour") && faulty["loaded_at"] == good["loaded_at"], "{faulty}");
    let asked = pod.answers().await?.len();
    world.cluster.wait_until("more answers", async || Ok(pod.answers().await?.len() > asked + 2)).await?;
    pod.is_served_in("222222222222").await?;
    ensure!(world.agent.calls("policy") == 2, "the last good policy is in force, and what it gave is held");

    put_policy(&world.cluster, "rules: []").await?;
    pod.is_served_in("111111111111").await?;
    ensure!(world.agent.metric("credlet_policy_faults").await? == 0.0, "faults of a good policy");
    let served = pod.answers_since_served().await?;
    ensure!(served.iter().all(|answer| answer.status == 200), "{served:?}");
    ensure!(world.agent.calls("policy") == 3, "more than a call for each change");
    Ok(())
}
