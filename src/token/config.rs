//! What to verify tokens against, and where the keys come from.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use url::Url;

/// How tokens are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Local; delegated once every source's first attempt has failed, or when there is none, until one answers.
    Auto,
    /// Signature and claims are checked here before any call to AWS.
    Local,
    /// EKS Auth's answer is the verification.
    Delegated,
}

/// The verifier's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Audiences of which a token must bear exactly one.
    pub audiences: Vec<Arc<str>>,
    /// The node whose pods are served; unknown: not checked.
    pub node_name: Option<String>,
    /// How tokens are verified.
    pub mode: Mode,
    /// Accepted issuers.
    pub issuers: Vec<IssuerConfig>,
    /// Names the issuer when `issuers` is empty, and may hold more keys of one that is discovered.
    pub api_server: Option<Arc<ApiServer>>,
    /// The EKS cluster that is asked for its issuer when `issuers` is empty and the API server does not name it.
    pub cluster: Option<Arc<str>>,
    /// Verified tokens to remember: four times as many as pods fit on the node, since a pod's old and new token overlap.
    pub memo_capacity: usize,
}

impl Config {
    /// The configured issuers with all their sources: who is discovered may be the cluster's own issuer, whose keys the API server
    /// publishes too. It gives them for the issuer that it names and for no other.
    pub(super) fn accepted(&self) -> Vec<IssuerConfig> {
        let mut issuers = if self.mode == Mode::Delegated { Vec::new() } else { self.issuers.clone() };
        for issuer in &mut issuers {
            let discovered = issuer.sources.iter().any(|source| matches!(source, KeySource::Discovery));
            let server = self.api_server.iter().filter(|_| discovered);
            issuer.sources.extend(server.map(|server| KeySource::ApiServer(Arc::clone(server))));
        }
        issuers
    }

    /// The cluster whose issuer nobody but EKS can name.
    #[must_use]
    pub fn described_cluster(&self) -> Option<&Arc<str>> {
        match self.places().as_slice() {
            [Place::Eks(_)] => self.cluster.as_ref(),
            _ => None,
        }
    }

    /// Whom to ask for the issuer when none is configured, in this order.
    pub(super) fn places(&self) -> Vec<Place> {
        if self.mode == Mode::Delegated || !self.issuers.is_empty() {
            return Vec::new();
        }
        let api_server = self.api_server.iter().cloned().map(Place::ApiServer);
        api_server.chain(self.cluster.iter().cloned().map(Place::Eks)).collect()
    }
}

/// Where an issuer is named.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In the API server's own discovery document.
    ApiServer(Arc<ApiServer>),
    /// By `eks:DescribeCluster`, for the cluster of that name.
    Eks(Arc<str>),
}

/// An accepted issuer. Its keys are the union of what its sources hold, as far as each can be reached.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// `iss`, compared exactly.
    pub issuer: Arc<str>,
    /// Where its keys are.
    pub sources: Vec<KeySource>,
}

/// Where an issuer's keys are. A URL is never taken from a token.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `{issuer}/.well-known/openid-configuration`, which names the key set (OpenID Connect Discovery 1.0 §4).
    Discovery,
    /// A key set (RFC 7517 §5) at a URL.
    Url(Url),
    /// A key set in a file.
    File(PathBuf),
    /// The cluster's API server, if it is of this issuer.
    ApiServer(Arc<ApiServer>),
}

/// The Kubernetes API server, reached with the agent's own service account token (KEP-1393).
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// Its base URL.
    pub url: Url,
    /// The agent's own token; the kubelet renews it, so it is read at each use.
    pub token_file: PathBuf,
    /// PEM of the certificate authority that its certificate must be of.
    pub ca_file: PathBuf,
}

/// How tokens are verified at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No keys yet; requests wait.
    Waiting,
    /// Here.
    Local,
    /// By EKS Auth.
    Delegated,
}
