//! Every metric of the agent, as one value that is passed in. Label sets are closed enums: no pod, role or account is a label.
//!
//! The exposition format is `OpenMetrics` 1.0. Names and labels are an interface, compared with a checked-in list in a test.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::domain::refusal::Reason;
use crate::observe::process::ProcessCollector;

pub use crate::observe::labels::{CallResult, EvictionCause, Finding, Handover, Limit, Operation, Outcome, Watch};

/// One label: name and value.
pub type Label = [(&'static str, &'static str); 1];
type TwoLabels = [(&'static str, &'static str); 2];

/// All metrics and the registry that encodes them.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// The credentials endpoint.
    pub requests: Requests,
    /// Calls that leave the node.
    pub upstream: Upstream,
    /// The cache and its renewals.
    pub cache: CacheMetrics,
    /// Connections and shed load.
    pub front: FrontMetrics,
    /// The policy file.
    pub policy: PolicyMetrics,
    /// Handovers from and to other agents of the node.
    pub handovers: Handovers,
    /// 1 while EKS Auth is the only verifier of tokens.
    pub verification_delegated: Gauge,
    /// 1 when tokens are held against this node's name.
    pub node_name_known: Gauge,
    /// When the node's own credentials end, Unix seconds; 0 while unknown or endless.
    pub node_credentials_expiry: Gauge,
    watch_synced: Family<Label, Gauge>,
    panics: Family<Label, Counter>,
}

/// `credlet_requests_total` and what goes with it. The handles of each outcome are resolved at construction.
#[derive(Debug)]
pub struct Requests {
    hit: ByOutcome,
    fresh: ByOutcome,
    stale: ByOutcome,
    refused: ByOutcome,
    unavailable: ByOutcome,
    error: ByOutcome,
    refusals: Family<Label, Counter>,
    served_remaining: Histogram,
}

#[derive(Debug)]
struct ByOutcome {
    total: Counter,
    duration: Histogram,
}

/// `credlet_upstream_*`.
#[derive(Debug)]
pub struct Upstream {
    requests: Family<TwoLabels, Counter>,
    duration: Histograms,
    /// Calls under way.
    pub inflight: Gauge,
    /// Calls that wait for a permit of the node's budget.
    pub waiting: Gauge,
}

/// `credlet_cache_*`, `credlet_refresh*` and neighbours.
#[derive(Debug)]
pub struct CacheMetrics {
    /// Entries held.
    pub entries: Gauge,
    evictions: Family<Label, Counter>,
    refreshes: Family<Label, Counter>,
    /// Seconds between when a renewal was due and when it succeeded.
    pub refresh_lag: Histogram,
    /// 1 while renewals rest because the agent's own AWS access is at fault.
    pub renewals_paused: Gauge,
    /// Refusals by AWS that wait for their confirmation while a valid credential is served.
    pub denials_unconfirmed: Counter,
}

/// `credlet_connections*`, `credlet_source_observed_total`, `credlet_sheds_total`, `credlet_listener_up`, `credlet_link_up`.
#[derive(Debug)]
pub struct FrontMetrics {
    /// Open connections.
    pub connections: Gauge,
    /// 1 while each address that is served is where it should be, its link up and its route there.
    pub link_up: Gauge,
    connections_refused: Family<Label, Counter>,
    source_observed: Family<Label, Counter>,
    sheds: Family<Label, Counter>,
    listener_up: Family<Label, Gauge>,
    listeners: Mutex<BTreeMap<IpAddr, bool>>,
}

/// `credlet_policy_*`.
#[derive(Debug)]
pub struct PolicyMetrics {
    /// When the policy in force was read, Unix seconds; 0 without a policy file.
    pub loaded: Gauge,
    /// What is wrong with the file as it is now; then an earlier one is in force.
    pub faults: Gauge,
}

/// `credlet_handovers_total`.
#[derive(Debug)]
pub struct Handovers(Family<Label, Counter>);

