//! What the admission policy of `daemonset/injection` does to pods, on the real API server.

mod cases;

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{Cluster, printed, project_file};
use crate::injection::cases::{ASKING, SILENT};
use crate::pod;
use crate::world::World;

const POLICY: &str = "daemonset/injection/mutating-admission-policy.yaml";
/// The version that the cluster has.
const BETA_POLICY: &str = "daemonset/injection/mutating-admission-policy-v1beta1.yaml";
const LABEL: &str = "credlet.io/inject";

/// Installs the policy, which is in force when this returns.
pub(crate) async fn install(cluster: &Arc<Cluster>) -> anyhow::Result<()> {
    cluster.apply_file(BETA_POLICY).await?;
    cluster.namespace(SILENT).await?;
    cluster.namespace(ASKING).await?;
    cluster.kubectl(&["label", "namespace", ASKING, &format!("{LABEL}=true")]).await?;
    let probe = pod::sleeping(ASKING, "probe");
    let in_force =
        async || Ok(admitted(cluster, std::slice::from_ref(&probe)).await?[0]["spec"].to_string().contains("credlet-token"));
    cluster.wait_until("injection", in_force).await
}

/// Pods as the API server would store them.
async fn admitted(cluster: &Cluster, pods: &[Value]) -> anyhow::Result<Vec<Value>> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods });
    let create = ["create", "--dry-run=server", "--output=json", "--filename=-"];
    // One document after the other, not a list.
    let stored = cluster.kubectl_with(&create, &list).await?;
    Ok(serde_json::Deserializer::from_str(&stored).into_iter().collect::<Result<_, _>>()?)
}

pub(crate) async fn table(world: Arc<World>) -> anyhow::Result<()> {
    let cases = cases::all();
    let applied: Vec<Value> = cases.iter().map(|case| case.pod.clone()).collect();
    let stored = admitted(&world.cluster, &applied).await?;
    ensure!(stored.len() == cases.len(), "{} of {}", stored.len(), cases.len());
    for (case, pod) in cases.iter().zip(&stored) {
        case.check(pod)?;
    }
    let again: Vec<Value> = stored.iter().map(as_applied).collect();
    for (first, second) in stored.iter().zip(admitted(&world.cluster, &again).await?) {
        ensure!(first["spec"] == second["spec"], "what has all of it got more:\n{first:#}\n{second:#}");
    }
    Ok(())
}

/// A stored pod without what the API server adds to its metadata.
fn as_applied(pod: &Value) -> Value {
    let metadata = &pod["metadata"];
    let metadata = json!({ "namespace": metadata["namespace"], "name": metadata["name"], "labels": metadata["labels"] });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"] })
}

pub(crate) async fn running_pod(world: Arc<World>) -> anyhow::Result<()> {
    world.cluster.namespace("injection-running").await?;
    let mut manifest = pod::injected("injection-running", "app-0");
    // With a proxy that nobody reaches, so that only an exception from it leads to credlet.
    manifest["spec"]["containers"][0]["env"] = json!([{ "name": "http_proxy", "value": "http://192.0.2.254:3128" }]);
    let pod = world.cluster.run(&manifest).await?;
    let answer = pod.ask().await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    let session = world.agent.issued(answer.json()["AccessKeyId"].as_str().unwrap_or_default()).await?;
    ensure!(session["namespace"] == "injection-running" && session["pod_name"] == "app-0", "{session}");
    Ok(())
}

pub(crate) async fn examples(world: Arc<World>) -> anyhow::Result<()> {
    for file in ["opt-in.yaml", "by-hand.yaml", "eks-webhook.yaml"] {
        world.cluster.apply_file(&format!("daemonset/injection/{file}")).await?;
    }
    let served = world.cluster.get("credlet-example", "pod", "served").await?;
    let by_web_identity = world.cluster.get("credlet-example", "pod", "served-by-web-identity").await?;
    let left_alone = world.cluster.get("credlet-example", "pod", "left-alone").await?;
    let by_hand = world.cluster.get("default", "pod", "by-hand").await?;
    ensure!(audience(&served) == "pods.eks.amazonaws.com", "{served}");
    ensure!(audience(&by_web_identity) == "sts.amazonaws.com", "{by_web_identity}");
    ensure!(audience(&left_alone).is_null(), "{left_alone}");
    // What is written by hand is what is injected.
    let parts = |pod: &Value| [pod["spec"]["containers"][0]["env"].clone(), token_volume(pod)];
    ensure!(parts(&by_hand) == parts(&served), "{by_hand}\n{served}");
    let webhook = world.cluster.get("kube-system", "configmap", "pod-identity-webhook-container-credentials").await?;
    let identities: Value = serde_json::from_str(webhook["data"]["config.json"].as_str().context("no config")?)?;
    ensure!(identities["identities"][0]["serviceAccount"] == "default", "{identities}");
    world.cluster.delete(&webhook).await
}

