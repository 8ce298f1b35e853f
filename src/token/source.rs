//! Fetching an issuer's keys: from its public discovery document, a URL, a file or the API server.
//!
//! Only configured URLs are asked, the issuer that the API server or EKS names, and what a discovery document of either names;
//! redirects are not followed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use url::Url;

use crate::base::secret::Secret;
use crate::domain::mint::Failure;
use crate::egress::aws::Aws;
use crate::egress::fetch::{FetchError, Fetched, Get, Trust, is_private};
use crate::egress::https::Https;
use crate::limits::upstream::UpstreamBudget;
use crate::observe::Context;
use crate::observe::metrics::{CallResult, Operation};
use crate::token::config::{ApiServer, KeySource, Place};
use crate::token::eks::Eks;
use crate::token::json;
use crate::token::jwks::{self, JwksError, Key};

/// One answer; the caller's own deadline is shorter, and the answer is of use for the next one.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Files are read again this often: that is cheap, and nothing tells when they change.
const FILE_AGE: Duration = Duration::from_secs(60);
/// Where an issuer describes itself (OpenID Connect Discovery 1.0 §4).
const DISCOVERY_PATH: &str = ".well-known/openid-configuration";
/// Where the API server publishes its keys (KEP-1393).
const API_SERVER_KEYS_PATH: &str = "openid/v1/jwks";

/// Why a source gave no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("{0}: {1}")]
    Fetch(Url, #[source] FetchError),
    #[error("{0}: {1}")]
    Keys(String, #[source] JwksError),
    #[error("{0}: it is no discovery document")]
    Discovery(Url),
    #[error("{0}: it is the document of another issuer")]
    OtherIssuer(Url),
    #[error("{0}: its jwks_uri is neither https nor on loopback")]
    KeysUrl(Url),
    #[error("the issuer is no URL, so it has no discovery document")]
    IssuerUrl,
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
    #[error("eks:DescribeCluster: {0}")]
    Eks(#[source] Failure),
}

/// How key sources are reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// Documents.
    pub http: Https,
    /// EKS.
    pub aws: Arc<Aws>,
    /// Of calls to AWS.
    pub budget: UpstreamBudget,
}

/// What a source gave.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The keys, at least one.
    pub(super) keys: Vec<Key>,
    /// How long they may be kept: a new key is published at least that long before it signs.
    pub(super) max_age: Option<Duration>,
}

/// The members of a discovery document that are used.
#[derive(Debug, Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Loads keys, and finds issuers.
#[derive(Debug)]
pub(super) struct Fetcher {
    http: Https,
    eks: Eks,
    context: Context,
}

impl Fetcher {
    pub(super) fn new(Access { http, aws, budget }: Access, context: &Context) -> Self {
        Self { http, eks: Eks::new(aws, budget, context.clock.clone()), context: context.clone() }
    }

    /// Asks one source of `issuer`.
    pub(super) async fn load(&self, issuer: &str, source: &KeySource) -> Result<Loaded, SourceError> {
        match source {
            KeySource::Discovery => self.load_discovered(issuer).await,
            KeySource::Url(url) => loaded(url, self.get(url).await?),
            KeySource::File(path) => load_file(path).await,
            KeySource::ApiServer(server) => self.load_from(server, issuer).await,
        }
    }

    /// The issuer that is named there.
    pub(super) async fn issuer_at(&self, place: &Place) -> Result<Arc<str>, SourceError> {
        match place {
            Place::ApiServer(server) => self.issuer_of(server).await,
            Place::Eks(cluster) => self.eks.issuer_of(cluster).await.map_err(SourceError::Eks),
        }
    }

    async fn issuer_of(&self, server: &ApiServer) -> Result<Arc<str>, SourceError> {
        let url = under(&server.url, DISCOVERY_PATH);
        let document = self.get_from(server, &url).await?;
        Ok(Discovery::parse(&url, &document.body)?.issuer.into())
    }

