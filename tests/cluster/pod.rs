//! Pods: how they are written down, and what is done with one that runs.

use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, ensure};
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use hyper::HeaderMap;
use hyper::header::{HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

use crate::agent::CREDLET;
use crate::cluster::{Cluster, printed};
use crate::harness::http::Answer;
use crate::harness::owner::Owner;

/// Symbolic links into /usr: with this machine's /usr mounted there, a pod runs this machine's own programs.
pub(crate) const IMAGE: &str = "credlet.test/machine:1";

/// What a pod's `AWS_CONTAINER_CREDENTIALS_FULL_URI` says.
pub(crate) const CREDENTIALS_URL: &str = "http://169.254.170.23/v1/credentials";

/// What [`answer`] reads.
pub(crate) const CURL: [&str; 7] =
    ["curl", "--silent", "--show-error", "--max-time", "10", "--write-out", "\n%{http_code} %header{retry-after}"];

/// A shell's command whose arguments are [`CURL`]: it sends what an SDK would, by the two variables of the container.
const ASK: &str =
    r#""$@" --header "Authorization: $(cat "$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")" "$AWS_CONTAINER_CREDENTIALS_FULL_URI""#;

/// Where EKS mounts the token.
const TOKEN_FOLDER: &str = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount";
const TOKEN_FILE: &str = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token";

/// A pod on the first node that sleeps, so that commands can be run in it. It has no more than every pod has: trials add to it.
pub(crate) fn sleeping(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "nodeName": "node-1",
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "app",
                "image": IMAGE,
                "command": ["sleep", "infinity"],
                "volumeMounts": [{ "name": "usr", "mountPath": "/usr", "readOnly": true }],
            }],
            "volumes": [{ "name": "usr", "hostPath": { "path": "/usr" } }],
        },
    })
}

/// The same on the second node.
pub(crate) fn on_second_node(mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = json!("node-2");
    pod
}

