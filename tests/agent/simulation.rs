//! Agents and their cloud without sockets, for proofs in which hours pass: time is paused throughout and moves on when everybody
//! waits, so that figures are exact and a day takes seconds.
//!
//! What is left out of an agent is its front: a request goes to the broker, as the front would send it, and the answer is the
//! document. Calls to AWS are the SDK's own, over connections in memory. Keys come from a file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use credlet::app;
use credlet::base::clock::Clock;
use credlet::base::parcel::Unreadable;
use credlet::broker::{Ask, Broker};
use credlet::cache::Cache;
use credlet::cluster::pods::Pods;
use credlet::domain::identity::RawToken;
use credlet::egress::aws::Aws;
use credlet::exchange::Exchanges;
use credlet::grants::Grants;
use credlet::limits::pods::PodRates;
use credlet::limits::upstream::UpstreamBudget;
use credlet::node::source::SourceCheck;
use credlet::node::source::binding::SourceBinding;
use credlet::observe::Context;
use credlet::sim::cloud::{self, Cloud, Conditions};
use credlet::sim::pod::PodSpec;
use credlet::token::Verifier;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::DuplexStream;

use crate::harness::checker::{ANSWER_LIMIT, Checker};
use crate::laboratory::{agent_config, clock, sdk_config};
use crate::world::config;

/// A cloud, the keys of its issuer in a file, and who judges what happens. Time is to be paused.
pub(crate) struct Simulation {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) clock: Clock,
    pub(crate) checker: Checker,
    folder: TempDir,
}

/// An agent's part behind its front. Its tasks end when it is dropped.
pub(crate) struct SimulatedAgent {
    broker: Broker,
    exchanges: Arc<Exchanges>,
    budget: UpstreamBudget,
    context: Context,
}

impl Simulation {
    pub(crate) async fn start(conditions: Conditions) -> Self {
        let clock = clock();
        let cloud = Cloud::start(cloud::Config { clock: clock.clone(), conditions, ..config() }).await.unwrap();
        let checker = Checker::new(clock.clone(), ANSWER_LIMIT);
        let simulation = Self { cloud: Arc::new(cloud), clock, checker, folder: tempfile::tempdir().unwrap() };
        simulation.publish();
        simulation
    }

    /// Puts the issuer's keys where agents read them.
    pub(crate) fn publish(&self) {
        std::fs::write(self.key_file(), self.cloud.keys().jwks().to_string()).unwrap();
    }

    fn key_file(&self) -> PathBuf {
        self.folder.path().join("keys.json")
    }

    /// The agent of a node.
    pub(crate) fn agent(&self, node: &str, flags: &[&str]) -> SimulatedAgent {
        let issuer = format!("--issuer={}={}", self.cloud.issuer(), self.key_file().display());
        let own = [format!("--node-name={node}"), issuer, "--token-verification=local".to_owned()];
        let own: Vec<_> = own.iter().map(String::as_str).collect();
        let config = agent_config(&self.cloud, self.folder.path(), &[&own, flags].concat());
        let context = Context::new(self.clock.clone());
        let sdk = sdk_config(in_memory(&self.cloud), &self.cloud, &self.clock);
        let access = app::access(&config, Aws::with_config(config.https.clone(), &context.metrics, sdk), &context);
        let budget = access.budget.clone();
        let exchanges = Arc::new(Exchanges::new(config.exchange, Arc::clone(&access.aws), budget.clone(), context.clone()));
        let cache = Cache::new(config.cache, Arc::<Exchanges>::clone(&exchanges), context.clone());
        let binding = SourceBinding::new(config.source_binding, &SourceCheck::new(config.front.source_check, &context));
        let broker = Broker {
            verifier: Verifier::start(&config.token, access, &context),
            pods: Pods::unwatched(),
            binding,
            rates: PodRates::new(config.pods),
            grants: Grants::start(config.grants, &cache, &context),
            cache,
            context: context.clone(),
        };
        SimulatedAgent { broker, exchanges, budget, context }
    }

    /// Replaces a node's agent by the next one, which gets all that it holds, as by a handover.
    pub(crate) fn hand_over(&self, agent: &mut SimulatedAgent, node: &str) {
        let next = self.agent(node, &[]);
        next.learn(agent).unwrap();
        *agent = next;
    }

    /// From now on nobody gives keys.
    pub(crate) fn withdraw_keys(&self) {
        std::fs::remove_file(self.key_file()).unwrap();
    }

    /// What `agent` gives for this token of `pod`.
    pub(crate) async fn ask(&self, agent: &SimulatedAgent, pod: &PodSpec, token: &str) -> Result<String, String> {
        self.checker.ask(pod, token, agent.ask(token)).await
    }
}

impl SimulatedAgent {
    fn learn(&self, from: &Self) -> Result<(), Unreadable> {
        self.broker.verifier.import(&from.broker.verifier.export())?;
        self.budget.import(&from.budget.export())?;
        from.exchanges.export().iter().try_for_each(|parcel| self.exchanges.import(parcel))?;
        from.broker.cache.export().try_for_each(|parcel| self.broker.cache.import(&parcel))
    }

    async fn ask(&self, token: &str) -> Result<String, String> {
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ask = Ask { token: RawToken::new(token.as_bytes()), target: None, source, at: self.context.clock.now() };
        let served = self.broker.credentials(ask).await.map_err(|refusal| format!("{refusal:?}"))?;
        Ok(String::from_utf8_lossy(&served.document).into_owned())
    }
}

impl Drop for SimulatedAgent {
    fn drop(&mut self) {
        self.context.tasks.shutdown();
    }
}

/// A pod of `node`.
pub(crate) fn pod_on(node: &str, name: &str) -> PodSpec {
    PodSpec { node: Some(node.to_owned()), ..PodSpec::new("default", "app", name) }
}

/// The SDK's way to `cloud` without sockets.
fn in_memory(cloud: &Arc<Cloud>) -> SharedHttpClient {
    let cloud = Arc::clone(cloud);
    http_client_fn(move |_, _| SharedHttpConnector::new(InMemory(Arc::clone(&cloud))))
}

#[derive(Debug)]
struct InMemory(Arc<Cloud>);

impl HttpConnector for InMemory {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let stream = self.0.connect();
        HttpConnectorFuture::new(async move { exchange(stream, request).await.map_err(ConnectorError::io) })
    }
}

async fn exchange(stream: DuplexStream, request: HttpRequest) -> Result<HttpResponse, BoxError> {
    let mut request = request.try_into_http1x()?;
    let uri = request.uri().clone();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority)?);
    *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = SdkBody::from(body.collect().await?.to_bytes());
        Ok::<_, BoxError>(HttpResponse::try_from(Response::from_parts(head, body))?)
    };
    tokio::join!(connection, exchange).1
}
