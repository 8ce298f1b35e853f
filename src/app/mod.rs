//! The agent as a whole: everything is built here, in the order in which it must be there, and nowhere else.
//!
//! Sockets come first, so that a client that calls early waits in a queue and is not refused; what needs the network comes after
//! them, in the background. Where another agent of the node serves, this one stands by until that hands over.

mod succession;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::admin;
use crate::admin::http::{bind, serve};
use crate::admin::metrics;
use crate::admin::probes::Probes;
use crate::admin::status;
use crate::app::succession::Holdings;
use crate::base::duty::Duty;
use crate::broker::Broker;
use crate::cache::Cache;
use crate::cache::status::EarliestExpiry;
use crate::cluster::pods::Pods;
use crate::config::Config;
use crate::domain::mint::Mint;
use crate::egress::aws::Aws;
use crate::exchange::Exchanges;
use crate::front::{self, Front, FrontError};
use crate::grants::Grants;
use crate::limits::pods::PodRates;
use crate::limits::upstream::UpstreamBudget;
use crate::node::handover::{self, Handover};
use crate::node::hardening;
use crate::node::inheritance::{Heir, Inheritance};
use crate::node::source::binding::SourceBinding;
use crate::observe::Context;
use crate::token::{Access, Verifier};

/// How long a stopping agent finishes what is in flight. An answer takes 900 ms at most; the kubelet waits 30 s by default.
const DRAIN: Duration = Duration::from_secs(5);

/// What one source address may hold however few connections there are: an SDK in each of a pod's processes.
const LEAST_PER_SOURCE: usize = 16;
/// Fewer connections than this are too few for a node.
const FEW_CONNECTIONS: usize = 64;

/// Between attempts to find the region, for as long as there is none.
const BETWEEN_LOOKS_FOR_AWS: Duration = Duration::from_secs(30);

/// A running agent.
#[derive(Debug)]
pub struct App {
    context: Context,
    probes: Probes,
    handover: Option<handover::Shared>,
}

impl App {
    /// Binds, builds and serves. Call it inside a runtime.
    ///
    /// # Errors
    /// When a start with the same configuration would fail again.
    pub fn start(config: Config, aws: Aws, context: Context) -> Result<Self, FrontError> {
        let access = access(&config, aws, &context);
        let exchanges = Exchanges::new(config.exchange.clone(), Arc::clone(&access.aws), access.budget.clone(), context.clone());
        let exchanges = Arc::new(exchanges);
        Self::start_from(exchanges.clone(), Some(exchanges), config, access, context)
    }

    /// The same agent, whose credentials `mint` makes.
    ///
    /// # Errors
    /// As [`App::start`].
    pub fn start_with(mint: Arc<dyn Mint>, config: Config, access: Access, context: Context) -> Result<Self, FrontError> {
        Self::start_from(mint, None, config, access, context)
    }

    fn start_from(
        mint: Arc<dyn Mint>,
        exchanges: Option<Arc<Exchanges>>,
        config: Config,
        access: Access,
        context: Context,
    ) -> Result<Self, FrontError> {
        hardening::keep_memory_private();
        let inheritance = Inheritance::default();
        let handover = succession::begin(config.handover_dir.as_deref(), &context);
        let front = within(config.front, hardening::connections_allowed());
        let front = Front::bind(front, &inheritance, context.clone())?;
        let probes = Probes {
            readiness: context.readiness.clone(),
            duty: context.duty.clone(),
            tasks: context.tasks.clone(),
            listeners: front.listeners(),
            nonces: front.nonces(),
        };
        let binding = SourceBinding::new(config.source_binding, front.source_check());
        let source_check = front.source_check().mode();
        let (aws, budget) = (Arc::clone(&access.aws), access.budget.clone());
        let cache = Cache::new(config.cache, mint, context.clone());
        let broker = Arc::new(Broker {
            verifier: Verifier::start(&config.token, access, &context),
            pods: Pods::start(config.pod_watch, &cache, &binding, &context),
            binding,
            rates: PodRates::new(config.pods),
            grants: Grants::start(config.grants, &cache, &context),
            cache,
            context: context.clone(),
        });
        front.serve(Arc::clone(&broker));
        warm_up(&aws, &context);
        context.metrics.register_collector(Box::new(EarliestExpiry(broker.cache.clone())));
        let started = context.clock.now();
        let holdings = Holdings::new(Arc::clone(&broker), budget.clone(), exchanges);
        let shared = handover.as_ref().map(Handover::shared);
        let sources =
            status::Sources { started, probes: probes.clone(), source_check, broker, aws, budget, handover: shared.clone() };
        serve_operators(&config.admin, sources, &inheritance, &context);
        if let Some(handover) = handover {
            handover.run(inheritance, Box::new(holdings), &context);
        }
        Ok(Self { context, probes, handover: shared })
    }

