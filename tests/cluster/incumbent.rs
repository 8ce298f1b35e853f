//! From the EKS Pod Identity Agent to credlet: by another image in its `DaemonSet`, or side by side and then without it.
//!
//! Its own image can't be had here. Where it has to hold the port, credlet does so in its place, in its `DaemonSet`
//! and as its uid.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::harness::asker::{Asker, Asking, Connections};
use crate::harness::setup::REGION;
use crate::pod;
use crate::release::{IMAGE, NAMESPACE};
use crate::world::World;

const NAME: &str = "eks-pod-identity-agent";

/// A flag of the incumbent's that means more here, with the value that it has there by default.
const DIFFERING: [&str; 2] = ["--max-credential-retention-before-renewal", "3h"];
/// What is said about it.
const DIFFERENCE: &str = "credentials are renewed after this or at half of their life";

/// From the end of the one agent to the first answer of the other.
const PROMISE: Duration = Duration::from_millis(50);

/// With answers that take longer, the machine is too busy to tell.
const TELLING: Duration = Duration::from_millis(250);

/// The `DaemonSet` that the incumbent's chart renders (`hack/testdata` of its repository, chart 1.2.0) for one node. What differs
/// is the image, which is not pulled, what stands for AWS, the kind of link that this kernel has, and [`DIFFERING`].
fn daemon_set(agent: &Agent) -> Value {
    let labels = json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": "release-name" });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": labels },
        "spec": {
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "10%" }, "type": "RollingUpdate" },
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "automountServiceAccountToken": false,
                    "priorityClassName": "system-node-critical",
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 30,
                    "tolerations": [{ "operator": "Exists" }],
                    "affinity": affinity(&agent.node.name),
                    "initContainers": [init_container()],
                    "containers": [container(agent)],
                },
            },
        },
    })
}

fn affinity(node: &str) -> Value {
    let expressions = json!([
        { "key": "kubernetes.io/os", "operator": "In", "values": ["linux"] },
        { "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"] },
        { "key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate", "hybrid", "auto"] },
        { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] },
    ]);
    let terms = json!([{ "matchExpressions": expressions }]);
    json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } })
}

fn init_container() -> Value {
    json!({
        "name": "eks-pod-identity-agent-init",
        "image": IMAGE,
        "command": ["/go-runner", "/eks-pod-identity-agent", "initialize"],
        "args": ["-v", "trace"],
        "env": [{ "name": "CREDLET_LINK_KIND", "value": "ifb" }],
        "securityContext": { "privileged": true },
    })
}

fn container(agent: &Agent) -> Value {
    let args = [&["--port", "80", "--cluster-name", "demo", "--probe-port", "2703", "-v", "trace"], &DIFFERING[..]].concat();
    let mut env = vec![json!({ "name": "AWS_REGION", "value": REGION })];
    let variables = agent.aws.variables();
    env.extend(variables.as_object().into_iter().flatten().map(|(name, value)| json!({ "name": name, "value": value })));
    let probe = |path: &str| json!({ "host": "localhost", "path": path, "port": "probes-port", "scheme": "HTTP" });
    json!({
        "name": NAME,
        "image": IMAGE,
        "command": ["/go-runner", "/eks-pod-identity-agent", "server"],
        "args": args,
        "ports": [
            { "containerPort": 80, "protocol": "TCP", "name": "proxy" },
            { "containerPort": 2703, "protocol": "TCP", "name": "probes-port" },
        ],
        "env": env,
        "securityContext": { "capabilities": { "add": ["CAP_NET_BIND_SERVICE"] } },
        "livenessProbe":
            { "failureThreshold": 3, "httpGet": probe("/healthz"), "initialDelaySeconds": 30, "timeoutSeconds": 10 },
        "readinessProbe":
            { "failureThreshold": 30, "httpGet": probe("/readyz"), "initialDelaySeconds": 1, "timeoutSeconds": 10 },
    })
}

