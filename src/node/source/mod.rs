//! Whether a connection comes from this node: from one of its pods, or from a process of its own.
//!
//! Linux answers for each of its addresses on every link. A neighbour that routes 169.254.170.23 at the node so reaches the
//! agent, and a token that it has stolen would work there as in the pod.
//!
//! What counts is the kernel's route back to the peer, not what the packets say: a handshake is completed only by whoever that
//! route leads to, so a spoofed source address gains nothing. A peer is this node's own if the route back leads
//!
//! - to the node itself;
//! - over one end of a `veth` or `netkit` pair whose other end is in another network namespace, by a route to this peer alone and
//!   no gateway (VPC CNI, Calico, ptp, kubenet of GKE, Azure, Cilium with endpoint routes). A subnet behind such a link is a
//!   network of somebody else;
//! - over a pair with both its ends in this namespace, by a route to a subnet in which the node itself has the address that the
//!   route names (Cilium without endpoint routes: `cilium_host`, behind which programs of the kernel deliver to the pods). The
//!   subnets of other nodes lead over the same link, but hold no address of this one;
//! - over a `bridge` without a gateway, if all of the bridge's ports are pairs whose other end is in another namespace (bridge
//!   plugin, flannel, kube-router).
//!
//! Everything else is foreign: a link of any other kind (a network card, a bond, a VLAN, a tunnel), one that a default route of
//! the main table leads over, a gateway that is not the node itself, and several links at once.
//!
//! The limits of it: rules that route by marks or by the agent's own address are not taken into account; an IPv6 peer that uses
//! its link-local address is looked for on the link that it came over, where it is own only behind a bridge; the pods of Open
//! vSwitch (Antrea, OVN-Kubernetes) are foreign, for the ports of its switches can't be told from a network card; a Cilium that
//! routes the whole cluster at once (`single-cluster-route`) has all of its pods taken for own ones.
//!
//! When the kernel can't be asked, [`Mode::Enforce`] closes the connection: it was switched on for the sake of those that nobody
//! vouches for, and a pod asks again. An answer counts for seconds, a failure for one connection.

mod kernel;
mod memory;
mod route;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strum::{EnumString, IntoStaticStr};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::base::bucket::Bucket;
use crate::base::clock::Clock;
use crate::node::source::kernel::LookupError;
use crate::node::source::memory::Memory;
use crate::observe::Context;
use crate::observe::metrics::{Finding, Metrics};

/// Questions to the kernel at a time. Each has a socket of its own; more would only wait for each other's locks.
const LOOKUPS: usize = 16;

/// How long a connection waits to be judged. The kernel takes a tenth of a millisecond.
const LIMIT: Duration = Duration::from_millis(250);

/// Log lines of one kind a second: one a minute.
const LINES_PER_SECOND: f64 = 1.0 / 60.0;

/// What is done about connections from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Mode {
    /// Nobody looks.
    Off,
    /// They are served, counted and logged.
    Observe,
    /// They are closed without an answer.
    Enforce,
}

/// Judges connections by where they come from.
#[derive(Debug)]
pub struct SourceCheck {
    mode: Mode,
    memory: Memory,
    lookups: Semaphore,
    clock: Clock,
    metrics: Arc<Metrics>,
    foreign_lines: Mutex<Bucket>,
    failure_lines: Mutex<Bucket>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Peer {
    address: IpAddr,
    /// The index of the link that a link-local IPv6 address belongs to; else 0.
    link: u32,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Own,
    /// Beyond the link of this name.
    Foreign(Arc<str>),
}

impl SourceCheck {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(mode: Mode, context: &Context) -> Self {
        let lines = Bucket::new(LINES_PER_SECOND, 1.0, context.clock.now().mono);
        Self {
            mode,
            memory: Memory::default(),
            lookups: Semaphore::new(LOOKUPS),
            clock: context.clock.clone(),
            metrics: Arc::clone(&context.metrics),
            foreign_lines: Mutex::new(lines.clone()),
            failure_lines: Mutex::new(lines),
        }
    }

    /// What it does about foreign connections.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether a connection from `peer` may be served.
    pub async fn admits(&self, peer: SocketAddr) -> bool {
        if self.mode == Mode::Off {
            return true;
        }
        let peer = Peer::from(peer);
        let origin = self.memory.recall(peer, self.clock.now().mono, || Box::pin(self.look_up(peer)));
        let origin = timeout(LIMIT, origin).await.unwrap_or(Err(LookupError::Late));
        self.rule(peer.address, origin)
    }

