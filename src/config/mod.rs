//! Flags and environment, checked into one [`Config`] of the components' own configs.
//!
//! Everything is read as text first and checked here, so that an operator sees all faults of a configuration at once and not one
//! a restart.

mod checks;
pub mod flags;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;

use crate::admin;
use crate::cache;
use crate::cluster::pods;
use crate::config::checks::{Checks, switch};
use crate::config::flags::{LogFlags, ServerFlags};
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::egress::aws::Source;
use crate::egress::https::Https;
use crate::egress::{Lookup, own_endpoint};
use crate::exchange;
use crate::front;
use crate::grants;
use crate::limits;
use crate::node::source;
use crate::observe::logging;
use crate::token;

/// Where Kubernetes mounts a pod's own service account token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Verified tokens remembered for each pod: an old and a new one overlap, for each of two audiences.
const TOKENS_PER_POD: usize = 4;
/// Pods whose tokens are remembered however small the cache is.
const LEAST_PODS: usize = 256;

/// What of one pod alone can't be done where tokens are not read here.
const KNOWS_NO_POD: &str = "has no effect with --token-verification delegated, where no pod is known by its token";

/// Open connections of a node's pods. All of them with a head of 31 KB that never ends, and all ending at once, take 171 MB of the
/// 256 MiB that the chart allows. The limit of descriptors may allow fewer.
const MAX_CONNECTIONS: usize = 2_048;
/// Open connections of one source address, which is one pod on most networks: many times what SDKs hold open.
const MAX_CONNECTIONS_PER_SOURCE: usize = 256;

/// A checked configuration of the agent.
#[derive(Debug)]
pub struct Config {
    /// The credentials endpoint.
    pub front: front::Config,
    /// Probes, metrics, status.
    pub admin: admin::Config,
    /// Proof of tokens.
    pub token: token::Config,
    /// What callers may have.
    pub grants: grants::Config,
    /// Calls to AWS.
    pub exchange: exchange::Config,
    /// Credentials held.
    pub cache: cache::Config,
    /// What is done about tokens from elsewhere than their pod.
    pub source_binding: source::Mode,
    /// `--pod-watch`: whose pods are watched, and where.
    pub pod_watch: Option<pods::Config>,
    /// Requests of one pod.
    pub pods: limits::pods::Config,
    /// Calls of this node.
    pub upstream: limits::upstream::Config,
    /// The way out of the node, as the environment describes it.
    pub https: Https,
    /// Where the agent's own credentials come from.
    pub node_credentials: Source,
    /// `--handover-dir`.
    pub handover_dir: Option<PathBuf>,
    /// Logs.
    pub logging: logging::Config,
    /// What is legal but deserves a word.
    pub warnings: Vec<String>,
}

/// All that is wrong with a configuration; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

impl Config {
    /// Checks the flags of `credlet server` and the variables that go with them.
    ///
    /// # Errors
    /// Every fault, each naming its flag or variable.
    pub fn of_server(flags: &ServerFlags, variable: Lookup<'_>) -> Result<Self, Faults> {
        let mut checks = Checks::default();
        match server(&mut checks, flags, variable) {
            Some(config) if checks.faults.is_empty() => Ok(Self { warnings: checks.warnings, ..config }),
            _ => Err(Faults(checks.faults)),
        }
    }
}

impl LogFlags {
    /// Checks them by themselves, for commands that take no others.
    ///
    /// # Errors
    /// Every fault, each naming its flag.
    pub fn check(&self) -> Result<logging::Config, Faults> {
        let mut checks = Checks::default();
        logging(&mut checks, self).ok_or(Faults(checks.faults))
    }
}

fn addresses(front: &front::Config) -> Vec<SocketAddr> {
    front.hosts.iter().map(|host| SocketAddr::new(*host, front.port)).collect()
}

/// `None` only with a fault noted.
fn server(checks: &mut Checks, flags: &ServerFlags, variable: Lookup<'_>) -> Option<Config> {
    let front = front(checks, flags, variable);
    let admin = admin(checks, flags);
    let cache = cache(checks, flags);
    let grants = grants(checks, flags, variable);
    let cluster_name = grants.cluster_name.clone();
    let token = token(checks, flags, variable, cluster_name.clone(), cache.as_ref().map_or(0, |cache| cache.capacity));
    let source_binding = source_binding(checks, flags);
    let pod_watch = pod_watch(checks, flags, variable);
    let exchange = exchange::Config { cluster_name, endpoint: checks.endpoint(flags.endpoint.as_deref()) };
    let pod_rate = checks.rate("pod-rate", &flags.pod_rate);
    let service_rate = checks.rate("max-service-qps", &flags.max_service_qps);
    let logging = logging(checks, &flags.log);
    let https = https(checks, variable);
    let node_credentials = node_credentials(checks, flags, variable);
    if let (Some(front), Some(admin)) = (&front, &admin) {
        checks.distinct(&[("port", front.port), ("probe-port", admin.probe_port), ("metrics-port", admin.metrics_port())]);
    }
    Some(Config {
        front: front?,
        admin: admin?,
        token: token?,
        grants,
        exchange,
        cache: cache?,
        source_binding: source_binding?,
        pod_watch,
        pods: limits::pods::Config { per_second: pod_rate? },
        upstream: limits::upstream::Config { per_second: service_rate? },
        https: https?,
        node_credentials: node_credentials?,
        handover_dir: flags.handover_dir.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from),
        logging: logging?,
        warnings: Vec::new(),
    })
}

