//! The agent's own access to AWS: region, endpoints and credentials, by the SDK's standard variables and files.
//!
//! Loaded at first use and not at the start, since region and credentials may have to come from the node's metadata service and
//! the listener must not wait for that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OnceCell;

use crate::base::clock::{Clock, unix_seconds};
use crate::egress::EgressError;
use crate::egress::https::Https;
use crate::egress::profile::{Profile, RotatedFile};
use crate::observe::Context;
use crate::observe::metrics::Metrics;

/// The longest that a TCP and TLS connection to AWS takes to make.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest that a source of node credentials takes: the metadata service is tried four times at a second each.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the agent's own credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The SDK's standard chain: variables, files, the node's metadata service.
    Standard,
    /// The shared credentials file at this path, read anew as it changes. Nothing else: a file that is being written must not make
    /// the agent somebody else.
    RotatedFile(PathBuf),
    /// This profile of the shared files, each load anew. Nothing else: who names a profile means it.
    Profile(String),
}

/// The agent's own access to AWS.
#[derive(Debug)]
pub struct Aws {
    https: Https,
    source: Source,
    clock: Clock,
    config: OnceCell<SdkConfig>,
    node_credentials: NodeCredentials,
}

/// The node's own credentials as last loaded; nothing here is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The kind of source, as the SDK calls it: `Imds`, `EnvVars`, `Profile`…
    pub source: String,
    /// When they end, if they do.
    pub expires_at: Option<SystemTime>,
}

/// Where each load of node credentials is noted down.
#[derive(Debug, Clone)]
struct NodeCredentials {
    latest: Arc<Mutex<Option<NodeIdentity>>>,
    expiry: Gauge,
}

impl Aws {
    /// Access by the SDK's standard variables and files. Reads nothing yet.
    #[must_use]
    pub fn new(https: Https, source: Source, context: &Context) -> Self {
        let node_credentials = NodeCredentials::new(&context.metrics);
        Self { https, source, clock: context.clock.clone(), config: OnceCell::new(), node_credentials }
    }

    /// Access as `config` says, for simulations. Its credentials are watched all the same.
    #[must_use]
    pub fn with_config(https: Https, metrics: &Metrics, config: SdkConfig) -> Self {
        let node_credentials = NodeCredentials::new(metrics);
        let config = OnceCell::new_with(Some(node_credentials.watch(config)));
        Self { https, source: Source::Standard, clock: Clock::System, config, node_credentials }
    }

    /// The configuration for clients of AWS, loaded at the first call. It bears no retries: an attempt costs a permit of the
    /// node's budget, so only those who take permits may try again.
    ///
    /// # Errors
    /// [`EgressError::Region`]; the next call tries again.
    pub async fn config(&self) -> Result<&SdkConfig, EgressError> {
        self.config.get_or_try_init(|| self.load()).await
    }

    /// The node's own credentials as last loaded; `None` before the first load.
    #[must_use]
    pub fn node_identity(&self) -> Option<NodeIdentity> {
        self.node_credentials.latest.lock().clone()
    }

    async fn load(&self) -> Result<SdkConfig, EgressError> {
        let loader = aws_config::defaults(BehaviorVersion::latest());
        let loader = if let Source::Profile(name) = &self.source { loader.profile_name(name) } else { loader };
        let config = loader
            .http_client(self.https.aws_http_client())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            // Above our own limit, so that ours decides, whose error says what timed out.
            .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT * 2).build())
            .load()
            .await;
        match config.region() {
            Some(_) => Ok(self.node_credentials.watch(self.with_source(config))),
            None => Err(EgressError::Region),
        }
    }

    /// The same configuration with this agent's source of credentials. One that is read anew for each call must not be behind the
    /// SDK's cache, which holds what bears no expiry for 15 minutes.
    fn with_source(&self, config: SdkConfig) -> SdkConfig {
        let profile = |name| Profile::new(name, &config, &self.https);
        let source = match &self.source {
            Source::Standard => return config,
            Source::RotatedFile(path) => {
                SharedCredentialsProvider::new(RotatedFile::new(path.clone(), profile(None), self.clock.clone()))
            }
            Source::Profile(name) => SharedCredentialsProvider::new(profile(Some(name.clone()))),
        };
        config.into_builder().identity_cache(IdentityCache::no_cache()).credentials_provider(source).build()
    }
}

impl NodeCredentials {
    fn new(metrics: &Metrics) -> Self {
        Self { latest: Arc::default(), expiry: metrics.node_credentials_expiry.clone() }
    }

    /// The same configuration, with its credentials noted down at each load.
    fn watch(&self, config: SdkConfig) -> SdkConfig {
        let Some(source) = config.credentials_provider() else { return config };
        let watched = Watched { source, node_credentials: self.clone() };
        config.into_builder().credentials_provider(SharedCredentialsProvider::new(watched)).build()
    }

    fn loaded(&self, credentials: &Credentials) {
        let expires_at = credentials.expiry();
        self.expiry.set(expires_at.map_or(0, unix_seconds));
        *self.latest.lock() = Some(NodeIdentity { source: source_of(credentials), expires_at });
    }
}

/// The SDK notes down each step that led to credentials; the first is where they came from.
fn source_of(credentials: &Credentials) -> String {
    let steps = credentials.get_property::<Vec<AwsCredentialFeature>>();
    let source = steps.and_then(|steps| steps.first()).map_or_else(|| "unknown".into(), |step| format!("{step:?}"));
    source.trim_start_matches("Credentials").to_owned()
}

/// A source of credentials whose loads are bounded in time and noted down.
#[derive(Debug)]
struct Watched {
    source: SharedCredentialsProvider,
    node_credentials: NodeCredentials,
}

impl Watched {
    async fn load(&self) -> provider::Result {
        let loaded = tokio::time::timeout(CREDENTIALS_TIMEOUT, self.source.provide_credentials()).await;
        let timed_out = || self.fallback_on_interrupt().ok_or(CredentialsError::provider_timed_out(CREDENTIALS_TIMEOUT));
        let credentials = loaded.unwrap_or_else(|_| timed_out())?;
        self.node_credentials.loaded(&credentials);
        Ok(credentials)
    }
}

impl ProvideCredentials for Watched {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        // The shared provider itself passes on everything but this.
        self.source.as_ref().fallback_on_interrupt()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::egress::fake;

    #[tokio::test]
    async fn each_load_of_node_credentials_is_noted_down() {
        let mut credentials = Credentials::new("AKID", "secret", None, Some(UNIX_EPOCH + Duration::from_secs(4000)), "test");
        credentials.set_property(vec![AwsCredentialFeature::CredentialsImds, AwsCredentialFeature::CredentialsStsAssumeRole]);
        let config = SdkConfig::builder().credentials_provider(SharedCredentialsProvider::new(credentials)).build();
        let metrics = Metrics::new();
        let aws = Aws::with_config(fake::https(&[]), &metrics, config);
        assert_eq!(aws.node_identity(), None);
        let provider = aws.config().await.unwrap().credentials_provider().unwrap();
        provider.provide_credentials().await.unwrap();
        let expires_at = Some(UNIX_EPOCH + Duration::from_secs(4000));
        assert_eq!(aws.node_identity(), Some(NodeIdentity { source: "Imds".into(), expires_at }));
        assert_eq!(metrics.node_credentials_expiry.get(), 4000);
    }
}