    /// The API server is asked for whose keys it has each time: those of another issuer must never pass for this one's.
    async fn load_from(&self, server: &ApiServer, issuer: &str) -> Result<Loaded, SourceError> {
        if *self.issuer_of(server).await? != *issuer {
            return Err(SourceError::OtherIssuer(under(&server.url, DISCOVERY_PATH)));
        }
        let url = under(&server.url, API_SERVER_KEYS_PATH);
        loaded(&url, self.get_from(server, &url).await?)
    }

    async fn load_discovered(&self, issuer: &str) -> Result<Loaded, SourceError> {
        let url = discovery_url(issuer).ok_or(SourceError::IssuerUrl)?;
        let document = self.get(&url).await?;
        let keys_url = Discovery::parse(&url, &document.body)?.keys_url(&url, issuer)?;
        loaded(&keys_url, self.get(&keys_url).await?)
    }

    async fn get(&self, url: &Url) -> Result<Fetched, SourceError> {
        let get = Get { url, bearer: None, trust: Trust::Node, limit_bytes: jwks::DOCUMENT_BYTES, timeout: TIMEOUT };
        self.counted(get).await
    }

    async fn get_from(&self, server: &ApiServer, url: &Url) -> Result<Fetched, SourceError> {
        let token = read(&server.token_file).await?;
        let token = String::from_utf8(token).map_err(|_| file_error(&server.token_file, io::ErrorKind::InvalidData.into()))?;
        let token = Secret::new(Secret::new(token).expose().trim().to_owned());
        let ca = read(&server.ca_file).await?;
        let get = Get { url, bearer: Some(&token), trust: Trust::Only(&ca), limit_bytes: jwks::DOCUMENT_BYTES, timeout: TIMEOUT };
        self.counted(get).await
    }

    async fn counted(&self, get: Get<'_>) -> Result<Fetched, SourceError> {
        let (url, begun) = (get.url.clone(), self.context.clock.now().mono);
        let outcome = self.http.get(get).await;
        let result = outcome.as_ref().map_or_else(result_of, |_| CallResult::Ok);
        let took = self.context.clock.now().mono.saturating_duration_since(begun);
        self.context.metrics.upstream.finished(Operation::Jwks, result, took);
        outcome.map_err(|error| SourceError::Fetch(url, error))
    }
}

fn result_of(error: &FetchError) -> CallResult {
    let FetchError::Status(status) = error else { return CallResult::Unavailable };
    match status {
        401 | 403 => CallResult::Denied,
        429 => CallResult::Throttled,
        _ => CallResult::Unavailable,
    }
}

fn loaded(url: &Url, Fetched { body, max_age }: Fetched) -> Result<Loaded, SourceError> {
    let keys = jwks::parse(&body).map_err(|error| SourceError::Keys(url.to_string(), error))?;
    Ok(Loaded { keys, max_age })
}

async fn load_file(path: &Path) -> Result<Loaded, SourceError> {
    let document = read(path).await?;
    let keys = jwks::parse(&document).map_err(|error| SourceError::Keys(path.display().to_string(), error))?;
    Ok(Loaded { keys, max_age: Some(FILE_AGE) })
}

/// The file, or as much of it as makes it too large.
async fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let limit = u64::try_from(jwks::DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut content = Vec::new();
    let read = async { tokio::fs::File::open(path).await?.take(limit).read_to_end(&mut content).await };
    read.await.map_err(|error| file_error(path, error))?;
    Ok(content)
}

fn file_error(path: &Path, error: io::Error) -> SourceError {
    SourceError::File(path.display().to_string(), error)
}

impl Discovery {
    fn parse(url: &Url, document: &Bytes) -> Result<Self, SourceError> {
        json::object(document).map_err(|_| SourceError::Discovery(url.clone()))
    }