    /// The addresses on which credentials are served at the moment.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.probes.listeners.addresses()
    }

    /// What the probes see.
    #[must_use]
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Finishes a handover that is under way, stops accepting, finishes what is in flight, and gives up after 5 s.
    pub async fn stop(self) {
        if let Some(handover) = &self.handover {
            handover.terminate().await;
        }
        self.context.tasks.shutdown();
        tracing::info!("stopping: what is in flight is finished");
        if tokio::time::timeout(DRAIN, self.context.tasks.drained()).await.is_err() {
            tracing::warn!("stopped with work in flight");
        }
        if let Some(handover) = &self.handover {
            handover.leave().await;
        }
    }
}

/// The ways out of an agent that is configured so.
#[must_use]
pub fn access(config: &Config, aws: Aws, context: &Context) -> Access {
    let budget = UpstreamBudget::new(config.upstream, context.clone());
    Access { http: config.https.clone(), aws: Arc::new(aws), budget }
}

/// Finds the region before the first pod needs it, and tells for as long as it can't be found.
fn warm_up(aws: &Arc<Aws>, context: &Context) {
    let (aws, part, shutdown) = (Arc::clone(aws), context.readiness.advisory("access to AWS"), context.tasks.shutting_down());
    let found = async move {
        while let Err(error) = aws.config().await {
            tracing::error!(%error, "no access to AWS");
            part.pending(error.to_string());
            tokio::time::sleep(BETWEEN_LOOKS_FOR_AWS).await;
        }
        part.ready();
    };
    context.tasks.spawn(async move {
        tokio::select! {
            () = found => (),
            () = shutdown => (),
        }
    });
}

/// No more connections than are `allowed`, and one source never more than an eighth of those: it must not shut the others out.
fn within(config: front::Config, allowed: usize) -> front::Config {
    let max_connections = config.max_connections.min(allowed);
    let max_connections_per_source = config.max_connections_per_source.min((max_connections / 8).max(LEAST_PER_SOURCE));
    if max_connections < FEW_CONNECTIONS {
        tracing::warn!(
            max_connections,
            "the limit of descriptors (ulimit -n) leaves few connections for this node's pods: raise it"
        );
    }
    front::Config { max_connections, max_connections_per_source, ..config }
}

fn serve_operators(config: &admin::Config, sources: status::Sources, inheritance: &Inheritance, context: &Context) {
    for address in config.probe_addresses() {
        let probes = sources.probes.clone();
        serve_port("probes", inheritance.heir(address), context, move |path| {
            let probes = probes.clone();
            async move { probes.answer(&path).await }
        });
    }
    if let Some(address) = config.metrics {
        let all = Arc::clone(&context.metrics);
        serve_port("metrics", inheritance.heir(address), context, move |path| std::future::ready(metrics::answer(&all, &path)));
    }
    serve_status(config, sources, context);
}

fn serve_port<A, F>(name: &'static str, heir: Heir, context: &Context, answer: A)
where
    A: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = admin::http::Answer> + Send + 'static,
{
    let part = context.readiness.advisory(format!("{name} {}", heir.address()));
    let (duty, tasks) = (context.duty.clone(), context.tasks.clone());
    context.tasks.spawn_critical(name, async move {
        let listener = tokio::select! {
            listener = bind(heir, &duty, &part) => listener,
            () = tasks.shutting_down() => return,
        };
        match listener {
            Some(listener) => serve(listener, duty, tasks, answer).await,
            None => tasks.shutting_down().await,
        }
    });
}

fn serve_status(config: &admin::Config, sources: status::Sources, context: &Context) {
    match status::bind(&config.run_dir) {
        Ok(listener) => {
            let answer = move |path: String| {
                let sources = sources.clone();
                async move { sources.answer(&path).await }
            };
            // Its own, whoever serves.
            let always = Duty::serving();
            context.tasks.spawn_critical("status", serve(listener, always, context.tasks.clone(), answer));
        }
        Err(error) => {
            let run_dir = config.run_dir.display();
            tracing::warn!(%run_dir, %error, "no status socket: the run directory can't be used");
            context.readiness.advisory("status").pending(format!("{run_dir}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::source;

    #[test]
    fn one_source_has_an_eighth_of_what_descriptors_allow() {
        let config = front::Config {
            hosts: Vec::new(),
            port: 80,
            only_local: false,
            source_check: source::Mode::Observe,
            max_connections: 2_048,
            max_connections_per_source: 256,
        };
        for (allowed, total, per_source) in [(1_000_000, 2_048, 256), (896, 896, 112), (64, 64, 16), (0, 0, 16)] {
            let config = within(config.clone(), allowed);
            assert_eq!((config.max_connections, config.max_connections_per_source), (total, per_source), "{allowed}");
        }
    }
}
