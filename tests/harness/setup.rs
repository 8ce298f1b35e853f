//! How an agent is started: its flags and variables, and nothing of this machine's environment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use credlet::sim::cloud::Cloud;
use credlet::sim::pod::NODE;
use tokio::process::Command;

use crate::harness::agent::{Addresses, Agent};
use crate::harness::ports::free_address;

/// The region of everything here.
pub(crate) const REGION: &str = "eu-central-1";

pub(super) const CREDLET: &str = env!("CARGO_BIN_EXE_credlet");

/// No command that ends by itself takes longer.
const END_LIMIT: Duration = Duration::from_secs(20);

/// The file to which an agent's standard output and error go, in its folder.
const LOG: &str = "agent.log";

/// `credlet server` before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    folder: PathBuf,
    addresses: Addresses,
    executable: PathBuf,
    flags: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    wrapper: Vec<String>,
}

impl Setup {
    /// On ports of loopback that are free, with its files in `folder`.
    pub(crate) fn on_loopback(folder: &Path) -> anyhow::Result<Self> {
        let [credentials, probes, metrics] = [free_address()?, free_address()?, free_address()?];
        let setup = Self::new(folder, Addresses { credentials, probes, metrics });
        let setup = setup.flag("bind-hosts", credentials.ip()).flag("port", credentials.port()).flag("probe-port", probes.port());
        Ok(setup.flag("metrics-address", metrics.ip()).flag("metrics-port", metrics.port()))
    }

    /// Where a node's agent is, by the defaults of all flags.
    pub(crate) fn on_node(folder: &Path) -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let credentials = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)), 80);
        Self::new(folder, Addresses { credentials, probes: local(2703), metrics: local(2705) })
    }

    fn new(folder: &Path, addresses: Addresses) -> Self {
        let setup = Self {
            folder: folder.to_owned(),
            addresses,
            executable: CREDLET.into(),
            flags: BTreeMap::new(),
            variables: BTreeMap::new(),
            wrapper: Vec::new(),
        };
        let setup = setup.variable("HOME", folder.display()).variable("AWS_EC2_METADATA_DISABLED", "true");
        setup.flag("run-dir", folder.join("run").display())
    }

    /// As the agent of `cloud`'s cluster and node, with the node's credentials.
    pub(crate) fn of(self, cloud: &Cloud) -> Self {
        let (access_key_id, secret) = cloud.node_credentials();
        self.flag("cluster-name", "demo")
            .flag("node-name", NODE)
            .flag("endpoint", cloud.eks_auth_url())
            .variable("AWS_ENDPOINT_URL_STS", cloud.sts_url())
            .variable("AWS_ENDPOINT_URL_EKS", cloud.eks_url())
            .flag("issuer", format!("{}={}", cloud.issuer(), cloud.jwks_url()))
            .variable("AWS_ACCESS_KEY_ID", access_key_id)
            .variable("AWS_SECRET_ACCESS_KEY", secret.expose())
            .variable("AWS_REGION", REGION)
    }

    /// With `--name value`, in place of an earlier value.
    pub(crate) fn flag(mut self, name: &str, value: impl Display) -> Self {
        self.flags.insert(name.to_owned(), value.to_string());
        self
    }

    /// Without `--name`.
    pub(crate) fn without_flag(mut self, name: &str) -> Self {
        self.flags.remove(name);
        self
    }

    /// With the variable, in place of an earlier value.
    pub(crate) fn variable(mut self, name: &str, value: impl Display) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// Without the variable.
    pub(crate) fn without_variable(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Run by another command, which executes its last arguments.
    pub(crate) fn under(self, wrapper: &[&str]) -> Self {
        Self { wrapper: wrapper.iter().map(|word| (*word).to_owned()).collect(), ..self }
    }

    /// From this copy of credlet.
    pub(crate) fn executable(self, executable: &Path) -> Self {
        Self { executable: executable.to_owned(), ..self }
    }

    /// What a pod's `AWS_CONTAINER_CREDENTIALS_FULL_URI` will say.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/credentials", self.addresses.credentials)
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&self) -> anyhow::Result<Agent> {
        let mut agent = self.spawn()?;
        agent.become_ready().await?;
        Ok(agent)
    }

    /// Starts it.
    pub(crate) fn spawn(&self) -> anyhow::Result<Agent> {
        let path = self.folder.join(LOG);
        let log = std::fs::File::create(&path)?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("start credlet")?;
        Ok(Agent::new(process, self.addresses, path, self.folder.join("run")))
    }

    /// Runs it to its end, which must come by itself.
    pub(crate) async fn end(&self) -> anyhow::Result<Output> {
        let output = tokio::time::timeout(END_LIMIT, self.command().output()).await;
        output.context("credlet does not end")?.context("start credlet")
    }

    fn command(&self) -> Command {
        let executable = [self.executable.as_os_str(), OsStr::new("server")];
        let mut words = self.wrapper.iter().map(OsStr::new).chain(executable);
        let mut command = clean(words.next().unwrap_or_default());
        command.args(words).args(self.flags.iter().map(|(name, value)| format!("--{name}={value}"))).envs(&self.variables);
        command
    }
}

/// Puts credlet where a user can reach it who can't reach its build.
pub(crate) fn copy(path: &Path) -> std::io::Result<()> {
    std::fs::copy(CREDLET, path).map(drop)
}

/// One of credlet's commands with an empty environment.
pub(crate) fn credlet(name: &str) -> Command {
    let mut command = clean(CREDLET);
    command.arg(name);
    command
}

fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().kill_on_drop(true);
    command
}