/// The same with what EKS adds to a pod: both variables, and a token of 24 hours.
pub(crate) fn with_identity(namespace: &str, name: &str, service_account: &str) -> Value {
    let mut pod = sleeping(namespace, name);
    pod["spec"]["serviceAccountName"] = json!(service_account);
    pod["spec"]["containers"][0]["env"] = json!([
        { "name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": CREDENTIALS_URL },
        { "name": "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "value": TOKEN_FILE },
    ]);
    let mount = json!({ "name": "token", "mountPath": TOKEN_FOLDER, "readOnly": true });
    push(&mut pod["spec"]["containers"][0]["volumeMounts"], mount);
    let source = json!({ "audience": POD_IDENTITY_AUDIENCE, "expirationSeconds": 86_400, "path": "eks-pod-identity-token" });
    let volume = json!({ "name": "token", "projected": { "sources": [{ "serviceAccountToken": source }] } });
    push(&mut pod["spec"]["volumes"], volume);
    pod
}

/// A pod of a service account that asks the admission policy for what web identity takes.
pub(crate) fn by_web_identity(namespace: &str, name: &str, service_account: &str) -> Value {
    let mut pod = sleeping(namespace, name);
    pod["metadata"]["labels"] = json!({ "credlet.io/inject": "web-identity" });
    pod["spec"]["serviceAccountName"] = json!(service_account);
    pod
}

/// A pod of the default service account that asks the admission policy for what EKS adds.
pub(crate) fn injected(namespace: &str, name: &str) -> Value {
    let mut pod = sleeping(namespace, name);
    pod["metadata"]["labels"] = json!({ "credlet.io/inject": "pod-identity" });
    pod
}

/// The same that asks credlet once a second from its start on: [`Pod::answers`] are what it got.
pub(crate) fn asking(pod: Value) -> Value {
    asking_every(pod, 1)
}

/// The same with so many seconds between two questions.
pub(crate) fn asking_every(mut pod: Value, seconds: u32) -> Value {
    let script = format!(r#"while :; do {ASK} 2>/dev/null | tr "\n" "\t"; echo; sleep {seconds}; done"#);
    pod["spec"]["containers"][0]["command"] = json!([&["sh", "-c", &script, "sh"], &CURL[..]].concat());
    pod
}

/// The same with Python and boto3.
pub(crate) fn with_python(pod: Value, cluster: &Cluster) -> Value {
    with_folder(pod, "python", cluster.python())
}

/// The same with a folder of this machine at the same path in its container, for reading.
pub(crate) fn with_folder(mut pod: Value, name: &str, folder: &str) -> Value {
    let mount = json!({ "name": name, "mountPath": folder, "readOnly": true });
    push(&mut pod["spec"]["containers"][0]["volumeMounts"], mount);
    push(&mut pod["spec"]["volumes"], json!({ "name": name, "hostPath": { "path": folder } }));
    pod
}

/// Adds to a list in a manifest.
pub(crate) fn push(list: &mut Value, item: Value) {
    if let Value::Array(items) = list {
        items.push(item);
    }
}

/// A pod of the cluster.
pub(crate) struct Pod {
    cluster: Arc<Cluster>,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Pod {
    /// The pod that a manifest makes.
    pub(crate) fn of(cluster: &Arc<Cluster>, manifest: &Value) -> anyhow::Result<Self> {
        let text = |member: &str| manifest["metadata"][member].as_str().map(str::to_owned);
        let (namespace, name) = text("namespace").zip(text("name")).context("a pod without a name")?;
        Ok(Self { cluster: Arc::clone(cluster), namespace, name })
    }

    /// The object as the API server has it.
    pub(crate) async fn object(&self) -> anyhow::Result<Value> {
        self.cluster.get(&self.namespace, "pod", &self.name).await
    }

    /// Waits until its containers are ready.
    pub(crate) async fn become_ready(&self) -> anyhow::Result<()> {
        let condition = "--for=condition=Ready";
        self.kubectl("wait", &[condition, "--timeout=40s", &format!("pod/{}", self.name)]).await.map(drop)
    }

    /// Whether its containers are ready, to the kubelet's knowledge.
    pub(crate) async fn is_ready(&self) -> anyhow::Result<bool> {
        let conditions = self.object().await?["status"]["conditions"].take();
        let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        Ok(conditions.as_array().is_some_and(|all| all.iter().any(is_ready)))
    }

    /// Waits until the agent in it is not ready and says that it waits for this.
    pub(crate) async fn waits_for(&self, what: &str) -> anyhow::Result<()> {
        let says_so = async || {
            let output = self.try_exec(&[CREDLET, "status", "--ready"]).await?;
            Ok(!output.status.success() && String::from_utf8_lossy(&output.stdout).contains(what))
        };
        self.cluster.wait_until(what, says_so).await
    }

    /// Deletes it, and returns when it is gone.
    pub(crate) async fn delete(&self) -> anyhow::Result<()> {
        self.kubectl("delete", &["pod", &self.name]).await.map(drop)
    }

    /// What a command in its first container prints. No shell is in between.
    pub(crate) async fn exec(&self, words: &[&str]) -> anyhow::Result<String> {
        printed(self.try_exec(words).await?).with_context(|| format!("{words:?} in {}", self.name))
    }

    /// What came of a command in its first container.
    pub(crate) async fn try_exec(&self, words: &[&str]) -> anyhow::Result<Output> {
        let namespace = format!("--namespace={}", self.namespace);
        let exec = ["exec", &namespace, &self.name, "--"];
        self.cluster.try_kubectl(&[&exec, words].concat(), None).await
    }

    /// All that its first container has written.
    pub(crate) async fn logs(&self) -> anyhow::Result<String> {
        self.kubectl("logs", &[&self.name]).await
    }

    /// What happened to it, for people.
    pub(crate) async fn story(&self) -> String {
        let description = self.kubectl("describe", &["pod", &self.name]).await.unwrap_or_default();
        format!("{description}\n{}", self.logs().await.unwrap_or_default())
    }

    /// The token that is projected for credlet.
    pub(crate) async fn token(&self) -> anyhow::Result<String> {
        self.exec(&["sh", "-c", r#"exec cat "$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE""#]).await
    }

    /// The answer to what an SDK would send, by the two variables of the container.
    pub(crate) async fn ask(&self) -> anyhow::Result<Answer> {
        self.ask_at("").await
    }

    /// The same with more at the end of the URL, and of curl's arguments.
    pub(crate) async fn ask_at(&self, end: &str) -> anyhow::Result<Answer> {
        answer(&self.exec(&[&["sh", "-c", &format!("{ASK}{end}"), "sh"], &CURL[..]].concat()).await?)
    }

    /// What a pod that is [`asking`] has got so far.
    pub(crate) async fn answers(&self) -> anyhow::Result<Vec<Answer>> {
        let log = self.logs().await?;
        // What is not whole yet has no end of line.
        let lines = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(|line| answer(&line.replacen('\t', "\n", 1))).collect()
    }

    /// Those from the first one on that bore credentials.
    pub(crate) async fn answers_since_served(&self) -> anyhow::Result<Vec<Answer>> {
        Ok(self.answers().await?.into_iter().skip_while(|answer| answer.status != 200).collect())
    }

    /// Waits until a pod that is [`asking`] gets credentials of a role of that account.
    pub(crate) async fn is_served_in(&self, account: &str) -> anyhow::Result<()> {
        let is_served = async || Ok(self.answers().await?.last().is_some_and(|last| last.json()["AccountId"] == account));
        self.cluster.wait_until(&format!("credentials of {account}"), is_served).await
    }

    /// Waits until a pod that is [`asking`] by EKS Pod Identity has asked once more and got credentials, all of them its own.
    pub(crate) async fn is_served_again(&self) -> anyhow::Result<()> {
        let before = self.answers().await?.len();
        let is_served = async || Ok(self.answers().await?.iter().skip(before + 1).any(|answer| answer.status == 200));
        self.cluster.wait_until("credentials", is_served).await?;
        let mut owner = Owner::new(self.object().await?["metadata"]["uid"].as_str().context("no UID")?);
        let answers = self.answers_since_served().await?;
        let foreign = answers.iter().find(|answer| answer.status == 200 && !owner.owns(answer.body.as_bytes()));
        ensure!(foreign.is_none(), "credentials of somebody else: {foreign:?}");
        Ok(())
    }

    /// The last of them.
    pub(crate) async fn last_answer(&self) -> anyhow::Result<Answer> {
        self.answers().await?.pop().context("nothing asked yet")
    }

    /// What a Python program prints in a pod [`with_python`].
    pub(crate) async fn python(&self, program: &str) -> anyhow::Result<String> {
        self.exec(&[&format!("{}/bin/python", self.cluster.python()), "-c", program]).await
    }

    /// The answer to a request with any token.
    pub(crate) async fn ask_with(&self, token: &str) -> anyhow::Result<Answer> {
        let header = format!("Authorization: {token}");
        answer(&self.exec(&[&CURL[..], &["--header", &header, CREDENTIALS_URL]].concat()).await?)
    }

    async fn kubectl(&self, verb: &str, words: &[&str]) -> anyhow::Result<String> {
        let namespace = format!("--namespace={}", self.namespace);
        self.cluster.kubectl(&[&[verb, &namespace], words].concat()).await
    }
}

/// curl's output, whose last line is the status and when to come again.
pub(crate) fn answer(output: &str) -> anyhow::Result<Answer> {
    let (body, head) = output.rsplit_once('\n').context("no status")?;
    let (status, retry_after) = head.split_once(' ').context("no status")?;
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, HeaderValue::from_str(retry_after)?);
    Ok(Answer { status: status.parse()?, headers, body: body.to_owned() })
}