fn token_volume(pod: &Value) -> Value {
    let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    volumes.into_iter().find(|volume| volume["name"] == "credlet-token").unwrap_or_default()
}

fn audience(pod: &Value) -> Value {
    token_volume(pod)["projected"]["sources"][0]["serviceAccountToken"]["audience"].clone()
}

pub(crate) async fn versions(world: Arc<World>) -> anyhow::Result<()> {
    let (stable, beta) = (std::fs::read_to_string(project_file(POLICY))?, std::fs::read_to_string(project_file(BETA_POLICY))?);
    let version = "apiVersion: admissionregistration.k8s.io/v1";
    ensure!(
        stable.replace(&format!("{version}\n"), &format!("{version}beta1\n")) == beta,
        "they differ in more than the version"
    );

    // 1.36 is the first version with a schema of it; of a kind that it doesn't know the tool says nothing worse than that.
    let validate = format!("{}/bin/kubernetes-validate", world.cluster.python());
    let output = Command::new(validate).args(["--strict", "-k", "1.36", &project_file(POLICY)]).output().await?;
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    printed(output).with_context(|| said.clone())?;
    let objects =
        ["policy/credlet-injection", "policybinding/credlet-injection-by-pod", "policybinding/credlet-injection-by-namespace"];
    for object in objects {
        ensure!(said.contains(&format!("passed for resource mutatingadmission{object} against version 1.36")), "{said}");
    }
    Ok(())
}

/// A policy of somebody else's, which adds a container to a pod only once ours has seen it, whichever comes first.
fn sidecar_policy(namespace: &str) -> Value {
    let expression = r#"size(object.spec.containers) == 1 && has(object.spec.containers[0].env) ? [JSONPatch{
        op: "add", path: "/spec/containers/-", value: Object.spec.containers{name: "late", image: "late"}}] : []"#;
    let (group, name) = ("admissionregistration.k8s.io", "late-sidecar");
    let matches = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
        "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }],
    });
    let policy = json!({
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": matches,
        "mutations": [{ "patchType": "JSONPatch", "jsonPatch": { "expression": expression } }],
    });
    let object = |kind: &str, spec: Value| json!({ "apiVersion": format!("{group}/v1beta1"), "kind": kind, "metadata": { "name": name }, "spec": spec });
    let binding = object("MutatingAdmissionPolicyBinding", json!({ "policyName": name }));
    json!({ "apiVersion": "v1", "kind": "List", "items": [object("MutatingAdmissionPolicy", policy), binding] })
}

pub(crate) async fn late_sidecar(world: Arc<World>) -> anyhow::Result<()> {
    let cluster = &world.cluster;
    cluster.namespace("injection-sidecar").await?;
    cluster.apply(&sidecar_policy("injection-sidecar")).await?;
    let mut pod = pod::sleeping("injection-sidecar", "app-0");
    pod["metadata"]["labels"] = json!({ LABEL: "true" });
    let mut containers = Value::Null;
    let added = async || {
        containers = admitted(cluster, std::slice::from_ref(&pod)).await?[0]["spec"]["containers"].take();
        Ok(containers[1]["name"] == "late")
    };
    cluster.wait_until("the sidecar", added).await?;
    ensure!(containers[1]["env"] == containers[0]["env"], "{containers:#}");
    ensure!(containers[1]["env"][0]["name"] == "AWS_CONTAINER_CREDENTIALS_FULL_URI", "{containers:#}");
    Ok(())
}
