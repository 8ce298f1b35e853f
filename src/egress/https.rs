//! The HTTPS stack: who is trusted, and through which proxy the way leads.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};
use url::Url;

use crate::egress::{EgressError, Lookup, first_set, trust};

/// Where the proxy for `https://` is named, the first that is set wins. `HTTP_PROXY` is left alone: the only plain HTTP that the
/// agent speaks goes to loopback and to the node's own metadata and credential endpoints, which no proxy may see.
const PROXY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Connections kept for a next call: none. Calls are rare, a kept connection may have died unseen (an HTTP/2 one stays in the
/// pool however many calls time out on it), and the retries that would hide that are off.
const IDLE_CONNECTIONS: usize = 0;

/// What is reached without a proxy whatever `NO_PROXY` says, as in Go's clients.
const NEVER_PROXIED: &str = "localhost,127.0.0.0/8,::1";

/// The way out of the node. Cheap to clone.
#[derive(Clone)]
pub struct Https {
    route: Arc<Route>,
}

struct Route {
    trust: TlsContext,
    proxy: ProxyConfig,
    /// For [`Https::get`]. Made at first use: the system's roots take milliseconds to load, and a start has none to spare.
    connector: OnceLock<SharedHttpConnector>,
}

impl Https {
    /// The way out that the environment describes: `AWS_CA_BUNDLE` (added to the system's roots), `HTTPS_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY`, the latter in upper or lower case.
    ///
    /// # Errors
    /// When the bundle is unreadable or holds no certificate, and when the proxy is not an HTTP one: both, if so.
    pub fn new(env: Lookup<'_>) -> Result<Self, Vec<EgressError>> {
        match (trust::of_node(env), proxy(env)) {
            (Ok(store), Ok(proxy)) => {
                let trust = trust::context(store);
                Ok(Self { route: Arc::new(Route { trust, proxy, connector: OnceLock::new() }) })
            }
            (store, proxy) => Err(store.err().into_iter().chain(proxy.err()).collect()),
        }
    }

    /// The same way for clients of the AWS SDK.
    #[must_use]
    pub fn aws_http_client(&self) -> SharedHttpClient {
        let route = Arc::clone(&self.route);
        Builder::new().build_with_connector_fn(move |settings, _| route.connect(route.trust.clone(), settings.cloned()))
    }

    /// The connector that trusts as the node does.
    pub(super) fn connector(&self) -> SharedHttpConnector {
        let new = || SharedHttpConnector::new(self.connector_for(self.route.trust.clone()));
        self.route.connector.get_or_init(new).clone()
    }

    /// A connector of its own for other roots than the node's.
    pub(super) fn connector_for(&self, trust: TlsContext) -> Connector {
        self.route.connect(trust, None)
    }
}

impl Route {
    fn connect(&self, trust: TlsContext, settings: Option<HttpConnectorSettings>) -> Connector {
        Connector::builder()
            .connector_settings(settings.unwrap_or_default())
            .proxy_config(self.proxy.clone())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(trust)
            .build()
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("proxied", &!self.route.proxy.is_disabled()).finish_non_exhaustive()
    }
}

fn proxy(env: Lookup<'_>) -> Result<ProxyConfig, EgressError> {
    let Some((variable, url)) = first_set(env, &PROXY) else { return Ok(ProxyConfig::disabled()) };
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    let proxy =
        Url::parse(&url).ok().and_then(|url| ProxyConfig::https(url.as_str()).ok()).ok_or(EgressError::Proxy(variable))?;
    let exceptions = first_set(env, &["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, rules)| rules);
    Ok(proxy.no_proxy(format!("{NEVER_PROXIED},{exceptions}")))
}
