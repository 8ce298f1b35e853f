//! `/healthz` and `/readyz`.
//!
//! Health says that the process can make progress and asks nobody else, so that an outage elsewhere never restarts it. Readiness
//! sends a nonce to each address that is served and takes it for served only when the nonce comes back: that the address leads
//! to this very process, and not to one that took it over, is what a pod relies on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::admin::http::Answer;
use crate::base::duty::Duty;
use crate::base::readiness::Readiness;
use crate::base::tasks::Tasks;
use crate::front::listener::Listeners;
use crate::front::nonce::Nonces;

/// The kubelet gives a probe one second by default.
const SELF_PROBE: Duration = Duration::from_millis(800);

/// What the probes look at.
#[derive(Debug, Clone)]
pub struct Probes {
    /// The parts that must work.
    pub readiness: Readiness,
    /// Whether this process serves: of two that share the node's sockets, one that never did is not ready.
    pub duty: Duty,
    /// The tasks that must run.
    pub tasks: Tasks,
    /// The addresses that must lead here.
    pub listeners: Listeners,
    /// How this process knows itself.
    pub nonces: Arc<Nonces>,
}

/// Whether this process serves, and if not, why.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// Whether it does.
    pub ready: bool,
    /// What it waits for, by part.
    pub pending: BTreeMap<String, String>,
    /// What does not work but holds nothing up.
    pub advice: BTreeMap<String, String>,
}

impl Probes {
    /// Answers the kubelet.
    pub async fn answer(&self, path: &str) -> Answer {
        match path {
            "/healthz" => self.health(),
            "/readyz" => {
                let ready = self.ready().await;
                let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Answer::json(status, &ready)
            }
            _ => Answer::not_found(),
        }
    }

    /// Asks every part and every address. One that has handed over stays ready: in a surge Kubernetes deletes an old pod that is not,
    /// and nobody would stand by for the rest of `minReadySeconds`.
    pub async fn ready(&self) -> Ready {
        let mut pending = self.readiness.pending();
        if self.tasks.is_shutting_down() {
            pending.insert("shutdown".into(), "the process is on its way out".into());
        }
        if self.duty.is_serving() {
            pending.extend(self.unreached().await);
        } else if !self.duty.is_relieved() {
            pending.insert("duty".into(), "stands by: another agent serves this node, or is about to hand over".into());
        }
        Ready { ready: pending.is_empty(), pending, advice: self.readiness.advice() }
    }

    fn health(&self) -> Answer {
        let ended = self.tasks.ended();
        let status = if ended.is_empty() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        Answer::json(status, &serde_json::json!({ "healthy": ended.is_empty(), "ended": ended }))
    }

    /// Asks all addresses at the same time: together they have as long as one.
    async fn unreached(&self) -> Vec<(String, String)> {
        let mut attempts = JoinSet::new();
        for address in self.listeners.addresses() {
            let probes = self.clone();
            attempts.spawn(async move { (format!("self-probe {address}"), probes.reaches_itself(address).await) });
        }
        let outcomes = attempts.join_all().await.into_iter();
        outcomes.filter_map(|(probe, outcome)| Some((probe, outcome.err()?))).collect()
    }

    async fn reaches_itself(&self, address: SocketAddr) -> Result<(), String> {
        let nonce = self.nonces.issue();
        match tokio::time::timeout(SELF_PROBE, status_of(address, &format!("/v1/self/{nonce}"))).await {
            Ok(Ok(StatusCode::NO_CONTENT)) => Ok(()),
            Ok(Ok(status)) => Err(format!("another process answers on this address ({status})")),
            Ok(Err(error)) => Err(format!("no answer: {error}")),
            Err(_) => Err(format!("no answer within {} ms", SELF_PROBE.as_millis())),
        }
    }
}

/// Why an address did not answer.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    #[error("the connection closed")]
    Closed,
}

/// The status of a GET, without any proxy.
async fn status_of(address: SocketAddr, path: &str) -> Result<StatusCode, Unreached> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    tokio::select! {
        response = sender.send_request(request) => Ok(response?.status()),
        ended = connection => {
            ended?;
            Err(Unreached::Closed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::front::{Config, Front};
    use crate::node::inheritance::Inheritance;
    use crate::node::source::Mode;
    use crate::observe::Context;

    #[tokio::test(start_paused = true)]
    async fn addresses_that_hang_cost_the_time_of_one() {
        let hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|host| host.parse().unwrap()).into();
        let source_check = Mode::Off;
        let config =
            Config { hosts, port: 0, only_local: false, source_check, max_connections: 4, max_connections_per_source: 4 };
        let context = Context::new(Clock::System);
        // Bound, and nobody accepts.
        let front = Front::bind(config, &Inheritance::default(), context.clone()).unwrap();
        let (listeners, nonces) = (front.listeners(), front.nonces());
        let Context { readiness, duty, tasks, .. } = context;
        let probes = Probes { readiness, duty: duty.clone(), tasks, listeners, nonces };
        let start = Clock::System.now().mono;
        let ready = probes.ready().await;
        assert!(!ready.ready && ready.pending.len() == 3, "{ready:?}");
        assert!(Clock::System.now().mono - start < SELF_PROBE * 2);
        duty.set(false);
        assert!(probes.ready().await.pending.into_keys().eq(["duty"]), "what the other agent answers is no fault");
        duty.relieve();
        assert!(probes.ready().await.ready, "nor is it one to stand by for it");
    }
}
