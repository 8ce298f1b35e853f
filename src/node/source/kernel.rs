//! The route to a peer and what its link is, asked of the kernel over rtnetlink (rtnetlink(7)), which takes no right.
//!
//! Each look-up has a socket of its own: nothing is left behind by one that failed, and none is open while nobody asks. It also
//! has a thread of its own: while links are changed, the kernel holds up whoever asks for one within the system call, and a thread
//! that serves must not stand there. Older kernels list more than was asked for, so lists are filtered here too.

use std::future::ready;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::Error;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia};
use tokio::runtime::Builder;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout};

use crate::node::netlink::{Netlink, ip};
use crate::node::source::memory::Memory;
use crate::node::source::route::{Gateway, Kind, Link, Prefix, Route, Way, bits};
use crate::node::source::{Origin, Peer};

/// Links by their index.
type Links = Memory<u32, Link>;

/// The longest that a look-up may take. An answer that got lost would otherwise be waited for without end.
const LONGEST: Duration = Duration::from_secs(10);

/// Links that are one end of two.
const PAIRS: [InfoKind; 2] = [InfoKind::Veth, InfoKind::Netkit];

/// The counters of a link are most of what the kernel tells of it.
const WITHOUT_COUNTERS: [LinkExtentMask; 1] = [LinkExtentMask::SkipStats];

/// Why it is not known where a peer is.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("no socket to ask the kernel: {0}")]
    Socket(#[from] io::Error),
    #[error("the kernel tells no route: {0}")]
    Refused(#[from] Error),
    #[error("the kernel's answer lacks {0}")]
    Lacks(&'static str),
    #[error("the kernel has not answered")]
    Late,
    #[error("too many others are being looked up")]
    Busy,
    #[error("the look-up has failed: {0}")]
    Failed(#[from] JoinError),
}

/// Who is asked.
#[derive(Debug)]
pub(super) enum Kernel {
    /// The kernel, and what is known of its links.
    Linux(Arc<Links>),
    /// Whoever the test says.
    #[cfg(test)]
    Script(super::tests::Script),
}

impl Default for Kernel {
    fn default() -> Self {
        Self::Linux(Arc::default())
    }
}

impl Kernel {
    /// Where `peer` is. What is known of links at `now` is not asked for again: a bridge has a port for each pod.
    pub(super) async fn origin(&self, peer: Peer, now: Instant) -> Result<Origin, LookupError> {
        match self {
            Self::Linux(links) => {
                let links = Arc::clone(links);
                let route = spawn_blocking(move || ask(peer, &links, now)).await??;
                Ok(route.origin())
            }
            #[cfg(test)]
            Self::Script(script) => script.origin().await,
        }
    }
}

/// The route by which the kernel would answer `peer`, asked for on this thread.
fn ask(peer: Peer, links: &Links, now: Instant) -> Result<Route, LookupError> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let question = Question { netlink: Netlink::open()?, links, now };
        timeout(LONGEST, question.route_to(peer)).await.unwrap_or(Err(LookupError::Late))
    })
}

struct Question<'m> {
    netlink: Netlink,
    links: &'m Links,
    now: Instant,
}

