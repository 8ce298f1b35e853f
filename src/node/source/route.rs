//! A route as the kernel tells it, and whether it leads to something of this node's own.

use std::net::IpAddr;
use std::sync::Arc;

use crate::node::source::{LinkName, Origin, Place};

/// Where what is for a peer is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// To this node itself.
    Local,
    /// Over a link.
    Over(Way),
}

/// A route over a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) destination: Prefix,
    pub(super) gateway: Option<Gateway>,
    /// The address of this node that the route prefers.
    pub(super) source: Option<IpAddr>,
    pub(super) link: Link,
}

/// The addresses that a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    /// In bits.
    pub(super) length: u8,
}

/// The next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gateway {
    /// This node, by one of its addresses: the same as none.
    Own(IpAddr),
    /// Somebody else.
    Other,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: Arc<str>,
    pub(super) kind: Kind,
    /// Whether a default route leads over it too.
    pub(super) bears_default: bool,
}

/// What a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A pair of links, to another network namespace.
    Pair,
    /// A pair of links, back into this network namespace.
    Loop,
    /// A bridge; of pairs if all of its ports are such to other network namespaces.
    Bridge { of_pairs: bool },
    /// Anything else.
    Other,
}

impl Route {
    /// Where a peer is to whom this is the route.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Local => Origin::Own(Place::Node),
            Self::Over(way) if way.leads_to_own_pods() => Origin::Own(way.link.place()),
            Self::Over(way) => Origin::Foreign(Arc::clone(&way.link.name)),
        }
    }
}

impl Way {
    fn leads_to_own_pods(&self) -> bool {
        let link = &self.link;
        let direct = self.gateway != Some(Gateway::Other) && !link.bears_default;
        direct
            && match link.kind {
                Kind::Pair => self.destination.is_one_host(),
                Kind::Loop => self.own_addresses().any(|own| self.destination.holds(own)),
                Kind::Bridge { of_pairs } => of_pairs,
                Kind::Other => false,
            }
    }

    /// Those of this node that the route names.
    fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let gateway = match self.gateway {
            Some(Gateway::Own(address)) => Some(address),
            Some(Gateway::Other) | None => None,
        };
        gateway.into_iter().chain(self.source)
    }
}

impl Link {
    /// What of this node's own it leads to, if it does.
    fn place(&self) -> Place {
        match self.kind {
            Kind::Pair => Place::Pod(LinkName(Arc::clone(&self.name))),
            Kind::Loop | Kind::Bridge { .. } | Kind::Other => Place::Shared,
        }
    }
}

impl Prefix {
    fn is_one_host(self) -> bool {
        self.length == bits(self.address)
    }

