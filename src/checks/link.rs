//! Where the addresses are that are served: on which link, whether that is up, and whether the main table leads there.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::checks::{Check, Finding, Outcome};
use crate::front;
use crate::node::link::presence::{Bearer, Presence, Trouble, look};
use crate::node::link::{HOSTS, NAME};

/// The kernel answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of the network namespace of whoever reads it.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";

pub(super) const SWITCH_ON: &str = "nothing to do if pods use IPv4, which has to be served then; else switch it on (sysctl \
                                    net.ipv6.conf.all.disable_ipv6=0) and run `credlet initialize`";

const BY_HAND: &str = "see for yourself: ip address show";

/// A finding for each address but those of loopback, which need no link.
pub(super) async fn check(front: &front::Config) -> Vec<Finding> {
    let watched: Vec<IpAddr> = front.hosts.iter().copied().filter(|host| !host.to_canonical().is_loopback()).collect();
    if watched.is_empty() {
        return vec![Finding::ok(Check::Link, "none is needed: only loopback is served")];
    }
    match timeout(PATIENCE, look(&watched)).await {
        Err(_) => vec![Finding::warning(Check::Link, "the kernel does not tell of it in time", BY_HAND)],
        Ok(Ok(presences)) => watched.iter().zip(&presences).map(|(host, presence)| finding(*host, presence, front)).collect(),
        Ok(Err(error)) => vec![Finding::warning(Check::Link, format!("{:#}", anyhow::Error::new(error)), BY_HAND)],
    }
}

/// Whether the kernel has IPv6 and it is not switched off, as far as that can be read.
fn has_ipv6() -> bool {
    match std::fs::read_to_string(NO_IPV6) {
        Ok(text) => text.trim() != "1",
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

pub(super) fn without_ipv6(host: IpAddr) -> String {
    format!("{host} is not there: IPv6 is off on this node")
}

fn finding(host: IpAddr, presence: &Presence, front: &front::Config) -> Finding {
    let severity = if front.requires(host) { Outcome::Failed } else { Outcome::Warning };
    let bad = |outcome, detail| Finding { outcome, ..Finding::failed(Check::Link, detail, remedy(host)) };
    match presence.trouble(host) {
        None => Finding::ok(Check::Link, place(host, presence)),
        Some(Trouble::Unknown(_)) => bad(Outcome::Warning, format!("whether {host} is on this node can't be told")),
        Some(Trouble::Absent(_)) if host.is_ipv6() && !has_ipv6() => {
            Finding { outcome: severity, ..Finding::failed(Check::Link, without_ipv6(host), SWITCH_ON) }
        }
        Some(Trouble::Absent(_)) if matches!(presence, Presence::Absent { has_link: false }) && HOSTS.contains(&host) => {
            bad(severity, format!("{host} is not on this node, and there is no link {NAME}"))
        }
        Some(Trouble::Absent(detail) | Trouble::Down(detail)) => bad(severity, detail),
        // The kernel delivers all the same; only who routes by the main table alone does not get there.
        Some(Trouble::Unrouted(detail)) => bad(Outcome::Warning, detail),
    }
}

fn place(host: IpAddr, presence: &Presence) -> String {
    match presence {
        Presence::On(Bearer { link, route: Some(_), .. }) => format!("{host} is on {link}, which is up and routed"),
        Presence::On(Bearer { link, .. }) => format!("{host} is on {link}, which is up"),
        Presence::Unseen | Presence::Assumed | Presence::Absent { .. } => format!("{host} needs none"),
    }
}

fn remedy(host: IpAddr) -> &'static str {
    match HOSTS.contains(&host) {
        true => "run `credlet initialize` with the capability NET_ADMIN: it makes and mends link, addresses and routes",
        false => "give the node this address, or compare --bind-hosts with those that it has",
    }
}
