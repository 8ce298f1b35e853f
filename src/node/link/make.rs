//! Making the link, taking it away, and keeping it: `credlet initialize`. Needs the capability `NET_ADMIN`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::InfoKind;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::base::bucket::Bucket;
use crate::base::clock::Clock;
use crate::node::link::events::{Events, Interest};
use crate::node::link::state::{Link, LinkState, Piece};
use crate::node::link::view::open;
use crate::node::link::{HOSTS, LinkError, NAME, host_prefix};
use crate::node::netlink::Netlink;

/// The kind of link that the EKS Pod Identity Agent makes.
const DUMMY: &str = "dummy";

/// From a failure to put something back to the next attempt, unless news come before.
const PAUSE: Duration = Duration::from_secs(5);

/// How often a second, and how often at once, something is put back: another program may take it away each time.
const PER_SECOND: f64 = 2.0;
const AT_ONCE: f64 = 20.0;

/// What [`make`] did about a piece.
#[derive(Debug)]
pub enum Step {
    /// It was missing and is there now.
    Made(Piece),
    /// It was there.
    Found(Piece),
    /// This IPv6 address can't be had, and the node does without it.
    Without(IpAddr, LinkError),
}

/// Makes of the link whatever is missing, and tells each step. A link that is there stays, whether it is of `kind` or a `dummy`.
///
/// # Errors
/// When IPv4 can't be had; what was told as made stays.
pub async fn make(kind: &str, mut tell: impl FnMut(Step)) -> Result<(), LinkError> {
    let maker = Maker { netlink: open()?, kind };
    for piece in [Piece::Link, Piece::Up] {
        tell(maker.ensure(piece).await?);
    }
    for host in HOSTS {
        match maker.place(host, &mut tell).await {
            Err(why) if host.is_ipv6() => tell(Step::Without(host, why)),
            placed => placed?,
        }
    }
    Ok(())
}