/// Puts the incumbent's `DaemonSet` in place of the second node's agent, and waits until it is ready.
async fn take_over(world: &World) -> anyhow::Result<Value> {
    world.other_agent.release.remove().await?;
    let daemon_set = daemon_set(&world.other_agent);
    world.cluster.apply(&daemon_set).await?;
    world.cluster.rolled_out(NAMESPACE, NAME).await?;
    Ok(daemon_set)
}

pub(crate) async fn image_swapped(world: Arc<World>) -> anyhow::Result<()> {
    let daemon_set = take_over(&world).await?;
    let outcome = serves_and_warns(&world).await;
    world.cluster.delete(&daemon_set).await?;
    outcome
}

async fn serves_and_warns(world: &World) -> anyhow::Result<()> {
    world.cluster.namespace("image-swapped").await?;
    let manifest = pod::on_second_node(pod::with_identity("image-swapped", "app-0", "default"));
    let answer = world.cluster.run(&manifest).await?.ask().await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    ensure!(world.other_agent.calls("image-swapped") == 1, "not of this node's cloud");
    let log = world.cluster.kubectl(&["logs", &format!("daemonset/{NAME}"), &format!("--namespace={NAMESPACE}")]).await?;
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains(DIFFERENCE)).collect();
    ensure!(warnings.len() == 1 && warnings[0].contains(r#""level":"WARN""#), "{warnings:?}");
    Ok(())
}

pub(crate) async fn side_by_side(world: Arc<World>) -> anyhow::Result<()> {
    let daemon_set = take_over(&world).await?;
    let outcome = changes_over(&world, &daemon_set).await;
    world.cluster.delete_if_there(&daemon_set).await?;
    outcome
}

async fn changes_over(world: &World, daemon_set: &Value) -> anyhow::Result<()> {
    let release = &world.other_agent.release;
    world.cluster.namespace("side-by-side").await?;
    let manifest = pod::on_second_node(pod::with_identity("side-by-side", "app-0", "default"));
    let client = world.cluster.run(&pod::with_python(manifest, &world.cluster)).await?;

    let installed = release.try_put(&world.other_agent.least_values(), &[]).await?;
    ensure!(installed.status.success(), "{installed:?}");
    let pod = release.running_pod(|_| true).await?;
    pod.waits_for("169.254.170.23:80 is held by a process of uid 0; waiting for it to leave").await?;

    let asker =
        Asker::start_in(world.other_agent.node.network()?, Asking::nodes_agent(&client.token().await?, Connections::Each));
    let (boto3, changed) = tokio::join!(client.python(BOTO3), async {
        let asks = async || Ok(client.try_exec(&["test", "-e", SERVED]).await?.status.success());
        world.cluster.wait_until("boto3 to be served", asks).await?;
        world.cluster.delete(daemon_set).await?;
        release.become_ready().await?;
        client.exec(&["rm", SERVED]).await
    });
    changed?;
    let (boto3, asked) = (boto3?, asker.stop()?);
    eprintln!("side by side: {asked:?}, boto3: {boto3}");
    ensure!(asked.slowest <= TELLING, "this machine is too busy to tell: {asked:?}");
    // At both ends is an answer, which takes what this machine makes it take.
    ensure!(asked.gap <= PROMISE + 2 * asked.slowest, "{asked:?}");
    ensure!(world.other_agent.requests().await?[0] > 0.0, "not the new one's answers");
    ensure!(boto3.ends_with(" served, 0 failed"), "{boto3}");
    Ok(())
}

/// Is there from the first time that [`BOTO3`] is served on; taking it away ends that.
const SERVED: &str = "/tmp/served";

/// Asks as each new process does, with the SDK's own retries.
const BOTO3: &str = "
import boto3, os
served, failed = 0, 0
while not served or os.path.exists('/tmp/served'):
    try:
        boto3.session.Session().get_credentials().get_frozen_credentials()
        served += 1
    except Exception as error:
        failed += 1
        print(error)
    if served == 1:
        open('/tmp/served', 'w').close()
print(served, 'served,', failed, 'failed', end='')
";
