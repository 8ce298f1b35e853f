//! What an agent asks of a Kubernetes API server beside keys, under TLS: the metadata of service accounts, and of its node's pods.
//! The real server's part is tested on a real cluster; this one can be away, and counts.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use credlet::token;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::harness::pods::{Body, Pods};
use crate::harness::relay::{Authority, Relay};

/// The agent's own token.
pub(crate) const TOKEN: &str = "the-agents-own-token";

/// A running server. Dropping it closes its port.
pub(crate) struct ApiServer {
    relay: Relay,
    folder: TempDir,
    state: Arc<State>,
    _server: AbortOnDropHandle<()>,
}

/// How it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Health {
    #[default]
    Well,
    /// Every answer takes so long.
    Slow(Duration),
    /// It takes requests and answers none.
    Silent,
    /// It breaks every connection that asks for something.
    Away,
}

#[derive(Default)]
struct State {
    /// The metadata of each account, by its path.
    accounts: Mutex<BTreeMap<String, Value>>,
    pods: Pods,
    requests: Mutex<Vec<String>>,
    health: Mutex<Health>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl ApiServer {
    /// Without any service account.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (authority, folder, state) = (Authority::new()?, tempfile::tempdir()?, Arc::<State>::default());
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((loopback, 0)).await?;
        let relay = Relay::tls(&authority, loopback, listener.local_addr()?).await?;
        std::fs::write(folder.path().join("token"), TOKEN)?;
        std::fs::copy(authority.bundle()?.path(), folder.path().join("ca.crt"))?;
        let server = AbortOnDropHandle::new(tokio::spawn(serve(listener, Arc::clone(&state))));
        Ok(Self { relay, folder, state, _server: server })
    }

    /// How an agent reaches it.
    pub(crate) fn access(&self) -> anyhow::Result<Arc<token::ApiServer>> {
        let url = Url::parse(&format!("https://{}", self.relay.address))?;
        let [token_file, ca_file] = ["token", "ca.crt"].map(|name| self.folder.path().join(name));
        Ok(Arc::new(token::ApiServer { url, token_file, ca_file }))
    }

    /// Makes the account, or changes it.
    pub(crate) fn put(&self, namespace: &str, name: &str, uid: &str, annotations: &Value) {
        let metadata = json!({ "name": name, "namespace": namespace, "uid": uid, "annotations": annotations });
        self.state.accounts.lock().insert(path(namespace, name), metadata);
    }

    /// Deletes the account.
    pub(crate) fn delete(&self, namespace: &str, name: &str) {
        self.state.accounts.lock().remove(&path(namespace, name));
    }

    /// The pods that it knows.
    pub(crate) fn pods(&self) -> &Pods {
        &self.state.pods
    }

    /// From now on.
    pub(crate) fn set_health(&self, health: Health) {
        *self.state.health.lock() = health;
    }

    /// How many requests it has had at once at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.most_at_once.load(Ordering::Relaxed)
    }

    /// What it was asked for: method, path, `Accept` and `Authorization` of each request that it answered.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let answer = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { state.take(&request).await }
        });
        // A connection that fails is the client's to notice.
        drop(tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await }));
    }
}

impl State {
    async fn take(&self, request: &Request<Incoming>) -> io::Result<Response<Body>> {
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        let health = *self.health.lock();
        match health {
            Health::Well => (),
            Health::Slow(delay) => tokio::time::sleep(delay).await,
            Health::Silent => std::future::pending().await,
            Health::Away => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        let answer = self.answer(request);
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    fn answer(&self, request: &Request<Incoming>) -> io::Result<Response<Body>> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let asked = [request.method().as_str(), request.uri().path(), header("accept"), header("authorization")].join(" ");
        self.requests.lock().push(asked);
        if request.uri().path() == "/api/v1/pods" {
            return self.pods.answer(request.uri().query().unwrap_or_default());
        }
        let (status, body) = match self.accounts.lock().get(request.uri().path()) {
            Some(metadata) => {
                let kind = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata });
                (200, kind)
            }
            None => (404, json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "message": "none", "code": 404 })),
        };
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.body(Full::<Bytes>::from(body.to_string()).boxed_unsync()).map_err(io::Error::other)
    }
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")
}