/// From 100 µs, where hits are, to the answer deadline and beyond; seconds.
const REQUEST_BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0];
/// From a close endpoint to the longest flight; seconds.
const UPSTREAM_BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The windows in which SDKs refresh, up to the longest session; seconds.
const REMAINING_BUCKETS: [f64; 10] = [60.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0];
/// Seconds to hours; a late renewal is tried again for as long as its credential lives.
const LAG_BUCKETS: [f64; 8] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

type Histograms = Family<Label, Histogram, fn() -> Histogram>;

impl Metrics {
    /// All metrics, registered.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let own = registry.sub_registry_with_prefix("credlet");
        let build = [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("CREDLET_COMMIT"))];
        own.register("build", "What is running", Info::new(build));
        Self {
            requests: Requests::new(own),
            upstream: Upstream::new(own),
            cache: CacheMetrics::new(own),
            front: FrontMetrics::new(own),
            policy: PolicyMetrics::new(own),
            handovers: Handovers(registered(own, "handovers", "Handovers between agents of this node, by result")),
            verification_delegated: registered(own, "verification_delegated", "1 while EKS Auth is the only verifier of tokens"),
            node_name_known: registered(own, "node_name_known", "1 when tokens are held against this node's name"),
            node_credentials_expiry: registered(
                own,
                "node_credentials_expiry_timestamp_seconds",
                "When the node's own credentials end",
            ),
            watch_synced: registered(own, "watch_synced", "1 while a watch of the API server is up to date, by what is watched"),
            panics: registered(own, "panics", "Bugs of credlet that ended a task, by task"),
            registry: Mutex::new(registry),
        }
    }

    /// Says whether a watch is up to date.
    pub fn watch_synced(&self, watch: Watch, synced: bool) {
        self.watch_synced.get_or_create(&[("watch", watch.into())]).set(i64::from(synced));
    }

    /// Adds values that are computed when somebody asks for them; their names bear the prefix already.
    pub fn register_collector(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// Counts a panic in the task of that name.
    pub fn panicked(&self, task: &'static str) {
        self.panics.get_or_create(&[("task", task)]).inc();
    }

    /// The exposition.
    ///
    /// # Errors
    /// When a collector fails to write.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A new metric with its zero value, registered as `name`.
fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    register_as(registry, name, help, M::default())
}

fn register_as<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Requests {
    fn new(registry: &mut Registry) -> Self {
        let total: Family<Label, Counter> = registered(registry, "requests", "Requests to the credentials endpoint, by outcome");
        let duration: Histograms = Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS));
        let duration = register_as(registry, "request_duration_seconds", "From the complete head to the answer", duration);
        let of = |outcome: Outcome| {
            let label = [("outcome", outcome.into())];
            ByOutcome { total: total.get_or_create_owned(&label), duration: duration.get_or_create_owned(&label) }
        };
        Self {
            hit: of(Outcome::Hit),
            fresh: of(Outcome::Fresh),
            stale: of(Outcome::Stale),
            refused: of(Outcome::Refused),
            unavailable: of(Outcome::Unavailable),
            error: of(Outcome::Error),
            refusals: registered(registry, "refusals", "Requests and connections refused, by reason"),
            served_remaining: register_as(
                registry,
                "served_remaining_seconds",
                "Life left on what was served",
                Histogram::new(REMAINING_BUCKETS),
            ),
        }
    }

    /// Counts a finished request.
    pub fn finished(&self, outcome: Outcome, took: Duration) {
        let handles = match outcome {
            Outcome::Hit => &self.hit,
            Outcome::Fresh => &self.fresh,
            Outcome::Stale => &self.stale,
            Outcome::Refused => &self.refused,
            Outcome::Unavailable => &self.unavailable,
            Outcome::Error => &self.error,
        };
        handles.total.inc();
        handles.duration.observe(took.as_secs_f64());
    }

    /// Counts the life left on what was served.
    pub fn served(&self, remaining: Duration) {
        self.served_remaining.observe(remaining.as_secs_f64());
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&[("reason", reason.label())]).inc();
    }
}