impl Question<'_> {
    async fn route_to(&self, peer: Peer) -> Result<Route, LookupError> {
        let route = self.matching(peer).await?;
        if is_local(&route) {
            return Ok(Route::Local);
        }
        let address = find(&route, destination).unwrap_or(unspecified(peer.address));
        Ok(Route::Over(Way {
            destination: Prefix { address, length: route.header.destination_prefix_length },
            gateway: self.gateway(&route).await?,
            source: find(&route, source),
            link: match find(&route, out_link) {
                Some(index) => self.links.recall(index, self.now, || self.link(index)).await?,
                None => Link { name: "several links".into(), kind: Kind::Other, bears_default: false },
            },
        }))
    }

    /// The entry of the routing tables that `peer` meets (`ip route get fibmatch`).
    async fn matching(&self, Peer { address, link }: Peer) -> Result<RouteMessage, LookupError> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(address);
        question.header.destination_prefix_length = bits(address);
        question.header.flags = RouteFlags::FibMatch;
        question.attributes.push(RouteAttribute::Destination(address.into()));
        if link != 0 {
            question.attributes.push(RouteAttribute::Oif(link));
        }
        let answer = pin!(self.netlink.handle.route().get(question).execute()).try_next().await?;
        answer.ok_or(LookupError::Lacks("a route"))
    }

    async fn gateway(&self, route: &RouteMessage) -> Result<Option<Gateway>, LookupError> {
        let Some(address) = find(route, gateway) else { return Ok(None) };
        let link = if is_link_local(address) { find(route, out_link) } else { None };
        let beyond = self.matching(Peer { address, link: link.unwrap_or_default() }).await?;
        Ok(Some(if is_local(&beyond) { Gateway::Own(address) } else { Gateway::Other }))
    }

    async fn link(&self, index: u32) -> Result<Link, LookupError> {
        let question =
            self.netlink.handle.link().get().match_index(index).set_filter_mask(AddressFamily::Unspec, WITHOUT_COUNTERS.into());
        let link = pin!(question.execute()).try_next().await?.ok_or(LookupError::Lacks("a link"))?;
        let kind = if is_of(&link, &[InfoKind::Bridge]) {
            Kind::Bridge { of_pairs: self.has_pairs_only(index).await? }
        } else if is_of(&link, &PAIRS) {
            if is_both_ends_here(&link) { Kind::Loop } else { Kind::Pair }
        } else {
            Kind::Other
        };
        // Of other kinds it makes no difference.
        let bears_default = kind != Kind::Other && self.bears_default(index).await?;
        Ok(Link { name: name(&link).unwrap_or_default().into(), kind, bears_default })
    }

    /// Whether all ports of this bridge are pairs to other network namespaces.
    async fn has_pairs_only(&self, bridge: u32) -> Result<bool, LookupError> {
        let mut question = self.netlink.handle.link().get().set_filter_mask(AddressFamily::Unspec, WITHOUT_COUNTERS.into());
        question.message_mut().attributes.push(LinkAttribute::Controller(bridge));
        let ports = question.execute().try_filter(|link| ready(link.attributes.contains(&LinkAttribute::Controller(bridge))));
        Ok(ports.try_all(|port| ready(is_of(&port, &PAIRS) && !is_both_ends_here(&port))).await?)
    }

    /// Whether a default route of the main table leads over this link, in either family.
    async fn bears_default(&self, link: u32) -> Result<bool, LookupError> {
        Ok(self.netlink.routes_over(link).await?.iter().any(is_default))
    }
}

fn find<T>(route: &RouteMessage, what: impl Fn(&RouteAttribute) -> Option<T>) -> Option<T> {
    route.attributes.iter().find_map(what)
}

fn destination(attribute: &RouteAttribute) -> Option<IpAddr> {
    let RouteAttribute::Destination(address) = attribute else { return None };
    ip(address)
}

/// The address of this node that a route prefers.
fn source(attribute: &RouteAttribute) -> Option<IpAddr> {
    let RouteAttribute::PrefSource(address) = attribute else { return None };
    ip(address)
}

/// The next hop, which `RTA_VIA` bears when it is of the other family.
fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    if let RouteAttribute::Via(RouteVia::Inet6(address)) = attribute {
        return Some((*address).into());
    }
    let RouteAttribute::Gateway(address) = attribute else { return None };
    ip(address)
}

fn out_link(attribute: &RouteAttribute) -> Option<u32> {
    let RouteAttribute::Oif(link) = attribute else { return None };
    Some(*link)
}

fn is_local(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Local
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
}

fn is_of(link: &LinkMessage, kinds: &[InfoKind]) -> bool {
    link.attributes.iter().any(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return false };
        infos.iter().any(|info| matches!(info, LinkInfo::Kind(kind) if kinds.contains(kind)))
    })
}

/// The kernel names the namespace of the other end only if it is another one.
fn is_both_ends_here(pair: &LinkMessage) -> bool {
    !pair.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::IfName(name) = attribute else { return None };
        Some(name.as_str())
    })
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// What a default route is for, which the kernel does not tell.
fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ipv6) if ipv6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    fn route_to(address: &str, link: u32) -> Result<Route, LookupError> {
        ask(Peer { address: address.parse().unwrap(), link }, &Links::default(), Clock::System.now().mono)
    }

    #[test]
    fn loopback_is_local_and_the_rest_of_it_too() {
        for address in ["127.0.0.1", "127.255.0.7", "::1"] {
            assert_eq!(route_to(address, 0).unwrap(), Route::Local, "{address}");
        }
    }

    #[test]
    fn no_route_is_a_failure() {
        let error = route_to("fe80::1", u32::from(u16::MAX)).unwrap_err();
        assert!(matches!(error, LookupError::Refused(_)), "{error}");
    }
}
