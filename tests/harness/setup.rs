//! How an agent is started: its flags and variables, and nothing of this machine's environment.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, symlink};
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

/// The binary.
pub(crate) const CREDLET: &str = env!("CARGO_BIN_EXE_credlet");

/// No command that ends by itself takes longer.
const END_LIMIT: Duration = Duration::from_secs(20);

/// The file to which an agent's standard output and error go, in its folder.
const LOG: &str = "agent.log";

/// `credlet server` before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    folder: PathBuf,
    addresses: Addresses,
    flags: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    wrapper: Vec<String>,
    name: String,
    line: Option<Vec<String>>,
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
            flags: BTreeMap::new(),
            variables: BTreeMap::new(),
            wrapper: Vec::new(),
            name: "server".to_owned(),
            line: None,
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

    /// As the first of successive agents of a node, which share a directory in its folder.
    pub(crate) fn with_handover(self) -> anyhow::Result<Self> {
        let shared = self.folder.join("handover");
        DirBuilder::new().mode(0o700).create(&shared)?;
        Ok(self.flag("handover-dir", shared.display()))
    }

    /// Of another agent of the same node, which has its own files in `folder`.
    pub(crate) fn in_folder(self, folder: &Path) -> Self {
        Self { folder: folder.to_owned(), ..self }.flag("run-dir", folder.join("run").display())
    }

    /// Run by another command, which executes its last arguments.
    pub(crate) fn under(self, wrapper: &[&str]) -> Self {
        Self { wrapper: wrapper.iter().map(|word| (*word).to_owned()).collect(), ..self }
    }

    /// By this very line in place of `credlet server` and its flags, which become variables.
    pub(crate) fn line(self, words: &[impl AsRef<str>]) -> Self {
        let variable =
            |(name, value): (&String, &String)| (format!("CREDLET_{}", name.replace('-', "_").to_uppercase()), value.clone());
        let of_flags: Vec<_> = self.flags.iter().map(variable).collect();
        let line = Some(words.iter().map(|word| word.as_ref().to_owned()).collect());
        Self { variables: of_flags.into_iter().chain(self.variables).collect(), flags: BTreeMap::new(), line, ..self }
    }

    /// Another command with the same flags and variables.
    pub(crate) fn command_of(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The addresses of the agent that it starts.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
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

    /// Starts the next agent of the same node, which has a folder of this name for its files, and waits until it has taken over.
    pub(crate) async fn follow(&self, name: &str) -> anyhow::Result<Agent> {
        let folder = self.folder.join(name);
        std::fs::create_dir(&folder)?;
        let mut agent = self.clone().in_folder(&folder).spawn()?;
        agent.become_ready_itself().await?;
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
        let own = [CREDLET.to_owned(), self.name.clone()];
        let line = self.line.as_deref().unwrap_or(&own);
        let mut words = self.wrapper.iter().chain(line).map(String::as_str);
        let mut command = clean(words.next().unwrap_or(CREDLET));
        command.args(words).args(self.flags.iter().map(|(name, value)| format!("--{name}={value}"))).envs(&self.variables);
        command
    }
}

/// The paths by which manifests of the EKS Pod Identity Agent start it, in `folder`: go-runner, then the agent.
pub(crate) fn image_paths(folder: &Path) -> anyhow::Result<[String; 2]> {
    let paths = ["go-runner", "eks-pod-identity-agent"].map(|name| folder.join(name));
    paths.iter().try_for_each(|path| symlink(CREDLET, path))?;
    Ok(paths.map(|path| path.display().to_string()))
}

/// One of credlet's commands with an empty environment.
pub(crate) fn credlet(name: &str) -> Command {
    let mut command = clean(CREDLET);
    command.arg(name);
    command
}

fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().kill_on_drop(true);
    command
}
