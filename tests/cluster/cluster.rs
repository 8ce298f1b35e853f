//! The cluster as its admin holds it: kubectl, Helm, and the few things that every trial does with them.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use crate::lab::{Description, Lab, Node};
use crate::pod::Pod;

/// No state that must come takes longer.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// A running cluster.
pub(crate) struct Cluster {
    lab: Mutex<Option<Lab>>,
    description: Description,
}

impl Cluster {
    pub(crate) async fn start(nodes: usize) -> anyhow::Result<Self> {
        let (lab, description) = Lab::start(nodes).await?;
        Ok(Self { lab: Mutex::new(Some(lab)), description })
    }

    /// Ends everything.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        let lab = self.lab.lock().await.take();
        lab.context("it has been stopped")?.stop().await
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.description.nodes
    }

    /// The virtual environment with boto3, which works in a pod at the same path.
    pub(crate) fn python(&self) -> &str {
        &self.description.python
    }

    /// What `kubectl WORDS…` prints; its error when it fails.
    pub(crate) async fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.try_kubectl(words, None).await?;
        printed(output).with_context(|| format!("kubectl {}", words.join(" ")))
    }

    /// The same with `object` as standard input, for `-f -`.
    pub(crate) async fn kubectl_with(&self, words: &[&str], object: &Value) -> anyhow::Result<String> {
        let output = self.try_kubectl(words, Some(object)).await?;
        printed(output).with_context(|| format!("kubectl {}: {object}", words.join(" ")))
    }

    /// What came of `kubectl WORDS…`, whether it succeeded or not.
    pub(crate) async fn try_kubectl(&self, words: &[&str], input: Option<&Value>) -> anyhow::Result<Output> {
        self.call(&self.description.kubectl, words, input).await
    }

    /// What came of `helm WORDS…`, with these values on its standard input for `--values=-`.
    pub(crate) async fn try_helm(&self, words: &[&str], values: Option<&Value>) -> anyhow::Result<Output> {
        self.call(&self.description.helm, words, values).await
    }

    /// `kubectl apply` of an object.
    pub(crate) async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        self.kubectl_with(&["apply", "--filename=-"], object).await.map(drop)
    }

    /// `kubectl apply` of a file of the project.
    pub(crate) async fn apply_file(&self, path: &str) -> anyhow::Result<()> {
        self.kubectl(&["apply", "--filename", &project_file(path)]).await.map(drop)
    }

    /// `kubectl delete` of an object, which is gone when this returns, and so is what it owns: the pods of a `DaemonSet`.
    pub(crate) async fn delete(&self, object: &Value) -> anyhow::Result<()> {
        self.kubectl_with(&["delete", "--filename=-", "--grace-period=1", "--cascade=foreground"], object).await.map(drop)
    }

    /// The same of one that may be gone already.
    pub(crate) async fn delete_if_there(&self, object: &Value) -> anyhow::Result<()> {
        self.kubectl_with(&["delete", "--filename=-", "--grace-period=1", "--ignore-not-found"], object).await.map(drop)
    }

    /// Waits until the one pod of a `DaemonSet` is of its newest template, and ready. What `kubectl rollout status` counts is not
    /// enough: it may be content with a pod that is pending.
    pub(crate) async fn rolled_out(&self, namespace: &str, daemon_set: &str) -> anyhow::Result<()> {
        let is_ready = async || {
            let object = self.get(namespace, "daemonset", daemon_set).await?;
            let status = &object["status"];
            let counts = ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"];
            Ok(status["observedGeneration"] == object["metadata"]["generation"] && counts.iter().all(|count| status[count] == 1))
        };
        self.wait_until(&format!("{daemon_set} on its node"), is_ready).await
    }

    /// An object as the API server has it. `kind` as kubectl takes it.
    pub(crate) async fn get(&self, namespace: &str, kind: &str, name: &str) -> anyhow::Result<Value> {
        let namespace = format!("--namespace={namespace}");
        Ok(serde_json::from_str(&self.kubectl(&["get", kind, name, &namespace, "--output=json"]).await?)?)
    }

    /// A new namespace, in which pods can be made.
    pub(crate) async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        self.kubectl(&["create", "namespace", name]).await?;
        let there = async || Ok(self.get(name, "serviceaccount", "default").await.is_ok());
        self.wait_until("the default service account", there).await
    }

    /// A new service account.
    pub(crate) async fn service_account(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let metadata = json!({ "namespace": namespace, "name": name });
        self.apply(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })).await
    }

    /// Sets annotations `KEY=VALUE` of a service account, and removes those given as `KEY-`.
    pub(crate) async fn annotate(&self, namespace: &str, account: &str, annotations: &[&str]) -> anyhow::Result<()> {
        let (namespace, account) = (format!("--namespace={namespace}"), format!("serviceaccount/{account}"));
        self.kubectl(&[&["annotate", "--overwrite", &namespace, &account], annotations].concat()).await.map(drop)
    }

    /// Makes the pod of this manifest and waits until it is ready.
    pub(crate) async fn run(self: &Arc<Self>, manifest: &Value) -> anyhow::Result<Pod> {
        self.apply(manifest).await?;
        let pod = Pod::of(self, manifest)?;
        match pod.become_ready().await {
            Ok(()) => Ok(pod),
            Err(error) => Err(error.context(pod.story().await)),
        }
    }

    /// Kills the API server.
    pub(crate) async fn stop_api_server(&self) -> anyhow::Result<()> {
        self.order("stop api-server").await
    }

    /// Starts the API server again, and returns when it is ready.
    pub(crate) async fn start_api_server(&self) -> anyhow::Result<()> {
        self.order("start api-server").await
    }

    /// Waits until `done`, asking again and again.
    pub(crate) async fn wait_until(&self, what: &str, mut done: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let waiting = async {
            while !done().await? {
                tokio::time::sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(WAIT_LIMIT, waiting).await.with_context(|| format!("{what}: it does not come"))?
    }

    /// Runs an admin's program on the first node.
    async fn call(&self, command_line: &[String], words: &[&str], input: Option<&Value>) -> anyhow::Result<Output> {
        let (program, flags) = command_line.split_first().context("no program")?;
        let mut command = self.nodes().first().context("no node")?.command(program);
        command.args(flags).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let mut stdin = process.stdin.take().context("no input")?;
        if let Some(input) = input {
            stdin.write_all(input.to_string().as_bytes()).await?;
        }
        drop(stdin);
        let output = tokio::time::timeout(WAIT_LIMIT, process.wait_with_output()).await;
        output.with_context(|| format!("it does not end: {words:?}"))?.with_context(|| format!("{words:?}"))
    }

    async fn order(&self, order: &str) -> anyhow::Result<()> {
        self.lab.lock().await.as_mut().context("it has been stopped")?.order(order).await
    }
}

/// The standard output of a command that succeeded.
pub(crate) fn printed(output: Output) -> anyhow::Result<String> {
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Where a file of the project is.
pub(crate) fn project_file(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}