impl Upstream {
    fn new(registry: &mut Registry) -> Self {
        let duration: Histograms = Family::new_with_constructor(|| Histogram::new(UPSTREAM_BUCKETS));
        Self {
            requests: registered(registry, "upstream_requests", "Calls that left the node, by operation and result"),
            duration: register_as(registry, "upstream_request_duration_seconds", "How long they took", duration),
            inflight: registered(registry, "upstream_inflight", "Calls to AWS under way"),
            waiting: registered(registry, "upstream_waiting", "Calls to AWS that wait for a permit of the node's budget"),
        }
    }

    /// Counts a finished call.
    pub fn finished(&self, operation: Operation, result: CallResult, took: Duration) {
        let operation: &'static str = operation.into();
        self.requests.get_or_create(&[("operation", operation), ("result", result.into())]).inc();
        self.duration.get_or_create(&[("operation", operation)]).observe(took.as_secs_f64());
    }
}

impl CacheMetrics {
    fn new(registry: &mut Registry) -> Self {
        Self {
            entries: registered(registry, "cache_entries", "Credentials held"),
            evictions: registered(registry, "cache_evictions", "Entries that left, by cause"),
            refreshes: registered(registry, "refreshes", "Renewals, by result"),
            refresh_lag: register_as(
                registry,
                "refresh_lag_seconds",
                "From when a renewal was due to its success",
                Histogram::new(LAG_BUCKETS),
            ),
            renewals_paused: registered(
                registry,
                "renewals_paused",
                "1 while renewals rest for a fault of the agent's AWS access",
            ),
            denials_unconfirmed: registered(
                registry,
                "denials_unconfirmed",
                "Refusals by AWS that a later call has not confirmed yet",
            ),
        }
    }

    /// Counts an entry that left.
    pub fn evicted(&self, cause: EvictionCause) {
        self.evictions.get_or_create(&[("cause", cause.into())]).inc();
    }

    /// Counts a finished renewal.
    pub fn refreshed(&self, result: CallResult) {
        self.refreshes.get_or_create(&[("result", result.into())]).inc();
    }
}

impl FrontMetrics {
    fn new(registry: &mut Registry) -> Self {
        Self {
            connections: registered(registry, "connections", "Open connections to the credentials endpoint"),
            link_up: registered(
                registry,
                "link_up",
                "1 while the addresses that are served are on this node, with link and route",
            ),
            connections_refused: registered(registry, "connections_refused", "Connections closed at once, by limit"),
            source_observed: registered(registry, "source_observed", "Findings about sources that were let pass, by finding"),
            sheds: registered(registry, "sheds", "Requests shed, by limit"),
            listener_up: registered(registry, "listener_up", "1 while the credentials endpoint listens, by address family"),
            listeners: Mutex::default(),
        }
    }

    /// Counts something about a source that was let pass.
    pub fn source_observed(&self, finding: Finding) {
        self.source_observed.get_or_create(&[("finding", finding.into())]).inc();
    }

    /// Counts a connection, or a request, shed by a limit.
    pub(super) fn shed(&self, limit: Limit) {
        let family = if limit.is_of_connections() { &self.connections_refused } else { &self.sheds };
        family.get_or_create(&[("limit", limit.into())]).inc();
    }

    /// Says whether the credentials endpoint listens on this address. A family is up while each of its addresses is.
    pub fn listener_up(&self, address: IpAddr, up: bool) {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let mut listeners = self.listeners.lock();
        listeners.insert(address, up);
        let all_up = listeners.iter().all(|(other, up)| *up || other.is_ipv4() != address.is_ipv4());
        self.listener_up.get_or_create(&[("family", family)]).set(i64::from(all_up));
    }
}

impl Handovers {
    /// Counts one.
    pub fn ended(&self, result: Handover) {
        self.0.get_or_create(&[("result", result.into())]).inc();
    }
}

impl PolicyMetrics {
    fn new(registry: &mut Registry) -> Self {
        Self {
            loaded: registered(registry, "policy_loaded_timestamp_seconds", "When the policy in force was read"),
            faults: registered(registry, "policy_faults", "Faults of the policy file as it is now; an earlier one is in force"),
        }
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
