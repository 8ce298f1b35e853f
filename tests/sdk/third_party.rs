//! A simulated AWS that others wrote, ministack, as the upstream: whether credlet's calls are right must not be judged by the
//! same people who made them.
//!
//! The scenario is one that people ask for: a service account of a CI cluster, its role by web identity, and roles of other
//! accounts by chaining. ministack checks SigV4, trust policies, external ids and session tags; it checks neither a token's
//! signature nor how long a chained session may last, which credlet's own simulation does.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use credlet::base::clock::Clock;
use credlet::domain::policy::WEB_IDENTITY_AUDIENCE;
use credlet::sim::keys::{Algorithm, Keys};
use credlet::sim::pod::{NODE, PodSpec};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::client::{Client, Identity, Sdk, script};
use crate::harness::agent::Agent;
use crate::harness::ports::free_address;
use crate::harness::setup::{REGION, Setup};

const ISSUER: &str = "https://oidc.ci.example/id/CI";
const HOUR: Duration = Duration::from_secs(3600);

/// ministack starts in a second, and several at once in a few.
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// The clients that every trial is run with.
const CLIENTS: [Sdk; 2] = [Sdk::Boto3, Sdk::Cli];

const BASE: &str = "arn:aws:sts::111111111111:assumed-role/ci-account-iam-role/ci-namespace-ci-serviceaccount";
const TARGET: &str = "arn:aws:sts::222222222222:assumed-role/target-account-iam-role/xactarget";
const DEPLOY: &str = "arn:aws:sts::333333333333:assumed-role/deploy/ci-namespace.ci-serviceaccount";

const POLICY: &str = r#"
rules:
  - match: { namespace: ci-namespace, serviceAccount: ci-serviceaccount }
    exchange: web-identity
    role: arn:aws:iam::111111111111:role/ci-account-iam-role
    sessionName: "{namespace}-{serviceAccount}"
    targets:
      target-env:
        chain:
          - role: arn:aws:iam::222222222222:role/target-account-iam-role
            sessionName: xactarget
            externalId: "{cluster}/{namespace}/{serviceAccount}"
            tags: { team: ci }
      deploy-env:
        chain:
          - role: arn:aws:iam::222222222222:role/target-account-iam-role
            sessionName: xactarget
            externalId: "{cluster}/{namespace}/{serviceAccount}"
            tags: { team: ci }
          - role: arn:aws:iam::333333333333:role/deploy
      tagless-trust:
        chain:
          - role: arn:aws:iam::222222222222:role/takes-no-tags
            tags: { team: ci }
"#;

/// The profiles of people who chain in the application: the pod's role, and another account's on top of it.
const PROFILES: &str = "\
[profile ci-env]
credential_source = EcsContainer

[profile target-env]
credential_source = EcsContainer
role_arn = arn:aws:iam::222222222222:role/target-account-iam-role
role_session_name = xactarget
external_id = demo/ci-namespace/ci-serviceaccount
";

