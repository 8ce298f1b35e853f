//! What operators ask: probes, metrics and status, each where only they reach it.
//!
//! Probes listen on loopback, status on a socket in a folder of this process's user, metrics wherever Prometheus needs them. None
//! of them is needed to serve pods: a port that is taken is told and tried again, never fatal.

pub mod http;
pub mod metrics;
pub mod probes;
pub mod status;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Where operators ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `--probe-port`, on loopback.
    pub probe_port: u16,
    /// `--metrics-address` and `--metrics-port`; `None` when the port is 0.
    pub metrics: Option<SocketAddr>,
    /// `--run-dir`.
    pub run_dir: PathBuf,
}

impl Config {
    /// The port of `/metrics`; 0 when it is switched off.
    #[must_use]
    pub fn metrics_port(&self) -> u16 {
        self.metrics.map_or(0, |address| address.port())
    }

    /// Where probes are answered.
    #[must_use]
    pub fn probe_addresses(&self) -> [SocketAddr; 2] {
        probe_addresses(self.probe_port)
    }
}

/// Loopback in both families: the kubelet's `localhost` may be either.
fn probe_addresses(port: u16) -> [SocketAddr; 2] {
    [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].map(|host| SocketAddr::new(host, port))
}
