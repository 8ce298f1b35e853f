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
//! The limits of it: rules that route by marks or by the agent's own address are not taken into account; a connection that is
//! proxied or translated on the node (a proxy with hostNetwork, a userland `NodePort`, a pod that forwards) bears the address of
//! the node or of that pod, and is own; an IPv6 peer that uses its link-local address is looked for on the link that it came over,
//! where it is own only behind a bridge; the pods of Open vSwitch (Antrea, OVN-Kubernetes) are foreign, for the ports of its
//! switches can't be told from a network card; a Cilium that routes the whole cluster at once (`single-cluster-route`) has all of
//! its pods taken for own ones.
//!
//! An answer counts for seconds. When a new one is late or can't be had, the last one stands for a minute: who changes links by
//! the hundred holds up every question about them. A peer of which nothing is known then is closed by [`Mode::Enforce`], which was
//! switched on for the sake of those that nobody vouches for; a pod asks again.

pub mod binding;
mod kernel;
mod memory;
mod origins;
mod pins;
mod route;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use crate::base::bucket::Bucket;
use crate::domain::refusal::Reason;
use crate::node::source::kernel::Kernel;
use crate::node::source::origins::{Answer, Judgement, Origins};
use crate::observe::Context;
use crate::observe::metrics::Finding;

/// What is done about connections from elsewhere (`--source-check`), and about tokens (`--source-binding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Mode {
    /// Nobody looks.
    Off,
    /// They are served, and meanwhile counted and logged.
    Observe,
    /// Connections are closed without an answer, tokens are refused.
    Enforce,
}

/// Judges connections by where they come from.
#[derive(Debug)]
pub struct SourceCheck {
    mode: Mode,
    origins: Arc<Origins>,
    context: Context,
    foreign_lines: Mutex<Bucket>,
    unknown_lines: Mutex<Bucket>,
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
    Own(Place),
    /// Beyond the link of this name.
    Foreign(Arc<str>),
}

/// Where on this node a peer is, as far as links tell pods apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    /// On the node itself: a process of its own, a pod with hostNetwork.
    Node,
    /// Behind a link that leads to one pod alone.
    Pod(LinkName),
    /// Behind a link that leads to many pods.
    Shared,
}

/// The name of a link. Networks that name it after its pod keep it when the pod's sandbox is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Box<str>", into = "Box<str>")]
struct LinkName(Arc<str>);

impl From<Box<str>> for LinkName {
    fn from(name: Box<str>) -> Self {
        Self(name.into())
    }
}

impl From<LinkName> for Box<str> {
    fn from(LinkName(name): LinkName) -> Self {
        (&*name).into()
    }
}

impl SourceCheck {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(mode: Mode, context: &Context) -> Self {
        Self::with(mode, Kernel::default(), context)
    }

    fn with(mode: Mode, kernel: Kernel, context: &Context) -> Self {
        let lines = Bucket::once_a_minute(context.clock.now().mono);
        Self {
            mode,
            origins: Arc::new(Origins::new(kernel, context)),
            context: context.clone(),
            foreign_lines: Mutex::new(lines.clone()),
            unknown_lines: Mutex::new(lines),
        }
    }

    /// What it does about foreign connections.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether a connection from `peer` may be served. It waits for the kernel under [`Mode::Enforce`] only.
    ///
    /// # Errors
    /// Why it has to be closed.
    pub async fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<(), Reason> {
        match self.mode {
            Mode::Off => Ok(()),
            Mode::Observe => {
                self.observe(peer.into());
                Ok(())
            }
            Mode::Enforce => self.enforce(peer.into()).await,
        }
    }

    fn observe(self: &Arc<Self>, peer: Peer) {
        match self.origins.judge(peer) {
            Judgement::Made(answer) => self.count(peer.address, answer),
            Judgement::Coming(look_up) => {
                let check = Arc::clone(self);
                self.context.tasks.spawn(async move { check.count(peer.address, check.origins.wait(peer, look_up).await) });
            }
        }
    }

    async fn enforce(&self, peer: Peer) -> Result<(), Reason> {
        let answer = match self.origins.judge(peer) {
            Judgement::Made(answer) => answer,
            Judgement::Coming(look_up) => self.origins.wait(peer, look_up).await,
        };
        self.finding(peer.address, answer).map_or(Ok(()), |finding| Err(finding.into()))
    }

    fn count(&self, peer: IpAddr, answer: Answer) {
        if let Some(finding) = self.finding(peer, answer) {
            self.context.metrics.front.source_observed(finding);
        }
    }

    /// What there is to say against a connection from `peer`. The log says it too.
    fn finding(&self, peer: IpAddr, answer: Answer) -> Option<Finding> {
        let (now, closed) = (self.context.clock.now().mono, self.mode == Mode::Enforce);
        match answer {
            Ok(Origin::Own(_)) => None,
            Ok(Origin::Foreign(link)) => {
                if self.foreign_lines.lock().take(now) {
                    tracing::warn!(%peer, %link, closed, "a connection from outside this node; --source-check enforce closes it");
                }
                Some(Finding::Foreign)
            }
            Err(error) => {
                if self.unknown_lines.lock().take(now) {
                    tracing::warn!(%peer, %error, closed, "where a connection comes from can't be found out");
                }
                Some(Finding::Unknown)
            }
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self { address: address.to_canonical(), link: 0 }
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
mod tests;
