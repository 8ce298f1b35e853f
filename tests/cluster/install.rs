//! What an operator does with the chart, and what pods notice of it: install, upgrade, a value that is wrong, uninstall.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::cluster::project_file;
use crate::pod::{self, Pod};
use crate::release::{IMAGE, NAMESPACE};
use crate::world::World;

const CLEANUP: &str = "daemonset/cleanup.yaml";
const CREDENTIALS_URL_V6: &str = "http://[fd00:ec2::23]/v1/credentials";

pub(crate) async fn both_families(world: Arc<World>) -> anyhow::Result<()> {
    world.cluster.namespace("both-families").await?;
    let manifest = |agent: &Agent, family: &str| {
        let mut pod = pod::injected("both-families", &format!("{}-{family}", agent.node.name));
        pod["spec"]["nodeName"] = json!(agent.node.name);
        pod
    };
    for agent in [&world.agent, &world.other_agent] {
        let mut by_ipv6 = manifest(agent, "ipv6");
        let url = json!({ "name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": CREDENTIALS_URL_V6 });
        by_ipv6["spec"]["containers"][0]["env"] = json!([url]);
        for pod in [manifest(agent, "ipv4"), by_ipv6] {
            agent.serves(&world.cluster.run(&pod).await?).await?;
        }
    }
    let calls = [world.agent.calls("both-families"), world.other_agent.calls("both-families")];
    ensure!(calls == [2, 2], "two pods of each node: {calls:?} calls to the nodes' clouds");
    Ok(())
}

pub(crate) async fn upgrade(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    let client = client(&world, "upgrade").await?;
    let mut values = agent.least_values();
    values["metrics"] = json!({ "port": 2706 });
    agent.release.put(&values).await?;
    let pod = agent.pod().await?.object().await?;
    let told = json!({ "name": "CREDLET_METRICS_PORT", "value": "2706" });
    ensure!(pod["spec"]["containers"][0]["env"].as_array().is_some_and(|variables| variables.contains(&told)), "{pod}");
    let metrics = agent.node_gets("http://127.0.0.1:2706/metrics").await?;
    ensure!(metrics.body.contains("credlet_build_info"), "{}", metrics.body);
    ensure!(agent.node_gets("http://127.0.0.1:2705/metrics").await.is_err(), "metrics at the port of before");
    client.is_served_again().await
}

pub(crate) async fn bad_values(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    let client = client(&world, "bad-values").await?;
    let before = (state(agent).await?, client.answers().await?.len());
    let faults = [
        (json!({ "clusterName": "" }), "clusterName"),
        (json!({ "clusterName": "EKS_CLUSTER_NAME" }), "clusterName"),
        (json!({ "region": "" }), "region"),
        (json!({ "agent": { "verbosity": "loud" } }), "verbosity"),
        (json!({ "clustername": "demo" }), "clustername"),
    ];
    for (fault, name) in faults {
        let mut values = agent.least_values();
        for (key, value) in fault.as_object().into_iter().flatten() {
            values[key] = value.clone();
        }
        let output = agent.release.try_put(&values, &[]).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(name), "{fault}: {said}");
    }
    client.is_served_again().await?;
    ensure!(state(agent).await? == before.0, "something was changed");
    let answers = client.answers().await?;
    ensure!(answers.iter().skip(before.1).all(|answer| answer.status == 200), "{answers:?}");
    Ok(())
}

/// As the chart's page says.
pub(crate) async fn check(world: Arc<World>) -> anyhow::Result<()> {
    let lines = world.agent.pod().await?.exec(&["/credlet", "check"]).await?;
    for line in [
        "169.254.170.23:80 is held by the agent that runs here",
        "169.254.170.23 is on pod-id-link0",
        "pods may be listed and watched",
    ] {
        ensure!(lines.contains(line), "no {line:?}:\n{lines}");
    }
    ensure!(lines.lines().all(|line| line.starts_with("ok ") || line.starts_with("warning ")), "{lines}");
    Ok(())
}

/// A pod beside the agent of the second node that asks all the time, and is served.
async fn client(world: &World, namespace: &str) -> anyhow::Result<Pod> {
    world.cluster.namespace(namespace).await?;
    let manifest = pod::asking(pod::on_second_node(pod::injected(namespace, "client")));
    let client = world.cluster.run(&manifest).await?;
    client.is_served_again().await?;
    Ok(client)
}

/// What an upgrade would change: its pods, and how often their containers have been started.
async fn state(agent: &Agent) -> anyhow::Result<Vec<[Value; 2]>> {
    let state = |pod: &Value| [pod["metadata"]["uid"].clone(), pod["status"]["containerStatuses"][0]["restartCount"].clone()];
    Ok(agent.release.pods().await?.iter().map(state).collect())
}

pub(crate) async fn uninstall(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    ensure!(!agent.release.objects().await?.is_empty(), "nothing bears the release's name");
    agent.release.remove().await?;
    let no_object = async || Ok(agent.release.objects().await?.is_empty());
    world.cluster.wait_until("nothing in the cluster", no_object).await?;
    ensure!(agent.has_link().await?, "the link is for the next agent");

    let cleanup = cleanup(&world, agent).await?;
    world.cluster.apply(&cleanup).await?;
    let done = world.cluster.rolled_out(NAMESPACE, "credlet-cleanup").await;
    world.cluster.delete(&cleanup).await?;
    done?;
    ensure!(!agent.has_link().await?, "the link is there still");
    Ok(())
}

/// As it is shipped, with this cluster's images and kind of link, and for the second node only: the first one's agent goes on.
async fn cleanup(world: &World, agent: &Agent) -> anyhow::Result<Value> {
    let words = ["create", "--dry-run=client", "--output=json", "--filename", &project_file(CLEANUP)];
    let mut cleanup: Value = serde_json::from_str(&world.cluster.kubectl(&words).await?)?;
    let spec = &mut cleanup["spec"]["template"]["spec"];
    spec["nodeSelector"]["kubernetes.io/hostname"] = json!(agent.node.name);
    for containers in ["initContainers", "containers"] {
        spec[containers][0]["image"] = json!(IMAGE);
        spec[containers][0]["env"] = json!([{ "name": "CREDLET_LINK_KIND", "value": "ifb" }]);
    }
    Ok(cleanup)
}
