//! What one case happens in: a node with a simulated cloud, an agent and a pod that nobody else shares, so that calls can be counted.
//!
//! The agent has the defaults of a node and no more rights than the chart gives it: an own uid, and the right to bind port 80, here as
//! an ambient capability instead of the one that the image's file bears. The pod reaches STS at the node's address.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::keys::Algorithm;
use credlet::sim::pod::{Claims, PodSpec};
use credlet::sim::script::Operation;
use nix::unistd::{Gid, Uid, chown};
use tempfile::TempDir;

use crate::client::{Client, Fetched, Identity, Sdk};
use crate::harness::agent::Agent;
use crate::harness::network::{NODE, Network, Pod};
use crate::harness::relay::Relay;
use crate::harness::setup::{CREDLET, REGION, Setup};

/// What EKS's webhook asks of the kubelet.
const TOKEN_LIFE: Duration = Duration::from_secs(86_400);

/// The agent's uid and gid, as in the chart.
const UID: u32 = 17_023;

/// What a container runtime does for the chart's `securityContext`.
const UNPRIVILEGED: [&str; 8] = [
    "/usr/bin/setpriv",
    "--reuid=17023",
    "--regid=17023",
    "--clear-groups",
    "--no-new-privs",
    "--bounding-set=-all,+net_bind_service",
    "--inh-caps=-all,+net_bind_service",
    "--ambient-caps=-all,+net_bind_service",
];

const HOST: IpAddr = IpAddr::V4(NODE);

/// A place for the agent's binary that its uid can reach.
pub(crate) struct Image(TempDir);

/// One cluster of one node with one pod.
pub(crate) struct World {
    pub(crate) cloud: Cloud,
    pub(crate) agent: Agent,
    setup: Setup,
    sdk: Sdk,
    spec: PodSpec,
    pod: Pod,
    sts: Relay,
    folder: TempDir,
    _network: Network,
}

impl Image {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = agents_folder()?;
        std::fs::copy(CREDLET, folder.path().join("credlet"))?;
        Ok(Self(folder))
    }

    fn credlet(&self) -> String {
        self.0.path().join("credlet").display().to_string()
    }
}

impl World {
    /// Everything started on this node, and a good token in the pod's file. `case` names the pod.
    pub(crate) async fn start(network: Network, image: &Image, sdk: Sdk, case: &str) -> anyhow::Result<Self> {
        network.initialize().await?;
        let folder = agents_folder()?;
        let config = Config { region: REGION.to_owned(), algorithm: Algorithm::Es256, ..Config::default() };
        let cloud = Cloud::start(config).await?;
        let sts = Relay::plain(HOST, cloud.sts_url().trim_start_matches("http://").parse()?).await?;
        let setup = Setup::on_node(folder.path()).of(&cloud).under(&UNPRIVILEGED).line(&[&image.credlet(), "server"]);
        let agent = setup.start().await.with_context(|| logs(folder.path()))?;
        let spec = PodSpec::new("sdk", &sdk.to_string(), &format!("{sdk}-{case}"));
        let world = Self { cloud, agent, setup, sdk, spec, pod: network.pod(10)?, sts, folder, _network: network };
        world.rotate()?;
        Ok(world)
    }

