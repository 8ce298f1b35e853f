//! credlet as the agent of one node: a pod in the node's network, with a service account's token and CA and no more rights than it
//! needs, and a simulated AWS behind it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use credlet::domain::identity::TokenDigest;
use serde_json::{Value, json};

use crate::cloud::Aws;
use crate::cluster::{Cluster, printed};
use crate::harness::http::Answer;
use crate::harness::setup::REGION;
use crate::lab::Node;
use crate::pod::{self, CREDENTIALS_URL, CURL, Pod};

/// The rights of its service account, as they are shipped.
const RBAC: &str = "daemonset/rbac/service-account-roles.yaml";
const NAMESPACE: &str = "kube-system";
/// Its service account, by RBAC.
pub(crate) const USER: &str = "system:serviceaccount:kube-system:credlet";
const CREDLET: &str = "/credlet";

/// Where the `ConfigMap` of its policy is mounted.
const POLICY_FOLDER: &str = "/etc/credlet";
const POLICY_MAP: &str = "credlet-policy";

/// How often its log is read for a line, each time by a new kubectl.
const AUDIT_LOOKS: usize = 20;

/// An agent that serves its node.
pub(crate) struct Agent {
    pub(crate) aws: Aws,
    pub(crate) pod: Pod,
    node: Node,
}

impl Agent {
    /// Makes link and addresses, the cloud, and the agent with these flags more, which is ready when this returns.
    pub(crate) async fn start(cluster: &Arc<Cluster>, node: &Node, flags: &[&str]) -> anyhow::Result<Self> {
        add_link(node).await?;
        let keys = cluster.kubectl(&["get", "--raw=/openid/v1/jwks"]).await?;
        let aws = Aws::start(node, issuer(cluster).await?, &keys).await?;
        let pod = cluster.run(&manifest(node, &aws, flags)).await?;
        Ok(Self { aws, pod, node: node.clone() })
    }

    /// A sample of its metrics.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let metrics = self.curl(&["http://127.0.0.1:2705/metrics"]).await?.body;
        let sample = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(sample.with_context(|| format!("no {name}"))?.parse()?)
    }

    /// What `credlet status --json` prints.
    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.pod.exec(&[CREDLET, "status", "--json"]).await?)?)
    }

    /// The audit line of the session with this access key.
    pub(crate) async fn issued(&self, access_key_id: &str) -> anyhow::Result<Value> {
        self.audit(|line| line["access_key_id"] == access_key_id).await
    }

    /// The audit line of the last refusal of a pod.
    pub(crate) async fn refused_pod(&self, pod: &Pod) -> anyhow::Result<Value> {
        let is_of = |line: &Value| line["namespace"] == *pod.namespace && line["pod_name"] == *pod.name;
        self.audit(|line| line["outcome"] == "refused" && is_of(line)).await
    }

    /// The audit line of the refusal of a token that proved nothing.
    pub(crate) async fn refused(&self, token: &str) -> anyhow::Result<Value> {
        let fingerprint = TokenDigest::of(token.as_bytes()).fingerprint();
        self.audit(|line| line["outcome"] == "refused" && line["token_id"] == *fingerprint).await
    }

    /// The newest audit line that is `wanted`, which the kubelet may show a moment late.
    async fn audit(&self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut log = String::new();
        for _ in 0..AUDIT_LOOKS {
            log = self.pod.logs().await?;
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.filter(|line| line["target"] == "audit" && wanted(line)).last() {
                return Ok(line);
            }
        }
        bail!("no such audit line:\n{log}")
    }

    /// How many calls for service accounts of `namespace` have come to AWS.
    pub(crate) fn calls(&self, namespace: &str) -> usize {
        let prefix = format!("system:serviceaccount:{namespace}:");
        let is_of = |subject: &Option<String>| subject.as_ref().is_some_and(|subject| subject.starts_with(&prefix));
        self.aws.cloud.calls().iter().filter(|call| is_of(&call.subject)).count()
    }

    /// Its answer to a process of the node itself, for which no API server is needed.
    pub(crate) async fn ask(&self, token: &str) -> anyhow::Result<Answer> {
        self.curl(&["--header", &format!("Authorization: {token}"), CREDENTIALS_URL]).await
    }

    async fn curl(&self, words: &[&str]) -> anyhow::Result<Answer> {
        let [curl, flags @ ..] = CURL;
        let mut command = self.node.command(curl);
        command.args(flags).args(words);
        pod::answer(&printed(command.output().await?)?)
    }
}