fn front(checks: &mut Checks, flags: &ServerFlags, variable: Lookup<'_>) -> Option<front::Config> {
    let hosts = checks.hosts(&flags.bind_hosts);
    let port = checks.port("port", &flags.port);
    let source_check = checks.parse("source-check", &flags.source_check, "off, observe or enforce");
    let (port, source_check) = (port?, source_check?);
    let (max_connections, max_connections_per_source) = (MAX_CONNECTIONS, MAX_CONNECTIONS_PER_SOURCE);
    let config = front::Config { hosts, port, only_local: false, source_check, max_connections, max_connections_per_source };
    if let Err(error) = own_endpoint::refuse(variable, &addresses(&config)) {
        checks.faults.push(error.to_string());
    }
    Some(config)
}

fn https(checks: &mut Checks, variable: Lookup<'_>) -> Option<Https> {
    let https = Https::new(variable);
    https.map_err(|errors| checks.faults.extend(errors.iter().map(ToString::to_string))).ok()
}

fn node_credentials(checks: &mut Checks, flags: &ServerFlags, variable: Lookup<'_>) -> Option<Source> {
    let flag = "rotate-credentials";
    if !checks.switch(flag, &flags.rotate_credentials)? {
        return Some(Source::Standard);
    }
    let file = shared_credentials_file(variable);
    if file.is_none() {
        checks.fault(flag, "where the shared credentials file is, neither AWS_SHARED_CREDENTIALS_FILE nor HOME tell");
    }
    file.map(Source::RotatedFile)
}

/// As the SDKs find it: <https://docs.aws.amazon.com/sdkref/latest/guide/file-location.html>
fn shared_credentials_file(variable: Lookup<'_>) -> Option<PathBuf> {
    let path = variable("AWS_SHARED_CREDENTIALS_FILE").unwrap_or_else(|| "~/.aws/credentials".to_owned());
    match path.strip_prefix("~/") {
        Some(below_home) => Some(PathBuf::from(variable("HOME")?).join(below_home)),
        None => Some(PathBuf::from(path)),
    }
}

fn admin(checks: &mut Checks, flags: &ServerFlags) -> Option<admin::Config> {
    let metrics = checks.metrics(&flags.metrics_address, &flags.metrics_port);
    Some(admin::Config {
        probe_port: checks.port("probe-port", &flags.probe_port)?,
        metrics,
        run_dir: PathBuf::from(&flags.run_dir),
    })
}

fn cache(checks: &mut Checks, flags: &ServerFlags) -> Option<cache::Config> {
    let retention = "max-credential-retention-before-renewal";
    let longest_retention = checks.duration(retention, flags.max_credential_retention_before_renewal.as_deref());
    let capacity = checks.parse("max-cache-size", &flags.max_cache_size, "a count");
    let off = "0 switches caching off: every request becomes a call to AWS";
    if capacity == Some(0) {
        checks.warn("max-cache-size", off);
    }
    if longest_retention.is_some_and(|longest| longest.is_zero()) {
        checks.warn(retention, off);
    }
    Some(cache::Config { capacity: capacity?, longest_retention })
}

fn grants(checks: &mut Checks, flags: &ServerFlags, variable: Lookup<'_>) -> grants::Config {
    let cluster_name = checks.cluster_name(flags.cluster_name.as_deref());
    let by_annotation = checks.switch("service-account-roles", &flags.service_account_roles).unwrap_or_default();
    if flags.cluster_name.is_none() && !is_ruled(flags) {
        checks.fault("cluster-name", "is needed where neither --policy nor --service-account-roles lead to a role");
    }
    let policy = flags.policy.as_deref().and_then(|path| checks.policy(path, flags.cluster_name.as_deref()));
    let service_accounts = if by_annotation { api_server(variable) } else { None };
    if by_annotation && service_accounts.is_none() {
        checks.fault("service-account-roles", "needs the API server: mount a service account token");
    }
    grants::Config { cluster_name, policy, service_accounts }
}

