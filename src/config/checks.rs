//! Each flag's meaning. A check that fails notes the fault and goes on, so that the next one is told too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use url::Url;

use crate::egress::fetch::is_private;
use crate::grants::file::PolicyFile;
use crate::observe::logging::Format;
use crate::token::{IssuerConfig, KeySource, Mode};

/// Rates a second that make sense: less than one in 100 s serves nobody, and no node does more than the most.
const RATES: RangeInclusive<f64> = 0.01..=1e6;

/// Addresses to serve on: with those of probes and metrics, as many sockets as one agent hands to another in one message.
const MOST_HOSTS: usize = 12;

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) faults: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Checks {
    /// Notes a fault of `flag`.
    pub(super) fn fault(&mut self, flag: &str, fault: impl std::fmt::Display) {
        self.faults.push(format!("--{flag}: {fault}"));
    }

    /// Notes something legal that an operator should know.
    pub(super) fn warn(&mut self, flag: &str, warning: &str) {
        self.warnings.push(format!("--{flag}: {warning}"));
    }

    /// The value, or a fault that says what was expected.
    pub(super) fn parse<T: FromStr>(&mut self, flag: &str, text: &str, expected: &str) -> Option<T> {
        let value = text.trim().parse().ok();
        if value.is_none() {
            self.fault(flag, format!("{text:?} is not {expected}"));
        }
        value
    }

    /// A kubelet that probes the credentials endpoint would learn nothing.
    pub(super) fn distinct(&mut self, ports: &[(&str, u16)]) {
        for (at, (flag, port)) in ports.iter().enumerate().filter(|(_, (_, port))| *port != 0) {
            for (earlier, _) in ports.iter().take(at).filter(|(_, earlier)| earlier == port) {
                self.fault(flag, format!("{port} is the port of --{earlier} already"));
            }
        }
    }

    pub(super) fn port(&mut self, flag: &str, text: &str) -> Option<u16> {
        self.parse(flag, text, "a port (0 to 65535)")
    }

    /// A rate of calls or requests a second, within [`RATES`].
    pub(super) fn rate(&mut self, flag: &str, text: &str) -> Option<f64> {
        let rate: f64 = self.parse(flag, text, "a number")?;
        let fits = RATES.contains(&rate);
        if !fits {
            self.fault(flag, format!("{text:?} is not a rate of {} to {} a second", RATES.start(), RATES.end()));
        }
        fits.then_some(rate)
    }

    /// A flag that is on or off.
    pub(super) fn switch(&mut self, flag: &str, text: &str) -> Option<bool> {
        let on = switch(text);
        if on.is_none() {
            self.fault(flag, format!("{text:?} is not true or false"));
        }
        on
    }

    /// EKS's own rule for names (API `AssumeRoleForPodIdentity`, parameter `clusterName`).
    pub(super) fn cluster_name(&mut self, name: Option<&str>) -> Option<Arc<str>> {
        let name = name?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let starts = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if starts && name.len() <= 100 && name.bytes().all(known) {
            return Some(name.into());
        }
        self.fault("cluster-name", format!("{name:?} is not a name of 1 to 100 letters, digits, '-' and '_'"));
        None
    }

    /// The policy file, read whole; `None` with each of its faults noted.
    pub(super) fn policy(&mut self, path: &str, cluster: Option<&str>) -> Option<PolicyFile> {
        let file = PolicyFile::open(Path::new(path), cluster.map(Arc::from));
        file.map_err(|faults| faults.iter().for_each(|fault| self.fault("policy", format!("{path}: {fault}")))).ok()
    }

    /// Addresses to serve on. Everything but exact addresses would serve credentials to the network.
    pub(super) fn hosts(&mut self, hosts: &[String]) -> Vec<IpAddr> {
        let mut parsed = Vec::new();
        for host in hosts.iter().map(|host| host.trim()).filter(|host| !host.is_empty()) {
            match address(host) {
                Some(address) if address.is_unspecified() || address.is_multicast() => {
                    self.fault("bind-hosts", format!("{host:?} is every address of the node; name the ones to serve on"));
                }
                Some(address) if parsed.contains(&address) => (),
                Some(address) => parsed.push(address),
                None => self.fault("bind-hosts", format!("{host:?} is not an IP address")),
            }
        }
        if parsed.is_empty() && self.faults.is_empty() {
            self.fault("bind-hosts", "names no address");
        }
        if parsed.len() > MOST_HOSTS {
            self.fault("bind-hosts", format!("names {} addresses, and {MOST_HOSTS} are the most", parsed.len()));
        }
        parsed
    }

    /// `None` for port 0, which switches metrics off.
    pub(super) fn metrics(&mut self, address: &str, port: &str) -> Option<SocketAddr> {
        let host = self::address(address.trim());
        if host.is_none() {
            self.fault("metrics-address", format!("{address:?} is not an IP address"));
        }
        let port = self.port("metrics-port", port).filter(|port| *port != 0);
        Some(SocketAddr::new(host?, port?))
    }

    /// `ISS` or `ISS=KEYS`. An issuer's URL holds no `=`: OpenID Connect gives it no query.
    pub(super) fn issuers(&mut self, issuers: &[String]) -> Vec<IssuerConfig> {
        let given: Vec<_> = issuers.iter().map(|issuer| issuer.trim()).filter(|issuer| !issuer.is_empty()).collect();
        let mut parsed: Vec<IssuerConfig> = Vec::new();
        for issuer in given {
            let (issuer, keys) = issuer.split_once('=').map_or((issuer, None), |(issuer, keys)| (issuer, Some(keys)));
            let source = match keys {
                Some(keys) => self.keys(keys),
                None => self.discovery(issuer),
            };
            let Some(source) = source else { continue };
            match parsed.iter_mut().find(|known| &*known.issuer == issuer) {
                Some(known) => known.sources.push(source),
                None => parsed.push(IssuerConfig { issuer: issuer.into(), sources: vec![source] }),
            }
        }
        parsed
    }

    fn keys(&mut self, keys: &str) -> Option<KeySource> {
        match Url::parse(keys) {
            Ok(url) if is_private(&url) => Some(KeySource::Url(url)),
            Ok(_) => {
                self.fault("issuer", format!("keys at {keys:?}: only https is fetched, and http from loopback"));
                None
            }
            Err(_) if keys.is_empty() => {
                self.fault("issuer", "nothing behind '='; name a JWKS URL or file, or leave '=' out for OIDC discovery");
                None
            }
            Err(_) => Some(KeySource::File(PathBuf::from(keys))),
        }
    }

    fn discovery(&mut self, issuer: &str) -> Option<KeySource> {
        if Url::parse(issuer).is_ok_and(|url| is_private(&url)) {
            return Some(KeySource::Discovery);
        }
        self.fault("issuer", format!("{issuer:?} is no https URL, so it can't be discovered; name its keys: {issuer}=JWKS"));
        None
    }

    pub(super) fn audiences(&mut self, audiences: &[String]) -> Vec<Arc<str>> {
        let mut parsed: Vec<Arc<str>> = Vec::new();
        for audience in audiences.iter().map(|audience| audience.trim()).filter(|audience| !audience.is_empty()) {
            if !parsed.iter().any(|known| &**known == audience) {
                parsed.push(audience.into());
            }
        }
        if parsed.is_empty() {
            self.fault("audience", "names no audience");
        }
        parsed
    }

    pub(super) fn mode(&mut self, mode: &str) -> Option<Mode> {
        match mode.trim() {
            "auto" => Some(Mode::Auto),
            "local" => Some(Mode::Local),
            "delegated" => Some(Mode::Delegated),
            other => {
                self.fault("token-verification", format!("{other:?} is not auto, local or delegated"));
                None
            }
        }
    }

    pub(super) fn endpoint(&mut self, endpoint: Option<&str>) -> Option<Url> {
        let url: Url = self.parse("endpoint", endpoint?, "a URL")?;
        if matches!(url.scheme(), "http" | "https") && url.has_host() {
            return Some(url);
        }
        self.fault("endpoint", format!("{url} is not an http or https URL"));
        None
    }

    /// `90m`, `3h`, or Go's `3h0m0s`; 0 needs no unit.
    pub(super) fn duration(&mut self, flag: &str, text: Option<&str>) -> Option<Duration> {
        let text = text?.trim();
        match humantime::parse_duration(text) {
            _ if text == "0" => Some(Duration::ZERO),
            Ok(duration) => Some(duration),
            Err(_) => {
                self.fault(flag, format!("{text:?} is not a duration such as 90m or 3h"));
                None
            }
        }
    }

    /// In upper or lower case. The incumbent's `panic`, which logs nothing less, is our `error`.
    pub(super) fn level(&mut self, level: &str) -> Option<LevelFilter> {
        match level.trim().to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => Some(LevelFilter::ERROR),
            "warn" | "warning" => Some(LevelFilter::WARN),
            "info" => Some(LevelFilter::INFO),
            "debug" => Some(LevelFilter::DEBUG),
            "trace" => Some(LevelFilter::TRACE),
            other => {
                self.fault("verbosity", format!("{other:?} is not error, warn, info, debug or trace"));
                None
            }
        }
    }

    pub(super) fn format(&mut self, format: &str) -> Option<Format> {
        match format.trim() {
            "json" => Some(Format::Json),
            "text" => Some(Format::Text),
            other => {
                self.fault("log-format", format!("{other:?} is not json or text"));
                None
            }
        }
    }
}

/// `true` or `false`, as Go's flags take them too.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "TRUE" | "True" | "t" | "T" | "1" => Some(true),
        "false" | "FALSE" | "False" | "f" | "F" | "0" => Some(false),
        _ => None,
    }
}

/// The address that `host` is or, of all names, that `localhost` stands for: a start must not wait for DNS.
fn address(host: &str) -> Option<IpAddr> {
    if host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { bare(host).parse().ok() }
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
