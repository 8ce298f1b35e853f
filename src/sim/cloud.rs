//! The simulated cloud as its users hold it.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::AbortOnDropHandle;

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::domain::credential::Session;
use crate::sim::association::Association;
use crate::sim::calls::Call;
use crate::sim::iam::role::Role;
use crate::sim::issuer::JWKS_PATH;
use crate::sim::keys::{Algorithm, Keys};
use crate::sim::script::{Operation, Script};
use crate::sim::server;
use crate::sim::state::State;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stamps tokens and sessions, and judges them and the time of signatures: clients must sign by the same time.
    pub clock: Clock,
    /// Name of the cluster.
    pub cluster: String,
    /// The AWS Region for which requests must be signed.
    pub region: String,
    /// Algorithm of the issuer's first key. RSA keys take a moment to make.
    pub algorithm: Algorithm,
    /// `Cache-Control: max-age` of the issuer's documents.
    pub max_age: Duration,
    /// How the services do to begin with.
    pub conditions: Conditions,
    /// Gets each call when it is answered.
    pub log: Option<UnboundedSender<Call>>,
}

/// How the simulated services do, for calls that the script says nothing about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// How long sessions of Pod Identity live, 59 minutes at most with a target role. STS grants what it is asked for.
    pub lifetime: Duration,
    /// How long AWS takes for any call, scripted ones too.
    pub latency: Duration,
    /// Which part of the calls to AWS, 0 to 1, fails with its internal error.
    pub fail_rate: f64,
    /// How many calls AWS takes from all together; without it any number.
    pub quota: Option<Quota>,
}

/// A token bucket that all calls to AWS share. Those that find it empty are throttled, and take nothing from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// Calls a second.
    pub per_second: f64,
    /// Calls at once.
    pub burst: f64,
    /// What a throttled call is told. EKS Auth and STS tell nothing as a rule.
    pub retry_after: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            clock: Clock::System,
            cluster: "demo".to_owned(),
            region: "us-east-1".to_owned(),
            algorithm: Algorithm::default(),
            max_age: Duration::from_secs(3600),
            conditions: Conditions::default(),
            log: None,
        }
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(6 * 3600), latency: Duration::ZERO, fail_rate: 0.0, quota: None }
    }
}

/// A running cloud: issuer, EKS, EKS Auth and STS on one loopback port. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Cloud {
    state: Arc<State>,
    _server: AbortOnDropHandle<Infallible>,
}

impl Cloud {
    /// Starts a cloud on a free port. In a runtime whose time is paused, waiting for its sockets counts as idle, so that tokio
    /// moves time on to the next timer, a client's timeout perhaps.
    ///
    /// # Errors
    /// When loopback has no free port.
    pub async fn start(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State::new(config, url));
        let server = AbortOnDropHandle::new(tokio::spawn(server::serve(listener, state.clone())));
        Ok(Self { state, _server: server })
    }

    /// A connection without a socket, so that nothing waits for the kernel where time is paused.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        server::connect(&self.state)
    }

    /// The exact `iss` of its tokens, which is also where discovery starts.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.state.issuer
    }

    /// The address of the issuer's key set.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        format!("{}{JWKS_PATH}", self.state.issuer)
    }

    /// The endpoint of EKS Auth.
    #[must_use]
    pub fn eks_auth_url(&self) -> &str {
        &self.state.issuer
    }

    /// The endpoint of the EKS control plane.
    #[must_use]
    pub fn eks_url(&self) -> &str {
        &self.state.issuer
    }

    /// The endpoint of STS.
    #[must_use]
    pub fn sts_url(&self) -> &str {
        &self.state.issuer
    }

    /// Access key and secret of the node: EKS Auth takes calls from nobody else.
    #[must_use]
    pub fn node_credentials(&self) -> (&str, &Secret) {
        let node = &self.state.sessions.node;
        (&node.access_key_id, &node.secret)
    }

    /// The issuer's keys, which make tokens.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.state.keys
    }

    /// Lets EKS Auth and STS accept tokens of a real cluster's `issuer`, besides the cloud's own, by the keys of this JWKS
    /// (RFC 7517 §5). Said again, it replaces that issuer's keys.
    ///
    /// # Errors
    /// When the JWKS holds no key that Kubernetes signs with.
    pub fn trust_issuer(&self, issuer: &str, jwks: &[u8]) -> Result<(), String> {
        self.state.issuers.trust(issuer, jwks)
    }

    /// How calls to come are answered.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.state.script
    }

    /// How the services do at present.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        *self.state.conditions.lock()
    }

    /// Changes how the services do from now on.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.state.set_conditions(conditions);
    }

    /// Gives a service account its Pod Identity association back. Each has one to begin with, of a role that is named like it.
    pub fn associate(&self, namespace: &str, service_account: &str) {
        self.state.associations.lock().remove(&(namespace.to_owned(), service_account.to_owned()));
    }

    /// Gives a service account this Pod Identity association in place of the one that it has.
    pub fn associate_with(&self, namespace: &str, service_account: &str, association: Association) {
        self.state.associations.lock().insert((namespace.to_owned(), service_account.to_owned()), Some(association));
    }

    /// Takes a service account's Pod Identity association away.
    pub fn dissociate(&self, namespace: &str, service_account: &str) {
        self.state.associations.lock().insert((namespace.to_owned(), service_account.to_owned()), None);
    }

    /// Adds a role, or replaces the one of its ARN. Sessions of it stay.
    pub fn put_role(&self, role: Role) {
        self.state.iam.put_role(role);
    }

    /// Makes `issuer` an OpenID Connect provider of an account, for tokens of these audiences. Its keys are the cloud's own, or
    /// those of [`Cloud::trust_issuer`].
    pub fn put_provider(&self, account: &str, issuer: &str, client_ids: &[&str]) {
        self.state.iam.put_provider(account, issuer, client_ids);
    }

    /// All calls so far, in the order in which they arrived.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.all()
    }

    /// How many calls of `operation` have arrived.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.state.calls.count(operation)
    }

    /// Completes once at least `least` calls of `operation` have arrived, answered or not.
    pub async fn reached(&self, operation: Operation, least: usize) {
        self.state.calls.reach(operation, least).await;
    }

    /// Credentials of the node for so long, as SSM gives them to hybrid nodes: EKS Auth takes them as it takes the node's key.
    #[must_use]
    pub fn node_session(&self, lifetime: Duration) -> Session {
        let sessions = &self.state.sessions;
        sessions.issue(&sessions.node.identity, self.state.config.clock.now().wall + lifetime)
    }
}