    /// Starts the application in the pod, in a process of its own.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        self.client_with(&[])
    }

    /// The same with these variables, which go before those that every pod has.
    pub(crate) fn client_with(&self, more: &[(&str, &str)]) -> anyhow::Result<Client> {
        let (token_file, sts) = (self.token_file().display().to_string(), format!("http://{}", self.sts.address));
        let url = self.agent.url();
        let variables = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token_file),
            ("AWS_REGION", REGION),
            ("AWS_DEFAULT_REGION", REGION),
            ("AWS_ENDPOINT_URL_STS", &sts),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let variables = [&variables, more].concat();
        Client::start(self.sdk.command()?, self.folder.path(), &variables, |command| self.pod.namespace.spawn(command))
    }

    /// One fetch that must succeed, and for this very pod.
    pub(crate) async fn identity(&self, client: &mut Client) -> anyhow::Result<Identity> {
        self.check(client.fetch().await?)
    }

    /// The identity that was fetched, if it is this pod's; what went wrong otherwise, with the logs.
    pub(crate) fn check(&self, fetched: Fetched) -> anyhow::Result<Identity> {
        let identity = fetched.map_err(|error| anyhow!("{error}\n{}", logs(self.folder.path())))?;
        ensure!(self.is_own(&identity), "the credentials are another pod's: {identity:?}");
        Ok(identity)
    }

    /// By the word of STS, or else by the agent's audit line of the access key.
    fn is_own(&self, identity: &Identity) -> bool {
        let PodSpec { namespace, service_account, pod, .. } = &self.spec;
        match &identity.arn {
            Some(arn) => arn.contains(&format!("assumed-role/{namespace}-{service_account}/eks-demo-{pod}-")),
            None => self.agent.audit().iter().any(|line| {
                let says = |name, value: &str| line.get(name).and_then(serde_json::Value::as_str) == Some(value);
                says("pod_name", pod) && says("access_key_id", identity.access_key_id.as_deref().unwrap_or_default())
            }),
        }
    }

    /// That the agent has its own uid, no way to more rights, and no capability but the one to bind port 80.
    pub(crate) fn ensure_unprivileged(&self) -> anyhow::Result<()> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.pid()?))?;
        let only = "0000000000000400";
        let capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| (set, only));
        for (name, expected) in
            [("Uid", "17023"), ("Gid", "17023"), ("Groups", ""), ("NoNewPrivs", "1")].into_iter().chain(capabilities)
        {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).context(name)?;
            ensure!(line.split_whitespace().all(|word| word == expected), "{name}:{line}");
        }
        Ok(())
    }

    /// Starts another agent after `pause`; the one before must have ended.
    pub(crate) async fn start_agent_after(&mut self, pause: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(pause).await;
        self.agent = self.setup.start().await?;
        Ok(())
    }

    /// An HTTP proxy on the node.
    pub(crate) async fn proxy(&self) -> anyhow::Result<Relay> {
        Relay::forward_proxy(HOST).await
    }

    /// Takes the pod's association away.
    pub(crate) fn dissociate(&self) {
        self.cloud.dissociate(&self.spec.namespace, &self.spec.service_account);
    }

    /// Puts a new token of the pod where the old one is, as the kubelet does.
    pub(crate) fn rotate(&self) -> anyhow::Result<()> {
        self.write(&self.cloud.keys().token(&self.spec, POD_IDENTITY_AUDIENCE, TOKEN_LIFE))
    }

    /// The same with a token that has expired a minute ago.
    pub(crate) fn expire(&self) -> anyhow::Result<()> {
        let keys = self.cloud.keys();
        let issued = keys.claims(&self.spec, POD_IDENTITY_AUDIENCE, Duration::ZERO);
        let (start, end) = (issued.iat - 3660, issued.iat - 60);
        let claims = Claims { iat: start, nbf: start, exp: end, ..issued };
        self.write(&keys.sign(&keys.header(), &serde_json::to_string(&claims)?))
    }

    /// What the pod presents.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.token_file())?)
    }

    /// That EKS Auth has been asked so often, whatever it answered.
    pub(crate) fn ensure_exchanges(&self, expected: usize) -> anyhow::Result<()> {
        let calls = self.cloud.count(Operation::EksAuth);
        ensure!(calls == expected, "{calls} calls to EKS Auth, not {expected}");
        Ok(())
    }

    fn write(&self, token: &str) -> anyhow::Result<()> {
        let new = self.folder.path().join("token.new");
        std::fs::write(&new, token)?;
        Ok(std::fs::rename(new, self.token_file())?)
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }
}

/// A folder of the agent's uid.
fn agents_folder() -> anyhow::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    chown(folder.path(), Some(Uid::from_raw(UID)), Some(Gid::from_raw(UID)))?;
    Ok(folder)
}

/// What the agent and the client logged.
fn logs(folder: &Path) -> String {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    format!("agent:\n{}client:\n{}", read("agent.log"), read("client.log"))
}