    async fn look_up(&self, peer: Peer) -> Result<Origin, LookupError> {
        let _permit = self.lookups.acquire().await;
        Ok(kernel::route_to(peer).await?.origin())
    }

    /// What `origin` means for the connection.
    fn rule(&self, peer: IpAddr, origin: Result<Origin, LookupError>) -> bool {
        match origin {
            Ok(Origin::Own) => true,
            Ok(Origin::Foreign(link)) => self.foreign(peer, &link),
            Err(error) => self.unknown(peer, &error),
        }
    }

    fn foreign(&self, peer: IpAddr, link: &str) -> bool {
        let may_log = self.foreign_lines.lock().take(self.clock.now().mono);
        if self.mode == Mode::Enforce {
            if may_log {
                tracing::warn!(%peer, link, "a connection from outside this node was closed");
            }
            return false;
        }
        self.metrics.front.source_observed(Finding::Foreign);
        if may_log {
            tracing::warn!(%peer, link, "a connection from outside this node; --source-check enforce would close it");
        }
        true
    }

    fn unknown(&self, peer: IpAddr, error: &LookupError) -> bool {
        let closed = self.mode == Mode::Enforce;
        if self.failure_lines.lock().take(self.clock.now().mono) {
            tracing::warn!(%peer, %error, closed, "where a connection comes from can't be found out");
        }
        !closed
    }
}

impl From<SocketAddr> for Peer {
    fn from(peer: SocketAddr) -> Self {
        let link = match peer {
            SocketAddr::V6(ipv6) if ipv6.ip().is_unicast_link_local() => ipv6.scope_id(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
        };
        Self { address: peer.ip().to_canonical(), link }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "192.0.2.1:4711";

    fn check(mode: Mode) -> (SourceCheck, Context) {
        let context = Context::new(Clock::System);
        (SourceCheck::new(mode, &context), context)
    }

    fn foreign() -> Result<Origin, LookupError> {
        Ok(Origin::Foreign("eth0".into()))
    }

    #[tokio::test]
    async fn processes_of_the_node_are_its_own() {
        for mode in [Mode::Off, Mode::Observe, Mode::Enforce] {
            let (check, context) = check(mode);
            for peer in ["127.0.0.1:1", "127.3.2.1:1", "[::ffff:127.0.0.1]:1", "[::1]:1"] {
                assert!(check.admits(peer.parse().unwrap()).await, "{mode:?} {peer}");
            }
            assert!(!context.metrics.encode().unwrap().contains("source_observed_total{"));
        }
    }

    #[tokio::test]
    async fn only_enforcing_closes_and_only_observing_counts() {
        let peer = PEER.parse::<SocketAddr>().unwrap().ip();
        let (observe, context) = check(Mode::Observe);
        assert!(observe.rule(peer, foreign()) && observe.rule(peer, Err(LookupError::Late)));
        let text = context.metrics.encode().unwrap();
        assert!(text.contains("credlet_source_observed_total{finding=\"foreign\"} 1"), "{text}");

        let (enforce, context) = check(Mode::Enforce);
        assert!(enforce.rule(peer, Ok(Origin::Own)));
        assert!(!enforce.rule(peer, foreign()) && !enforce.rule(peer, Err(LookupError::Late)));
        assert!(!context.metrics.encode().unwrap().contains("source_observed_total{"));
    }

    #[test]
    fn a_peer_is_its_address_and_for_a_link_local_one_its_link() {
        let of = |text: &str| Peer::from(text.parse::<SocketAddr>().unwrap());
        assert_eq!(of("[fe80::1%7]:80"), Peer { address: "fe80::1".parse().unwrap(), link: 7 });
        assert_eq!(of("[2001:db8::1%7]:80"), Peer { address: "2001:db8::1".parse().unwrap(), link: 0 });
        assert_eq!(of("[::ffff:192.0.2.1]:80"), of(PEER));
    }

    #[test]
    fn modes_are_spelled_as_the_flag_spells_them() {
        assert_eq!("enforce".parse(), Ok(Mode::Enforce));
        assert_eq!(<&str>::from(Mode::Observe), "observe");
        assert!("Off".parse::<Mode>().is_err());
    }
}