/// Makes what agents need before they start: their service account with its rights, and a policy without rules.
pub(crate) async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply_file(RBAC).await?;
    put_policy(cluster, "rules: []").await
}

/// Changes the policy, as an operator does.
pub(crate) async fn put_policy(cluster: &Cluster, text: &str) -> anyhow::Result<()> {
    let metadata = json!({ "namespace": NAMESPACE, "name": POLICY_MAP });
    let data = json!({ "policy.yaml": text });
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data })).await
}

/// The `iss` of the cluster's tokens.
async fn issuer(cluster: &Cluster) -> anyhow::Result<String> {
    let discovery = cluster.kubectl(&["get", "--raw=/.well-known/openid-configuration"]).await?;
    let discovery: Value = serde_json::from_str(&discovery)?;
    Ok(discovery["issuer"].as_str().context("no issuer")?.to_owned())
}

/// Not every kernel has dummy links; `ifb` links do the same for this.
async fn add_link(node: &Node) -> anyhow::Result<()> {
    let script = "ip link add pod-id-link0 type ifb
        ip address add 169.254.170.23/32 dev pod-id-link0
        ip address add fd00:ec2::23/128 dev pod-id-link0 nodad
        ip link set pod-id-link0 up";
    let output = node.command("sh").args(["-ec", script]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn manifest(node: &Node, aws: &Aws, flags: &[&str]) -> Value {
    let (access_key_id, secret) = aws.cloud.node_credentials();
    let mut pod = pod::sleeping(NAMESPACE, &format!("credlet-{}", node.name));
    pod["metadata"]["labels"] = json!({ "app.kubernetes.io/name": "credlet" });
    pod["spec"]["nodeName"] = json!(node.name);
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["serviceAccountName"] = json!("credlet");
    let endpoint = format!("--endpoint={}", aws.cloud.eks_auth_url());
    let policy = format!("--policy={POLICY_FOLDER}/policy.yaml");
    let container = &mut pod["spec"]["containers"][0];
    let command = [CREDLET, "server", "--cluster-name=demo", "--service-account-roles", &endpoint, &policy];
    container["command"] = json!([&command, flags].concat());
    container["env"] = json!([
        { "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
        { "name": "AWS_REGION", "value": REGION },
        { "name": "AWS_ENDPOINT_URL_STS", "value": aws.cloud.sts_url() },
        { "name": "AWS_ACCESS_KEY_ID", "value": access_key_id },
        { "name": "AWS_SECRET_ACCESS_KEY", "value": secret.expose() },
    ]);
    container["readinessProbe"] = json!({ "exec": { "command": [CREDLET, "status", "--ready"] }, "periodSeconds": 1 });
    container["securityContext"] = json!({
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    let binary = Path::new(env!("CARGO_BIN_EXE_credlet")).display().to_string();
    pod::push(&mut container["volumeMounts"], json!({ "name": "credlet", "mountPath": CREDLET, "readOnly": true }));
    pod::push(&mut container["volumeMounts"], json!({ "name": "run", "mountPath": "/run/credlet" }));
    pod::push(&mut pod["spec"]["volumes"], json!({ "name": "credlet", "hostPath": { "path": binary, "type": "File" } }));
    pod::push(&mut pod["spec"]["volumes"], json!({ "name": "run", "emptyDir": {} }));
    let mount = json!({ "name": "policy", "mountPath": POLICY_FOLDER, "readOnly": true });
    pod::push(&mut pod["spec"]["containers"][0]["volumeMounts"], mount);
    pod::push(&mut pod["spec"]["volumes"], json!({ "name": "policy", "configMap": { "name": POLICY_MAP } }));
    // The system's roots, which an image of credlet brings along.
    pod::with_folder(pod, "roots", "/etc/ssl")
}