    fn holds(self, address: IpAddr) -> bool {
        let shift = u32::from(bits(self.address).saturating_sub(self.length));
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or_default() == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or_default() == 0,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// How long an address is.
pub(super) fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses that the nodes below have themselves.
    const OWN: [&str; 5] = ["10.10.1.1", "10.10.1.5", "169.254.1.1", "fd00:1::5", "192.168.0.2"];

    const BRIDGE: Kind = Kind::Bridge { of_pairs: true };

    /// A route as `ip route` prints it: `PREFIX [via GATEWAY] dev LINK [src SOURCE]`.
    fn way(line: &str, kind: Kind) -> Way {
        let words: Vec<&str> = line.split(' ').collect();
        let after = |key: &str| words.iter().position(|word| *word == key).map(|at| words[at + 1]);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let gateway = |text| if OWN.contains(&text) { Gateway::Own(address(text)) } else { Gateway::Other };
        let destination = match words[0].split_once('/') {
            Some((prefix, length)) => Prefix { address: address(prefix), length: length.parse().unwrap() },
            None => Prefix { address: address(words[0]), length: bits(address(words[0])) },
        };
        Way {
            destination,
            gateway: after("via").map(gateway),
            source: after("src").map(address),
            link: Link { name: after("dev").unwrap().into(), kind, bears_default: false },
        }
    }

    fn origin(line: &str, kind: Kind) -> Origin {
        Route::Over(way(line, kind)).origin()
    }

    fn link(line: &str) -> Arc<str> {
        line.split("dev ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().into()
    }

    #[test]
    fn the_node_itself_is_its_own() {
        assert_eq!(Route::Local.origin(), Origin::Own(Place::Node));
    }

    #[test]
    fn pods_are_known_by_the_routes_that_their_networks_make() {
        for (network, line, kind) in [
            ("VPC CNI", "192.0.2.10 dev eni0123456789a", Kind::Pair),
            ("VPC CNI, IPv6", "2001:db8::10 dev eni0123456789a", Kind::Pair),
            ("Calico", "10.244.7.3 dev cali0a1b2c3d4e5", Kind::Pair),
            ("ptp", "10.1.1.5 dev veth1a2b3c4d src 10.1.1.1", Kind::Pair),
            ("GKE", "10.4.0.7 dev veth1a2b3c4d src 10.4.0.1", Kind::Pair),
            ("Azure CNI", "10.240.0.9 dev azv12345678", Kind::Pair),
            ("Cilium, endpoint routes", "10.10.1.77 dev lxc0a1b2c3d", Kind::Pair),
            ("Cilium", "10.10.1.0/24 via 10.10.1.5 dev cilium_host src 10.10.1.5", Kind::Loop),
            ("Cilium, old IPv6", "fd00:1::/64 via fd00:1::5 dev cilium_host src 2001:db8::2", Kind::Loop),
            ("Cilium, IPv6", "fd00:1::/64 dev cilium_host src fd00:1::5", Kind::Loop),
            ("bridge, flannel", "10.244.1.0/24 dev cni0 src 10.244.1.1", BRIDGE),
            ("kube-router", "10.244.1.0/24 dev kube-bridge src 10.244.1.1", BRIDGE),
            ("bridge, link-local", "fe80::/64 dev cni0", BRIDGE),
        ] {
            let own = if kind == Kind::Pair { Place::Pod(LinkName(link(line))) } else { Place::Shared };
            assert_eq!(origin(line, kind), Origin::Own(own), "{network}");
        }
    }

    #[test]
    fn everybody_else_is_foreign() {
        for (who, line, kind) in [
            ("a neighbour on the node's network", "192.168.0.0/24 dev eth0 src 192.168.0.2", Kind::Other),
            ("a host routed over a network card", "192.168.0.9 dev eth0", Kind::Other),
            ("a neighbour on a VLAN", "172.16.5.0/24 dev eth0.5 src 172.16.5.2", Kind::Other),
            ("a neighbour on a second card", "172.17.0.0/16 dev eth1 src 172.17.0.2", Kind::Other),
            ("the world", "0.0.0.0/0 via 192.168.0.1 dev eth0", Kind::Other),
            ("a network behind a pair", "10.9.1.0/24 dev veth9 src 10.9.1.1", Kind::Pair),
            ("the same, by way of the node's own address", "10.9.1.0/24 via 169.254.1.1 dev veth9", Kind::Pair),
            ("a router behind a pair", "10.9.1.7 via 10.9.2.1 dev veth9", Kind::Pair),
            (
                "a neighbour on br0 with the card as port",
                "192.168.0.0/24 dev br0 src 192.168.0.2",
                Kind::Bridge { of_pairs: false },
            ),
            ("a router on the pods' bridge", "10.9.0.0/16 via 10.244.1.9 dev cni0", BRIDGE),
            ("Calico, another node's pod", "10.244.8.0/26 via 192.168.0.3 dev eth0", Kind::Other),
            ("flannel vxlan, another node's pod", "10.244.2.0/24 via 10.244.2.0 dev flannel.1", Kind::Other),
            ("flannel host-gw, another node's pod", "10.244.2.0/24 via 192.168.0.3 dev eth0", Kind::Other),
            ("kube-router, another node's pod", "10.244.2.0/24 dev tun-1921680003", Kind::Other),
            ("WireGuard", "10.100.0.2 dev wg0", Kind::Other),
            ("Cilium, another node's pod", "10.10.2.0/24 via 10.10.1.5 dev cilium_host src 10.10.1.5", Kind::Loop),
            ("the same, IPv6", "fd00:2::/64 dev cilium_host src fd00:1::5", Kind::Loop),
            ("a link-local neighbour behind a pair", "fe80::/64 dev veth9", Kind::Pair),
        ] {
            assert_eq!(origin(line, kind), Origin::Foreign(link(line)), "{who}");
        }
    }

    #[test]
    fn a_link_of_a_default_route_leads_outside() {
        for (line, kind) in [
            ("169.254.0.1 dev eth0", Kind::Pair),
            ("10.244.1.0/24 dev br0 src 10.244.1.1", BRIDGE),
            ("10.10.1.0/24 via 10.10.1.5 dev cilium_host src 10.10.1.5", Kind::Loop),
        ] {
            let mut way = way(line, kind);
            way.link.bears_default = true;
            assert!(matches!(Route::Over(way).origin(), Origin::Foreign(_)), "{line}");
        }
    }

    #[test]
    fn a_prefix_holds_its_addresses() {
        let holds = |prefix: &str, address: &str| {
            way(&format!("{prefix} dev x"), Kind::Other).destination.holds(address.parse().unwrap())
        };
        assert!(holds("10.10.1.0/24", "10.10.1.255") && !holds("10.10.1.0/24", "10.10.2.0"));
        assert!(holds("0.0.0.0/0", "255.1.2.3") && holds("::/0", "ffff::") && !holds("::/0", "10.0.0.1"));
        assert!(holds("10.10.1.5", "10.10.1.5") && !holds("10.10.1.5", "10.10.1.4"));
        assert!(holds("fd00:1::/64", "fd00:1::ffff") && !holds("fd00:1::/64", "fd00:1:0:1::"));
    }
}
