//! What one case happens in: a simulated cloud, an agent and a pod that nobody else shares, so that calls can be counted.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::pod::{Claims, PodSpec};
use credlet::sim::script::Operation;
use tempfile::TempDir;

use crate::client::{Client, Fetched, Identity, Sdk};
use crate::harness::agent::Agent;
use crate::harness::setup::{REGION, Setup};

/// What EKS's webhook asks of the kubelet.
const TOKEN_LIFE: Duration = Duration::from_secs(86_400);

/// One cluster of one node with one pod.
pub(crate) struct World {
    pub(crate) cloud: Cloud,
    pub(crate) agent: Agent,
    sdk: Sdk,
    pod: PodSpec,
    folder: TempDir,
}

impl World {
    /// Everything started, and a good token in the pod's file. `case` names the pod.
    pub(crate) async fn start(sdk: Sdk, case: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let cloud = Cloud::start(Config { region: REGION.to_owned(), ..Config::default() }).await?;
        let agent = Setup::on_loopback(folder.path())?.of(&cloud).start().await.with_context(|| logs(&folder))?;
        let pod = PodSpec::new("sdk", &sdk.to_string(), &format!("{sdk}-{case}"));
        let world = Self { cloud, agent, sdk, pod, folder };
        world.rotate()?;
        Ok(world)
    }

    /// Starts the application in the pod, in a process of its own.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let variables = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", self.agent.url()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", self.token_file().display().to_string()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL_STS", self.cloud.sts_url().to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        Client::start(self.sdk.command()?, self.folder.path(), &variables)
    }

    /// One fetch that must succeed, and for this very pod.
    pub(crate) async fn identity(&self, client: &mut Client) -> anyhow::Result<Identity> {
        self.check(client.fetch().await?)
    }

    /// The identity that was fetched, if it is this pod's; what went wrong otherwise, with the logs.
    pub(crate) fn check(&self, fetched: Fetched) -> anyhow::Result<Identity> {
        let identity = fetched.map_err(|error| anyhow!("{error}\n{}", logs(&self.folder)))?;
        let PodSpec { namespace, service_account, pod, .. } = &self.pod;
        let session = format!("assumed-role/{namespace}-{service_account}/eks-demo-{pod}-");
        ensure!(identity.arn.contains(&session), "the credentials are another pod's: {identity:?}");
        Ok(identity)
    }

    /// Puts a new token of the pod where the old one is, as the kubelet does.
    pub(crate) fn rotate(&self) -> anyhow::Result<()> {
        self.write(&self.cloud.keys().token(&self.pod, POD_IDENTITY_AUDIENCE, TOKEN_LIFE))
    }

    /// The same with a token that has expired a minute ago; returns it.
    pub(crate) fn expire(&self) -> anyhow::Result<String> {
        let keys = self.cloud.keys();
        let issued = keys.claims(&self.pod, POD_IDENTITY_AUDIENCE, Duration::ZERO);
        let (start, end) = (issued.iat - 3660, issued.iat - 60);
        let claims = Claims { iat: start, nbf: start, exp: end, ..issued };
        let token = keys.sign(&keys.header(), &serde_json::to_string(&claims)?);
        self.write(&token)?;
        Ok(token)
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

/// What the agent and the client logged.
fn logs(folder: &TempDir) -> String {
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    format!("agent:\n{}client:\n{}", read("agent.log"), read("client.log"))
}