fn logging(checks: &mut Checks, flags: &LogFlags) -> Option<logging::Config> {
    let (level, format) = (checks.level(&flags.verbosity), checks.format(&flags.log_format));
    Some(logging::Config { level: level?, format: format? })
}

fn token(
    checks: &mut Checks,
    flags: &ServerFlags,
    variable: Lookup<'_>,
    cluster: Option<Arc<str>>,
    capacity: usize,
) -> Option<token::Config> {
    let issuers = checks.issuers(&flags.issuer);
    let audiences = checks.audiences(&flags.audience);
    if !leads_anywhere(&audiences, flags) {
        checks.warn("audience", "without pods.eks.amazonaws.com no token leads to a role");
    }
    let mode = mode(checks, flags)?;
    let node_name = node_name(flags, variable);
    let api_server = api_server(variable).filter(|_| mode != token::Mode::Delegated);
    if mode == token::Mode::Delegated && !issuers.is_empty() {
        checks.fault("issuer", "has no effect with --token-verification delegated");
    }
    if mode == token::Mode::Local && issuers.is_empty() && api_server.is_none() && flags.cluster_name.is_none() {
        checks.fault(
            "token-verification",
            "local needs keys (without --cluster-name it is always local): name an --issuer or a --cluster-name, or mount a service \
             account token",
        );
    }
    let memo_capacity = TOKENS_PER_POD.saturating_mul(capacity.max(LEAST_PODS));
    Some(token::Config { audiences, node_name, mode, issuers, api_server, cluster, memo_capacity })
}

fn node_name(flags: &ServerFlags, variable: Lookup<'_>) -> Option<String> {
    flags.node_name.clone().or_else(|| variable("NODE_NAME")).filter(|name| !name.is_empty())
}

fn source_binding(checks: &mut Checks, flags: &ServerFlags) -> Option<source::Mode> {
    let mode = checks.parse("source-binding", &flags.source_binding, "off, observe or enforce")?;
    if mode == source::Mode::Enforce && is_delegated(flags) {
        checks.fault("source-binding", KNOWS_NO_POD);
    }
    Some(mode)
}

/// `None` without the flag, and with a fault noted.
fn pod_watch(checks: &mut Checks, flags: &ServerFlags, variable: Lookup<'_>) -> Option<pods::Config> {
    let flag = "pod-watch";
    if !checks.switch(flag, &flags.pod_watch)? {
        return None;
    }
    let (server, node_name) = (api_server(variable), node_name(flags, variable));
    if server.is_none() {
        checks.fault(flag, "needs the API server: mount a service account token");
    }
    if node_name.is_none() {
        checks.fault(flag, "needs this node's name: give --node-name, or NODE_NAME from the pod's spec.nodeName");
    }
    if is_delegated(flags) {
        checks.fault(flag, KNOWS_NO_POD);
    }
    Some(pods::Config { server: server?, node_name: node_name? })
}

/// Whether only EKS Auth ever verifies tokens.
fn is_delegated(flags: &ServerFlags) -> bool {
    flags.token_verification.trim() == "delegated"
}

/// Delegated verification asks EKS Auth, which wants the cluster's name.
fn mode(checks: &mut Checks, flags: &ServerFlags) -> Option<token::Mode> {
    let mode = checks.mode(&flags.token_verification)?;
    match mode {
        // With nothing else to lead to a role, its absence is the fault that is told.
        _ if flags.cluster_name.is_some() || !is_ruled(flags) => Some(mode),
        token::Mode::Auto | token::Mode::Local => Some(token::Mode::Local),
        token::Mode::Delegated => {
            checks.fault("token-verification", "delegated needs --cluster-name: EKS Auth looks up roles by it");
            None
        }
    }
}

fn leads_anywhere(audiences: &[Arc<str>], flags: &ServerFlags) -> bool {
    let by_itself = audiences.is_empty() || audiences.iter().any(|audience| &**audience == POD_IDENTITY_AUDIENCE);
    by_itself || is_ruled(flags)
}

/// Whether anything but the token's audience leads to a role.
fn is_ruled(flags: &ServerFlags) -> bool {
    flags.policy.is_some() || switch(&flags.service_account_roles) != Some(false)
}

/// The API server, when the kubelet told where it is and a service account token is mounted.
fn api_server(variable: Lookup<'_>) -> Option<Arc<token::ApiServer>> {
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = Url::parse(&format!("https://{host}:{port}")).ok()?;
    let [token_file, ca_file] = ["token", "ca.crt"].map(|file| Path::new(SERVICE_ACCOUNT).join(file));
    token_file.exists().then(|| Arc::new(token::ApiServer { url, token_file, ca_file }))
}