    fn keys_url(self, url: &Url, issuer: &str) -> Result<Url, SourceError> {
        if self.issuer != issuer {
            return Err(SourceError::OtherIssuer(url.clone()));
        }
        let keys_url = Url::parse(&self.jwks_uri).ok().filter(is_private);
        keys_url.ok_or_else(|| SourceError::KeysUrl(url.clone()))
    }
}

pub(super) fn discovery_url(issuer: &str) -> Option<Url> {
    let url = under(&Url::parse(issuer).ok()?, DISCOVERY_PATH);
    is_private(&url).then_some(url)
}

/// `path` below `base`, with or without a slash between them.
fn under(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

impl KeySource {
    /// How status and logs call it.
    pub(super) fn label(&self, issuer: &str) -> String {
        match self {
            Self::Discovery => discovery_url(issuer).map_or_else(|| "discovery".to_owned(), String::from),
            Self::Url(url) => url.to_string(),
            Self::File(path) => path.display().to_string(),
            Self::ApiServer(server) => under(&server.url, API_SERVER_KEYS_PATH).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn discovery_is_below_the_issuer() {
        let found = |issuer| discovery_url(issuer).map(String::from);
        let expected = Some("https://oidc.example/id/A/.well-known/openid-configuration".to_owned());
        assert_eq!(found("https://oidc.example/id/A"), expected);
        assert_eq!(found("https://oidc.example/id/A/"), expected);
        assert_eq!(found("http://127.0.0.1:9/"), Some("http://127.0.0.1:9/.well-known/openid-configuration".to_owned()));
        for bad in ["kubernetes/serviceaccount", "http://oidc.example", "file:///etc/passwd", "http://169.254.169.254", ""] {
            assert_eq!(found(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_discovery_document_is_of_the_issuer_and_names_a_safe_url() {
        let document = |issuer: &str, keys: &str| Bytes::from(format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}","x":1}}"#));
        let at = url("https://a.example/.well-known/openid-configuration");
        let keys_url = |document| Discovery::parse(&at, &document)?.keys_url(&at, "https://a.example");
        assert_eq!(keys_url(document("https://a.example", "https://k.example/k")).unwrap(), url("https://k.example/k"));
        assert!(keys_url(document("https://a.example", "http://[::1]:8/k")).is_ok());
        let other = keys_url(document("https://a.example/", "https://a.example/k"));
        assert!(matches!(other, Err(SourceError::OtherIssuer(_))));
        for bad in ["http://a.example/k", "file:///k", "http://169.254.169.254/k", "ftp://127.0.0.1/k", "/k", ""] {
            assert!(matches!(keys_url(document("https://a.example", bad)), Err(SourceError::KeysUrl(_))), "{bad}");
        }
        for bad in [
            "",
            "<html>",
            "{}",
            r#"{"issuer":7,"jwks_uri":"https://a.example"}"#,
            r#"{"issuer":"https://a.example"}"#,
            r#"["https://a.example","https://a.example/k"]"#,
        ] {
            assert!(matches!(keys_url(bad.into()), Err(SourceError::Discovery(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn files_are_bounded_and_faults_name_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        assert!(matches!(load_file(&path).await, Err(SourceError::File(..))));
        std::fs::write(&path, vec![b' '; 300 * 1024]).unwrap();
        let error = load_file(&path).await.unwrap_err();
        assert!(matches!(error, SourceError::Keys(_, JwksError::TooLarge)));
        assert!(error.to_string().contains("keys.json"));
    }

    #[test]
    fn statuses_are_told_apart() {
        assert_eq!(result_of(&FetchError::Status(403)), CallResult::Denied);
        assert_eq!(result_of(&FetchError::Status(429)), CallResult::Throttled);
        assert_eq!(result_of(&FetchError::Status(500)), CallResult::Unavailable);
        assert_eq!(result_of(&FetchError::TimedOut), CallResult::Unavailable);
    }
}
