//! `/status`: what this agent holds and what ails it, as JSON on a socket in the run directory.
//!
//! Names of pods and roles are not for every process of the node, so this is no TCP port: the socket stands in a folder that
//! only this user enters. It never holds a secret, only names, times and errors.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::admin::http::Answer;
use crate::admin::probe_addresses;
use crate::admin::probes::{Probes, Ready};
use crate::base::clock::Now;
use crate::broker::Broker;
use crate::cache::status::EntryStatus;
use crate::cluster::pods;
use crate::domain::credential::rfc3339;
use crate::egress::aws::Aws;
use crate::front::sign::ListenerStatus;
use crate::grants;
use crate::limits::upstream::UpstreamBudget;
use crate::node::handover;
use crate::node::source;
use crate::token::KeyringStatus;

/// The folder in the run directory: an emptyDir is writable for all, this one for nobody else.
const FOLDER: &str = "agent";
const SOCKET: &str = "status.sock";

/// What the status tells of.
#[derive(Debug, Clone)]
pub struct Sources {
    /// When the process began to serve.
    pub started: Now,
    /// Readiness and listeners.
    pub probes: Probes,
    /// What is done about connections from outside this node.
    pub source_check: source::Mode,
    /// Tokens and entries.
    pub broker: Arc<Broker>,
    /// The node's own credentials.
    pub aws: Arc<Aws>,
    /// Calls to AWS.
    pub budget: UpstreamBudget,
    /// The other agents of this node; `None` without a handover directory.
    pub handover: Option<handover::Shared>,
}

/// The whole document.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    commit: &'static str,
    uptime_seconds: u64,
    #[serde(flatten)]
    ready: Ready,
    handover: Option<handover::Status>,
    listeners: Vec<ListenerStatus>,
    source_check: &'static str,
    source_binding: &'static str,
    verification: KeyringStatus,
    grants: grants::Status,
    pod_watch: Option<pods::Status>,
    node_credentials: Option<NodeCredentials>,
    upstream: Upstream,
    entries: Vec<EntryStatus>,
}

#[derive(Debug, Serialize)]
struct NodeCredentials {
    source: String,
    expires_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Upstream {
    calls_per_second: f64,
    throttled_for_seconds: Option<u64>,
}

impl Sources {
    /// Answers `credlet status`.
    pub async fn answer(&self, path: &str) -> Answer {
        match path {
            "/status" => Answer::json(StatusCode::OK, &self.status().await),
            other => self.probes.answer(other).await,
        }
    }

    async fn status(&self) -> Status {
        let now = self.broker.context.clock.now();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("CREDLET_COMMIT"),
            uptime_seconds: now.mono.saturating_duration_since(self.started.mono).as_secs(),
            ready: self.probes.ready().await,
            handover: self.handover.as_ref().map(|handover| handover.status(now.mono)),
            listeners: self.probes.listeners.statuses(),
            source_check: self.source_check.into(),
            source_binding: self.broker.binding.mode().into(),
            verification: self.broker.verifier.status(),
            grants: self.broker.grants.status(),
            pod_watch: self.broker.pods.status(),
            node_credentials: self.node_credentials(),
            upstream: Upstream {
                calls_per_second: self.budget.rate(),
                throttled_for_seconds: self.budget.closed_for().map(|left| left.as_secs()),
            },
            entries: self.broker.cache.status(),
        }
    }

    /// `None` before the first call to AWS.
    fn node_credentials(&self) -> Option<NodeCredentials> {
        let identity = self.aws.node_identity()?;
        Some(NodeCredentials { source: identity.source, expires_at: identity.expires_at.and_then(rfc3339) })
    }
}

/// The socket's path under `run_dir`.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join(FOLDER).join(SOCKET)
}

/// Listens on the socket, in a folder that only this user enters; a socket that a predecessor left is replaced.
///
/// # Errors
/// When the run directory can't be used.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    let folder = run_dir.join(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
    let path = socket_path(run_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Why a running agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No socket, or nobody behind it.
    #[error("no agent answers at {}; is --run-dir its own, and may this user enter it?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer broke off.
    #[error("the agent's answer broke off: {0}")]
    Http(#[from] hyper::Error),
    /// The path is none.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
}

/// Asks the agent whose run directory this is.
///
/// # Errors
/// [`AskError`] when it does not answer.
pub async fn ask(run_dir: &Path, path: &str) -> Result<(StatusCode, Bytes), AskError> {
    let socket = socket_path(run_dir);
    let stream = UnixStream::connect(&socket).await.map_err(|source| AskError::Connect { path: socket, source })?;
    exchange(stream, path).await
}

/// As [`ask`], and where there is no socket by the probe port: an agent whose run directory can't be used still serves. On the
/// node's network that port may be another agent's.
///
/// # Errors
/// [`AskError`] when neither answers.
pub async fn ask_also_by_port(run_dir: &Path, probe_port: u16, path: &str) -> Result<(StatusCode, Bytes), AskError> {
    let by_socket = ask(run_dir, path).await;
    let Err(AskError::Connect { .. }) = by_socket else { return by_socket };
    match TcpStream::connect(probe_addresses(probe_port).as_slice()).await {
        Ok(stream) => exchange(stream, path).await,
        Err(_) => by_socket,
    }
}

async fn exchange<S>(stream: S, path: &str) -> Result<(StatusCode, Bytes), AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(Request::get(path).header("host", "credlet").body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // A finished connection has handed over all it read: the exchange ends by itself.
        _ = &mut connection => exchange.await,
    }
}