/// The pod's own role, one behind it, and one behind that, each by its path.
pub(crate) async fn chains() -> anyhow::Result<()> {
    let world = World::start("honest-subject").await?;
    for sdk in CLIENTS {
        for (path, arn) in [("", BASE), ("/target-env", TARGET), ("/deploy-env", DEPLOY)] {
            let identity = world.identity(sdk, path, &[]).await?;
            ensure!(identity.arn.as_deref() == Some(arn), "{sdk} at {path:?}: {identity:?}");
        }
    }
    let calls =
        world.agent.sample(r#"credlet_upstream_requests_total{operation="assume_role_with_web_identity",result="ok"}"#).await?;
    ensure!(calls == 1, "{calls} calls for the one session that is served and leads on");
    Ok(())
}

/// Two profiles in one pod, as those have it who chain by themselves today.
pub(crate) async fn profiles() -> anyhow::Result<()> {
    let world = World::start("honest-subject").await?;
    let file = world.folder.path().join("config").display().to_string();
    std::fs::write(&file, PROFILES)?;
    for sdk in CLIENTS {
        for (profile, arn) in [("ci-env", BASE), ("target-env", TARGET)] {
            let variables = [("AWS_CONFIG_FILE", file.as_str()), ("AWS_PROFILE", profile)];
            let identity = world.identity(sdk, "", &variables).await?;
            ensure!(identity.arn.as_deref() == Some(arn), "{sdk} with {profile}: {identity:?}");
        }
    }
    Ok(())
}

/// A trust policy without `sts:TagSession`: the pod is told the missing line.
pub(crate) async fn missing_tag_session() -> anyhow::Result<()> {
    let world = World::start("honest-subject").await?;
    let answer = world.ask("/tagless-trust").await?;
    ensure!(answer.contains("sts:TagSession") && answer.contains("role/takes-no-tags"), "{answer}");
    Ok(())
}

/// An answer about somebody else, as ministack gives it by itself, is never served.
pub(crate) async fn another_subject() -> anyhow::Result<()> {
    let world = World::start("as-published").await?;
    let answer = world.ask("").await?;
    ensure!(answer.contains("ServiceUnavailable") && !answer.contains("SecretAccessKey"), "{answer}");
    ensure!(world.agent.refusals("upstream_mismatch").await? >= 1, "{answer}");
    Ok(())
}

/// ministack with the accounts in it, and an agent of the CI cluster that has no AWS credentials of its own.
struct World {
    agent: Agent,
    endpoint: String,
    token: String,
    folder: TempDir,
    _ministack: Child,
}

impl World {
    async fn start(subject: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (process, endpoint) = start_ministack(folder.path(), subject).await?;
        run(script("python", "ministack/accounts.py")?.args([&endpoint, ISSUER]).env("AWS_DEFAULT_REGION", REGION)).await?;
        let keys = Keys::new(ISSUER, Algorithm::default(), Clock::System);
        let token = keys.token(&PodSpec::new("ci-namespace", "ci-serviceaccount", "runner"), WEB_IDENTITY_AUDIENCE, HOUR);
        std::fs::write(folder.path().join("token"), &token)?;
        let agent = setup(folder.path(), &keys, &endpoint)?.start().await?;
        Ok(Self { agent, endpoint, token, folder, _ministack: process })
    }

    /// Whom ministack takes an application for that gets its credentials at `path` of the agent.
    async fn identity(&self, sdk: Sdk, path: &str, more: &[(&str, &str)]) -> anyhow::Result<Identity> {
        let (url, token) = (format!("{}{path}", self.agent.url()), self.folder.path().join("token").display().to_string());
        let variables = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
            ("AWS_DEFAULT_REGION", REGION),
            ("AWS_ENDPOINT_URL_STS", &self.endpoint),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let variables = [&variables, more].concat();
        let fetched = Client::start(sdk.command()?, self.folder.path(), &variables, Command::spawn)?.fetch().await?;
        fetched.map_err(|error| anyhow::anyhow!("{sdk} at {path:?}: {error}\n{}", self.agent.log()))
    }

    /// The body of the answer at `path`, which may take ministack longer than the agent waits.
    async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let path = format!("/v1/credentials{path}");
        loop {
            let body = self.agent.get(&path, &[("authorization", &self.token)]).await?.body;
            if !body.contains("AWS has not answered yet") {
                return Ok(body);
            }
        }
    }
}

fn setup(folder: &Path, keys: &Keys, endpoint: &str) -> anyhow::Result<Setup> {
    let write = |name: &str, content: &str| -> anyhow::Result<PathBuf> {
        let path = folder.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    };
    let (jwks, policy) = (write("jwks.json", &keys.jwks().to_string())?, write("policy.yaml", POLICY)?);
    let setup = Setup::on_loopback(folder)?.flag("cluster-name", "demo").flag("node-name", NODE);
    let setup = setup.flag("issuer", format!("{ISSUER}={}", jwks.display())).flag("policy", policy.display());
    Ok(setup.variable("AWS_REGION", REGION).variable("AWS_ENDPOINT_URL_STS", endpoint))
}

async fn start_ministack(folder: &Path, subject: &str) -> anyhow::Result<(Child, String)> {
    let address = free_address()?;
    let log = std::fs::File::create(folder.join("ministack.log"))?;
    let mut command = script("ministack", "ministack/serve.py")?;
    command.arg(subject).env("AUTH", "true").env("BIND_HOST", address.ip().to_string());
    command.env("GATEWAY_PORT", address.port().to_string()).env("HOME", folder).current_dir(folder);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let process = command.spawn().context("start ministack")?;
    let listens = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(START_LIMIT, listens).await.context("ministack does not start")?;
    Ok((process, format!("http://{address}")))
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