/// Takes the link away, and with it its addresses and routes. False when there was none.
///
/// # Errors
/// [`LinkError::Foreign`] for a link of that name that is neither of `kind` nor a `dummy`; whatever the kernel refuses.
pub async fn remove(kind: &str) -> Result<bool, LinkError> {
    let netlink = open()?;
    let Some(link) = netlink.state().await?.link else { return Ok(false) };
    refuse_foreign(&link, kind)?;
    match netlink.handle.link().del(link.index).execute().await.map_err(LinkError::kernel("remove the link")) {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// Makes the link and puts back at once whatever disappears of it; tells each step, and each failure, which ends nothing.
///
/// # Errors
/// When the first attempt fails, or the kernel tells no news.
pub async fn keep(kind: &str, clock: &Clock, mut tell: impl FnMut(Result<Step, LinkError>)) -> Result<Infallible, LinkError> {
    let mut events = Events::subscribe()?;
    let mut attempts = Bucket::new(PER_SECOND, AT_ONCE, clock.now().mono);
    make(kind, |step| tell(Ok(step))).await?;
    loop {
        let view = open()?.view(&HOSTS).await?;
        let interest = Interest::new(&HOSTS, &view);
        events.next(&interest).await?;
        while open()?.state().await?.missing().next().is_some() {
            tokio::time::sleep_until(attempts.next(clock.now().mono)).await;
            attempts.take(clock.now().mono);
            let Err(error) = make(kind, |step| tell(Ok(step))).await else { break };
            tell(Err(error));
            tokio::time::timeout(PAUSE, events.next(&interest)).await.unwrap_or(Ok(()))?;
        }
    }
}

/// Takes the link away, and again whenever somebody makes it; tells each time.
///
/// # Errors
/// As [`remove`], or when the kernel tells no news.
pub async fn keep_away(kind: &str, mut tell: impl FnMut()) -> Result<Infallible, LinkError> {
    let mut events = Events::subscribe()?;
    loop {
        if remove(kind).await? {
            tell();
        }
        let view = open()?.view(&HOSTS).await?;
        events.next(&Interest::new(&HOSTS, &view)).await?;
    }
}

struct Maker<'a> {
    netlink: Netlink,
    kind: &'a str,
}

impl Maker<'_> {
    async fn place(&self, host: IpAddr, tell: &mut impl FnMut(Step)) -> Result<(), LinkError> {
        for piece in [Piece::Address(host), Piece::Route(host)] {
            tell(self.ensure(piece).await?);
        }
        Ok(())
    }

    /// Looks anew for each piece: the kernel makes some of them when it makes others.
    async fn ensure(&self, piece: Piece) -> Result<Step, LinkError> {
        let state = self.netlink.state().await?;
        if let Some(link) = &state.link {
            refuse_foreign(link, self.kind)?;
        }
        if state.has(piece) {
            return Ok(Step::Found(piece));
        }
        match self.add(piece, &state).await {
            Ok(()) => Ok(Step::Made(piece)),
            // Somebody else was faster.
            Err(_) if self.netlink.state().await?.has(piece) => Ok(Step::Found(piece)),
            Err(error) => Err(error),
        }
    }

    async fn add(&self, piece: Piece, state: &LinkState) -> Result<(), LinkError> {
        let index = state.link.as_ref().map_or(0, |link| link.index);
        match piece {
            Piece::Link => self.add_link().await,
            Piece::Up => self.set_up(index).await,
            Piece::Address(host) => self.add_address(host, index).await,
            Piece::Route(host) => self.add_route(host, index).await,
        }
    }

    async fn add_link(&self) -> Result<(), LinkError> {
        let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::from(self.kind)).name(NAME).build();
        let added = self.netlink.handle.link().add(link).execute().await;
        added.map_err(LinkError::kernel("make the link")).map_err(|error| match error.errno() {
            Some(Errno::EOPNOTSUPP) => LinkError::UnknownKind(self.kind.to_owned()),
            _ => error,
        })
    }

    async fn set_up(&self, index: u32) -> Result<(), LinkError> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.netlink.handle.link().set(up).execute().await.map_err(LinkError::kernel("set the link up"))
    }

    /// Without duplicate address detection: no other node can see this address, and IPv6 is to be served at once.
    async fn add_address(&self, host: IpAddr, index: u32) -> Result<(), LinkError> {
        let mut request = self.netlink.handle.address().add(index, host, host_prefix(host));
        if host.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let added = request.execute().await;
        added.map_err(LinkError::kernel("add the address")).map_err(|error| match error.errno() {
            Some(Errno::EACCES | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) if host.is_ipv6() => LinkError::NoIpv6,
            _ => error,
        })
    }

    async fn add_route(&self, host: IpAddr, index: u32) -> Result<(), LinkError> {
        let added = self.netlink.handle.route().add(route(host, index)).execute().await;
        added.map_err(LinkError::kernel("add the route")).map_err(|error| match error.errno() {
            Some(Errno::EEXIST) => LinkError::RouteTaken(host),
            _ => error,
        })
    }
}

/// Somebody else's link is left alone: it would lose what it is for.
fn refuse_foreign(link: &Link, kind: &str) -> Result<(), LinkError> {
    match link.kind.as_deref() {
        Some(found) if found == kind || found == DUMMY => Ok(()),
        Some(found) => {
            let or = format!(", or, if it is meant for this, name its kind: --link-kind {found}");
            Err(LinkError::Foreign { is: format!("of the kind {found}"), or })
        }
        None => Err(LinkError::Foreign { is: "hardware".into(), or: String::new() }),
    }
}

fn route(host: IpAddr, index: u32) -> RouteMessage {
    match host {
        IpAddr::V4(host) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(host, 32);
            route.scope(RouteScope::Link).output_interface(index).build()
        }
        IpAddr::V6(host) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(host, 128).output_interface(index).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_that_can_be_ours_is_adopted() {
        let of = |kind: Option<&str>, wanted: &str| {
            let link = Link { index: 7, name: NAME.into(), kind: kind.map(Into::into), up: true };
            refuse_foreign(&link, wanted).map_err(|error| error.to_string())
        };
        assert!(of(Some("dummy"), "dummy").is_ok() && of(Some("ifb"), "ifb").is_ok());
        assert!(of(Some("dummy"), "ifb").is_ok(), "what the EKS Pod Identity Agent left");
        let bridge = of(Some("bridge"), "dummy").unwrap_err();
        assert!(bridge.contains("of the kind bridge") && bridge.contains("--link-kind bridge"), "{bridge}");
        assert!(bridge.contains("ip link delete pod-id-link0"), "{bridge}");
        let hardware = of(None, "dummy").unwrap_err();
        assert!(hardware.contains("hardware") && !hardware.contains("--link-kind"), "{hardware}");
    }
}
