//! A bounded GET, for key sets and discovery documents.
//!
//! The SDK's connector follows no redirect and knows no limits; size and time are bounded here while the body streams, so that a
//! hostile or broken source costs neither memory nor patience.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use url::{Host, Url};

use crate::base::secret::Secret;
use crate::egress::https::Https;
use crate::egress::trust;

/// Discovery documents and key sets. An API server answers 406 for a key set that is not asked for by its own type (RFC 7517 §8.5).
const ACCEPT: &str = "application/json, application/jwk-set+json";

/// What to get, and within which bounds.
#[derive(Debug, Clone, Copy)]
pub struct Get<'a> {
    /// `https://`, or `http://` of a loopback address.
    pub url: &'a Url,
    /// Sent as `Authorization: Bearer`.
    pub bearer: Option<&'a Secret>,
    /// Whose certificates are good.
    pub trust: Trust<'a>,
    /// The longest body taken.
    pub limit_bytes: usize,
    /// The longest that the whole takes, connecting and body included.
    pub timeout: Duration,
}

/// Whose certificates are good.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// The system's roots and `AWS_CA_BUNDLE`.
    Node,
    /// The certificates of this PEM and no other, as for an API server.
    Only(&'a [u8]),
}

/// An answer with status 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The body.
    pub body: Bytes,
    /// `max-age` of `Cache-Control` (RFC 9111 §5.2.2.1).
    pub max_age: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Plain HTTP to another host than loopback, or another scheme.
    #[error("only https is fetched, and http from loopback")]
    Insecure,
    /// [`Trust::Only`] holds nothing to trust.
    #[error("the CA file holds no usable certificate in PEM form")]
    NoRoots,
    /// A status other than 200; redirects are not followed.
    #[error("the answer has status {0}")]
    Status(u16),
    /// The body is over [`Get::limit_bytes`].
    #[error("the answer is too large")]
    TooLarge,
    /// [`Get::timeout`] has passed.
    #[error("timed out")]
    TimedOut,
    /// The connection failed; the innermost cause.
    #[error("{0}")]
    Transport(String),
}

impl Https {
    /// Fetches a document.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn get(&self, get: Get<'_>) -> Result<Fetched, FetchError> {
        if !is_private(get.url) {
            return Err(FetchError::Insecure);
        }
        let connector = self.trusting(get.trust)?;
        let fetched = async { read(connector.call(request(&get)?).await.map_err(transport)?, get.limit_bytes).await };
        tokio::time::timeout(get.timeout, fetched).await.unwrap_or(Err(FetchError::TimedOut))
    }

    fn trusting(&self, trust: Trust<'_>) -> Result<SharedHttpConnector, FetchError> {
        match trust {
            Trust::Node => Ok(self.connector()),
            Trust::Only(pem) => {
                let roots = trust::only(pem).ok_or(FetchError::NoRoots)?;
                Ok(SharedHttpConnector::new(self.connector_for(trust::context(roots))))
            }
        }
    }
}

/// Whether nobody off this node can read or change what is fetched from `url`: https, or http that stays on loopback.
#[must_use]
pub fn is_private(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}

fn request(get: &Get<'_>) -> Result<HttpRequest, FetchError> {
    let mut request = HttpRequest::get(get.url).map_err(transport)?;
    let headers = request.headers_mut();
    headers.insert("accept", ACCEPT);
    if let Some(bearer) = get.bearer {
        let value = format!("Bearer {}", bearer.expose());
        headers.try_insert("authorization", value).map_err(|_| FetchError::Transport("the bearer token is malformed".into()))?;
    }
    Ok(request)
}

async fn read(response: HttpResponse, limit_bytes: usize) -> Result<Fetched, FetchError> {
    let status = response.status().as_u16();
    if status != 200 {
        return Err(FetchError::Status(status));
    }
    let max_age = response.headers().get_all("cache-control").find_map(max_age);
    Ok(Fetched { body: body(response.into_body(), limit_bytes).await?, max_age })
}

async fn body(body: SdkBody, limit_bytes: usize) -> Result<Bytes, FetchError> {
    match Limited::new(body, limit_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
        Err(error) => Err(FetchError::Transport(root_cause(&*error))),
    }
}

fn max_age(cache_control: &str) -> Option<Duration> {
    let directives = cache_control.split(',').filter_map(|directive| directive.split_once('='));
    let (_, seconds) =
        directives.map(|(name, value)| (name.trim(), value)).find(|(name, _)| name.eq_ignore_ascii_case("max-age"))?;
    seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
}

fn transport(error: impl Error + 'static) -> FetchError {
    FetchError::Transport(root_cause(&error))
}

/// The innermost error of a chain, which in HTTP stacks is the one that says what happened.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |&error| error.source()).last().unwrap_or(error).to_string()
}
