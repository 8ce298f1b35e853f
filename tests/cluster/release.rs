//! A release of the chart in `daemonset/chart`, on one node: what an operator does with Helm, and the pods that come of it.

use std::process::Output;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};

use crate::cluster::{Cluster, printed, project_file};
use crate::pod::Pod;

const CHART: &str = "daemonset/chart";
pub(crate) const NAMESPACE: &str = "kube-system";

/// What `tests/image/build` makes, and how the chart is told.
pub(crate) const IMAGE: &str = "credlet.test/credlet:1";
const REPOSITORY: &str = "credlet.test/credlet";
const TAG: &str = "1";

/// A release, installed or not.
pub(crate) struct Release {
    cluster: Arc<Cluster>,
    name: String,
}

impl Release {
    pub(crate) fn new(cluster: &Arc<Cluster>, name: &str) -> Self {
        Self { cluster: Arc::clone(cluster), name: name.to_owned() }
    }

    /// Installs or upgrades it with exactly these values, and returns when its pod is ready.
    pub(crate) async fn put(&self, values: &Value) -> anyhow::Result<()> {
        if let Err(error) = printed(self.try_put(values, &["--wait", "--timeout=50s"]).await?) {
            return Err(error.context(self.story().await).context(format!("helm: {values}")));
        }
        // To Helm a DaemonSet without a surge is there when all of its pods but maxUnavailable are: here, when none is.
        self.become_ready().await
    }

    /// Goes back to what was installed before, and returns when its pod is ready.
    pub(crate) async fn roll_back(&self) -> anyhow::Result<()> {
        let words = ["rollback", &self.name, &format!("--namespace={NAMESPACE}"), "--wait", "--timeout=50s"];
        printed(self.cluster.try_helm(&words, None).await?)?;
        self.become_ready().await
    }

    /// What came of `helm upgrade --install`.
    pub(crate) async fn try_put(&self, values: &Value, flags: &[&str]) -> anyhow::Result<Output> {
        let (chart, namespace) = (project_file(CHART), format!("--namespace={NAMESPACE}"));
        let words = ["upgrade", "--install", &self.name, &chart, &namespace, "--values=-"];
        self.cluster.try_helm(&[&words, flags].concat(), Some(values)).await
    }

    /// Removes it, and returns when its pods are gone.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        let words = ["uninstall", &self.name, &format!("--namespace={NAMESPACE}"), "--wait", "--timeout=50s"];
        printed(self.cluster.try_helm(&words, None).await?)?;
        self.cluster.wait_until("no pod", async || Ok(self.pods().await?.is_empty())).await
    }

    /// Waits until its newest pod is the only one, and ready.
    pub(crate) async fn become_ready(&self) -> anyhow::Result<()> {
        let ready = self.cluster.rolled_out(NAMESPACE, &self.name).await;
        match ready {
            Ok(()) => self.cluster.wait_until("one pod", async || Ok(self.pods().await?.len() == 1)).await,
            Err(error) => Err(error.context(self.story().await)),
        }
    }

    /// The pod that runs.
    pub(crate) async fn pod(&self) -> anyhow::Result<Pod> {
        Pod::of(&self.cluster, self.pods().await?.first().context("no pod")?)
    }

    /// The pod that is to follow this one, once its agent runs.
    pub(crate) async fn next_pod(&self, old: &Pod) -> anyhow::Result<Pod> {
        self.running_pod(|name| name != old.name).await
    }

    /// A pod with such a name, once its agent runs.
    pub(crate) async fn running_pod(&self, named: impl Fn(&str) -> bool) -> anyhow::Result<Pod> {
        let mut found = None;
        let runs = |pod: &&Value| !pod["status"]["containerStatuses"][0]["state"]["running"].is_null();
        let is_there = async || {
            let pods = self.pods().await?;
            found = pods.iter().filter(runs).find(|pod| pod["metadata"]["name"].as_str().is_some_and(&named)).cloned();
            Ok(found.is_some())
        };
        self.cluster.wait_until("a pod whose agent runs", is_there).await?;
        Pod::of(&self.cluster, &found.context("no pod")?)
    }

    /// Its pods as the API server has them, whatever their state.
    pub(crate) async fn pods(&self) -> anyhow::Result<Vec<Value>> {
        let selector = format!("--selector=app.kubernetes.io/instance={}", self.name);
        let namespace = format!("--namespace={NAMESPACE}");
        let list = self.cluster.kubectl(&["get", "pods", &selector, &namespace, "--output=json"]).await?;
        let mut list: Value = serde_json::from_str(&list)?;
        serde_json::from_value(list["items"].take()).context("no list of pods")
    }

    /// The names of all objects of the cluster that bear its name, of whatever kind, and of what Helm remembers.
    pub(crate) async fn objects(&self) -> anyhow::Result<Vec<String>> {
        let kinds = self.cluster.kubectl(&["api-resources", "--verbs=list", "--output=name"]).await?;
        // The one kind that no selector is for.
        let kinds: Vec<&str> = kinds.lines().filter(|kind| *kind != "componentstatuses").collect();
        let by = async |label: &str| {
            let selector = format!("--selector={label}={}", self.name);
            let get = ["get", &kinds.join(","), "--all-namespaces", &selector, "--output=name"];
            self.cluster.kubectl(&get).await
        };
        let objects = [by("app.kubernetes.io/instance").await?, by("owner=helm,name").await?];
        Ok(objects.concat().lines().map(str::to_owned).collect())
    }

    /// What became of it, for people.
    async fn story(&self) -> String {
        match self.pod().await {
            Ok(pod) => pod.story().await,
            Err(error) => format!("{error:#}"),
        }
    }
}

/// The values that every release here has: the cluster and the image, on one node, whose kernel may lack dummy links.
pub(crate) fn values(node: &str, region: &str, env: &Value) -> Value {
    json!({
        "clusterName": "demo",
        "region": region,
        "image": { "repository": REPOSITORY, "tag": TAG },
        "nodeSelector": { "kubernetes.io/hostname": node },
        "link": { "kind": "ifb" },
        // What an old agent does that stands by is a trial's own business: the others are many.
        "minReadySeconds": 0,
        "env": env,
    })
}
