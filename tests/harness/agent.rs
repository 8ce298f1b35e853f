//! A running agent, as pods, operators and the kubelet see it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;
use serde_json::Value;
use tokio::process::Child;

use crate::harness::http::{self, Answer};

/// No wait for a state that must come takes longer.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Where it is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) credentials: SocketAddr,
    pub(crate) probes: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Child,
    addresses: Addresses,
    log: PathBuf,
    run_dir: PathBuf,
}

impl Agent {
    pub(super) fn new(process: Child, addresses: Addresses, log: PathBuf, run_dir: PathBuf) -> Self {
        Self { process, addresses, log, run_dir }
    }

    /// The address of its credentials endpoint.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses.credentials
    }

    /// What a pod's `AWS_CONTAINER_CREDENTIALS_FULL_URI` says.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/credentials", self.addresses.credentials)
    }

    /// What `credlet status --run-dir` takes.
    pub(crate) fn run_dir(&self) -> &PathBuf {
        &self.run_dir
    }

    /// Its answer to `token`.
    pub(crate) async fn ask(&self, token: &str) -> anyhow::Result<Answer> {
        self.get("/v1/credentials", &[("authorization", token)]).await
    }

    /// Its answer at `path` of the credentials endpoint.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        http::get(self.addresses.credentials, path, headers).await.context("ask the agent")
    }

    /// Its answer to the kubelet.
    pub(crate) async fn probe(&self, path: &str) -> anyhow::Result<Answer> {
        http::get(self.addresses.probes, path, &[]).await.context("probe the agent")
    }

    /// Its answer to Prometheus.
    pub(crate) async fn scrape(&self) -> anyhow::Result<Answer> {
        http::get(self.addresses.metrics, "/metrics", &[]).await.context("scrape the agent")
    }

    /// The value of the sample with exactly this name and these labels; 0 as long as there is none.
    pub(crate) async fn sample(&self, name_and_labels: &str) -> anyhow::Result<u64> {
        let metrics = self.scrape().await?.body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        value.unwrap_or("0").parse().context("a sample that is no number")
    }

    /// How many requests for credentials it has had, by its own metrics.
    pub(crate) async fn all_requests(&self) -> anyhow::Result<u64> {
        let metrics = self.scrape().await?.body;
        let samples = metrics.lines().filter(|line| line.starts_with("credlet_requests_total{"));
        samples.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<u64>().context("a sample that is no number")).sum()
    }

    /// How many requests for credentials came to `outcome`, by its own metrics.
    pub(crate) async fn requests(&self, outcome: &str) -> anyhow::Result<u64> {
        self.sample(&format!("credlet_requests_total{{outcome=\"{outcome}\"}}")).await
    }

    /// How many requests were refused for `reason`, by its own metrics.
    pub(crate) async fn refusals(&self, reason: &str) -> anyhow::Result<u64> {
        self.sample(&format!("credlet_refusals_total{{reason=\"{reason}\"}}")).await
    }

    /// What `credlet status --json` prints.
    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        let (_, document) = credlet::admin::status::ask(&self.run_dir, "/status").await?;
        Ok(serde_json::from_slice(&document)?)
    }

    /// All that it has written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The audit lines among that.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let lines = self.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line.get("target").and_then(Value::as_str) == Some("audit")).collect()
    }

    /// Waits until it is ready.
    pub(crate) async fn become_ready(&mut self) -> anyhow::Result<()> {
        self.wait_for(async |agent: &mut Self| {
            if let Some(status) = agent.process.try_wait()? {
                bail!("credlet ended: {status}");
            }
            Ok(agent.probe("/readyz").await.is_ok_and(|answer| answer.status == 200))
        })
        .await
    }

    /// Waits until this very process is ready, by a socket of its own: at the ports another agent may answer.
    pub(crate) async fn become_ready_itself(&mut self) -> anyhow::Result<()> {
        self.wait_for(async |agent: &mut Self| {
            let answer = credlet::admin::status::ask(&agent.run_dir, "/readyz").await;
            Ok(answer.is_ok_and(|(status, _)| status == 200))
        })
        .await
    }

    /// Waits until `/readyz` says that `part` is pending, and returns for what.
    pub(crate) async fn pending(&mut self, part: &str) -> anyhow::Result<String> {
        let mut reason = String::new();
        self.wait_for(async |agent: &mut Self| {
            let Ok(answer) = agent.probe("/readyz").await else { return Ok(false) };
            let found = answer.json().pointer("/pending").and_then(|parts| {
                parts
                    .as_object()?
                    .iter()
                    .find_map(|(name, text)| name.contains(part).then(|| text.as_str().unwrap_or_default().to_owned()))
            });
            reason = found.clone().unwrap_or_default();
            Ok(found.is_some())
        })
        .await?;
        Ok(reason)
    }

    /// Waits until `done`, asking again and again.
    pub(crate) async fn wait_for(&mut self, mut done: impl AsyncFnMut(&mut Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let waiting = async {
            while !done(self).await? {
                tokio::time::sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        let waited = tokio::time::timeout(WAIT_LIMIT, waiting).await;
        waited.unwrap_or_else(|_| Err(anyhow!("it does not come"))).with_context(|| self.log())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(self.process.id().context("it has ended")?.try_into()?))
    }

    /// Its resident memory, in KiB.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        Process::new(self.pid()?.as_raw())?.status()?.vmrss.context("no resident memory")
    }

    /// Sends SIGTERM, as the kubelet does.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        Ok(kill(self.pid()?, Signal::SIGTERM)?)
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        self.wait().await
    }

    /// Ends it; another one may be put in its place.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.terminate()?;
        self.wait().await
    }

    async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(tokio::time::timeout(WAIT_LIMIT, self.process.wait()).await.context("it does not end")??)
    }
}
