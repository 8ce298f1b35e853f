//! The agent: the real binary, as a process of its own on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use credlet::sim::cloud::Cloud;
use credlet::sim::pod::NODE;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::world::REGION;

const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Below the ports that Linux hands out by itself (32,768 and up), so that no connection of anybody's takes one meanwhile; runs
/// side by side begin at different ones.
static NEXT_PORT: LazyLock<AtomicU16> = LazyLock::new(|| {
    let offset = std::process::id() % 1000;
    AtomicU16::new(20_000_u16.saturating_add(u16::try_from(offset).unwrap_or_default().saturating_mul(10)))
});

/// A running agent. Dropping it kills it.
pub(crate) struct Agent {
    _process: Child,
    credentials: SocketAddr,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts an agent of `cloud`'s cluster with its files in `folder`, and waits until it is ready.
    pub(crate) async fn start(cloud: &Cloud, folder: &Path) -> anyhow::Result<Self> {
        let [credentials, probes, metrics] = [free_address()?, free_address()?, free_address()?];
        let mut command = command(cloud, folder)?;
        command.args(["--bind-hosts", "127.0.0.1", "--port", &credentials.port().to_string()]);
        command.args(["--probe-port", &probes.port().to_string()]);
        command.args(["--metrics-address", "127.0.0.1", "--metrics-port", &metrics.port().to_string()]);
        let mut process = command.spawn().context("start credlet")?;
        let ready = tokio::time::timeout(START_LIMIT, become_ready(&mut process, probes)).await;
        ready.context("credlet does not become ready")??;
        Ok(Self { _process: process, credentials, metrics })
    }

    /// What a pod's `AWS_CONTAINER_CREDENTIALS_FULL_URI` says.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/credentials", self.credentials)
    }

    /// The status and the body of its answer to `token`, without any SDK between.
    pub(crate) async fn ask(&self, token: &str) -> anyhow::Result<(u16, String)> {
        get(self.credentials, "/v1/credentials", token).await.context("ask the agent")
    }

    /// How many requests for credentials came to `outcome`, by its own metrics.
    pub(crate) async fn requests(&self, outcome: &str) -> anyhow::Result<u64> {
        let (_, metrics) = get(self.metrics, "/metrics", "").await.context("read the agent's metrics")?;
        let sample = format!("credlet_requests_total{{outcome=\"{outcome}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&sample));
        value.unwrap_or("0").parse().context("a counter that is no number")
    }
}

fn command(cloud: &Cloud, folder: &Path) -> anyhow::Result<Command> {
    let (access_key_id, secret) = cloud.node_credentials();
    let log = std::fs::File::create(folder.join("agent.log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_credlet"));
    command.env_clear().env("HOME", folder).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", access_key_id).env("AWS_SECRET_ACCESS_KEY", secret.expose());
    command.env("AWS_REGION", REGION).env("AWS_ENDPOINT_URL_STS", cloud.sts_url());
    command.args(["server", "--cluster-name", "demo", "--node-name", NODE, "--endpoint", cloud.eks_auth_url()]);
    command.arg("--issuer").arg(format!("{}={}", cloud.issuer(), cloud.jwks_url()));
    command.arg("--run-dir").arg(folder.join("run"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command)
}

async fn become_ready(process: &mut Child, probes: SocketAddr) -> anyhow::Result<()> {
    loop {
        if let Some(status) = process.try_wait()? {
            bail!("credlet ended: {status}");
        }
        if let Ok((200, _)) = get(probes, "/readyz", "").await {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn get(address: SocketAddr, path: &str, token: &str) -> anyhow::Result<(u16, String)> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let request = Request::get(path).header(HOST, address.to_string()).header(AUTHORIZATION, token).body(Empty::<Bytes>::new())?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (_, answer) = tokio::join!(connection, exchange);
    answer
}

fn free_address() -> anyhow::Result<SocketAddr> {
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) if port > 32_000 => return Err(error).context("no free port below 32,000"),
            Err(_) => {}
        }
    }
}
