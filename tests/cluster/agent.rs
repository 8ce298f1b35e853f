//! credlet as the agent of one node, installed by its chart as an operator would, and a simulated AWS behind it.

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
use crate::release::{self, NAMESPACE, Release};

/// Its service account.
pub(crate) const USER: &str = "system:serviceaccount:kube-system:credlet";
/// In its image.
pub(crate) const CREDLET: &str = "/credlet";

/// The `ConfigMap` of its policy.
const POLICY_MAP: &str = "credlet-policy";

/// How often its log is read for a line, each time by a new kubectl.
const AUDIT_LOOKS: usize = 20;

/// The agent of a node.
pub(crate) struct Agent {
    pub(crate) aws: Aws,
    pub(crate) node: Node,
    pub(crate) release: Release,
    /// The flags of the chart's `agent` that it has more than others.
    flags: Value,
}

impl Agent {
    /// Starts the cloud, and installs the agent with these flags more, which is ready when this returns.
    pub(crate) async fn start(cluster: &Arc<Cluster>, node: &Node, name: &str, flags: Value) -> anyhow::Result<Self> {
        let keys = cluster.kubectl(&["get", "--raw=/openid/v1/jwks"]).await?;
        let aws = Aws::start(node, issuer(cluster).await?, &keys).await?;
        let release = Release::new(cluster, name);
        let agent = Self { aws, node: node.clone(), release, flags };
        agent.install().await?;
        Ok(agent)
    }

    /// Installs it, or upgrades it back to what trials expect.
    pub(crate) async fn install(&self) -> anyhow::Result<()> {
        let mut values = self.least_values();
        values["serviceAccountRoles"] = json!(true);
        values["podWatch"] = json!(true);
        values["policy"] = json!({ "existingConfigMap": { "name": POLICY_MAP } });
        values["agent"] = self.flags.clone();
        self.release.put(&values).await
    }

    /// The fewest values of the chart with which it serves this node.
    pub(crate) fn least_values(&self) -> Value {
        release::values(&self.node.name, REGION, &self.aws.variables())
    }

    /// The pod that it runs in.
    pub(crate) async fn pod(&self) -> anyhow::Result<Pod> {
        self.release.pod().await
    }

    /// A sample of its metrics.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let metrics = self.node_gets("http://127.0.0.1:2705/metrics").await?.body;
        let sample = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(sample.with_context(|| format!("no {name}"))?.parse()?)
    }

    /// How many requests it has answered, by outcome: with credentials, and without.
    pub(crate) async fn requests(&self) -> anyhow::Result<[f64; 2]> {
        let with = ["hit", "fresh", "stale"];
        let without = ["refused", "unavailable", "error"];
        Ok([self.requests_of(&with).await?, self.requests_of(&without).await?])
    }

    async fn requests_of(&self, outcomes: &[&str]) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for outcome in outcomes {
            sum += self.metric(&format!(r#"credlet_requests_total{{outcome="{outcome}"}}"#)).await?;
        }
        Ok(sum)
    }

    /// What `credlet status --json` prints.
    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.pod().await?.exec(&[CREDLET, "status", "--json"]).await?)?)
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
        let (agent, mut log) = (self.pod().await?, String::new());
        for _ in 0..AUDIT_LOOKS {
            log = agent.logs().await?;
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.filter(|line| line["target"] == "audit" && wanted(line)).last() {
                return Ok(line);
            }
        }
        bail!("no such audit line:\n{log}")
    }

    /// Checks that `pod` gets credentials of a session that this node's agent took from this node's cloud.
    pub(crate) async fn serves(&self, pod: &Pod) -> anyhow::Result<()> {
        let answer = pod.ask().await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        let session = self.issued(answer.json()["AccessKeyId"].as_str().unwrap_or_default()).await?;
        let node = &self.node.name;
        ensure!(session["node"] == **node && session["pod_name"] == *pod.name, "not by {node}: {session}");
        ensure!(self.calls(&pod.namespace) > 0, "not of {node}'s cloud");
        Ok(())
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

    /// What a process of the node itself gets.
    pub(crate) async fn node_gets(&self, url: &str) -> anyhow::Result<Answer> {
        self.curl(&[url]).await
    }

    /// Whether the node has the link.
    pub(crate) async fn has_link(&self) -> anyhow::Result<bool> {
        Ok(self.node.command("ip").args(["link", "show", "pod-id-link0"]).output().await?.status.success())
    }

    async fn curl(&self, words: &[&str]) -> anyhow::Result<Answer> {
        let [curl, flags @ ..] = CURL;
        let mut command = self.node.command(curl);
        command.args(flags).args(words);
        pod::answer(&printed(command.output().await?)?)
    }
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
