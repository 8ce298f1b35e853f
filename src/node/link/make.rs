//! Making the link, taking it away, and keeping it: `credlet initialize`. Needs the capability `NET_ADMIN`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::InfoKind;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::time::sleep;

use crate::base::clock::Clock;
use crate::node::link::events::{Events, Interest, QUIET};
use crate::node::link::state::{Link, LinkState, Piece, Unfit};
use crate::node::link::view::open;
use crate::node::link::{HOSTS, LinkError, NAME, host_prefix};
use crate::node::netlink::Netlink;

/// The kind of link that the EKS Pod Identity Agent makes.
const DUMMY: &str = "dummy";

/// From a failure to the next attempt, unless news come before.
const PAUSE: Duration = Duration::from_secs(5);

/// What [`make`] did about a piece.
#[derive(Debug)]
pub enum Step {
    /// It was missing and is there now.
    Made(Piece),
    /// It was there.
    Found(Piece),
    /// It was in the way of an address.
    Removed(Unfit),
    /// It can't be had, and pods are served without it: they need link and IPv4 address, and nothing else.
    Without(Piece, LinkError),
}

/// Makes of the link whatever is missing, and tells each step. A link that is there stays, whether it is of `kind` or a `dummy`.
///
/// # Errors
/// When pods can't be served over IPv4; what was told as made stays.
pub async fn make(kind: &str, mut tell: impl FnMut(Step)) -> Result<(), LinkError> {
    let mut maker = Maker::new(kind).await?;
    for piece in [Piece::Link, Piece::Up] {
        tell(maker.ensure(piece).await?);
    }
    for host in HOSTS {
        maker.place(host, &mut tell).await?;
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
/// When the first attempt fails.
pub async fn keep(kind: &str, clock: &Clock, mut tell: impl FnMut(Result<Step, LinkError>)) -> Result<Infallible, LinkError> {
    make(kind, |step| tell(Ok(step))).await?;
    loop {
        let Err(error) = put_back(kind, clock, &mut tell).await;
        tell(Err(error));
        sleep(PAUSE).await;
    }
}

/// Takes the link away, and again whenever somebody makes it; tells each time, and each failure, which ends nothing.
///
/// # Errors
/// As [`remove`], for the first attempt.
pub async fn keep_away(kind: &str, clock: &Clock, mut tell: impl FnMut(Result<(), LinkError>)) -> Result<Infallible, LinkError> {
    if remove(kind).await? {
        tell(Ok(()));
    }
    loop {
        let Err(error) = take_away(kind, clock, &mut tell).await;
        tell(Err(error));
        sleep(PAUSE).await;
    }
}

async fn put_back(kind: &str, clock: &Clock, tell: &mut impl FnMut(Result<Step, LinkError>)) -> Result<Infallible, LinkError> {
    let mut events = Events::subscribe(clock)?;
    loop {
        let state = open()?.state().await?;
        let mut quiet = QUIET;
        if state.missing().next().is_some()
            && let Err(error) = make(kind, |step| tell(Ok(step))).await
        {
            tell(Err(error));
            quiet = PAUSE;
        }
        events.next(&Interest::new(&HOSTS, &state.link), quiet).await?;
    }
}

async fn take_away(kind: &str, clock: &Clock, tell: &mut impl FnMut(Result<(), LinkError>)) -> Result<Infallible, LinkError> {
    let mut events = Events::subscribe(clock)?;
    loop {
        if remove(kind).await? {
            tell(Ok(()));
        }
        events.next(&Interest::new(&HOSTS, None), QUIET).await?;
    }
}

/// One attempt, and what is there by now.
struct Maker<'a> {
    netlink: Netlink,
    kind: &'a str,
    state: LinkState,
}

impl<'a> Maker<'a> {
    async fn new(kind: &'a str) -> Result<Self, LinkError> {
        let netlink = open()?;
        let state = netlink.state().await?;
        Ok(Self { netlink, kind, state })
    }

    /// The address, then the route, which needs it.
    async fn place(&mut self, host: IpAddr, tell: &mut impl FnMut(Step)) -> Result<(), LinkError> {
        self.clear(host, tell).await?;
        for piece in [Piece::Address(host), Piece::Route(host)] {
            match self.ensure(piece).await {
                Err(why) if piece.is_optional() => {
                    tell(Step::Without(piece, why));
                    break;
                }
                step => tell(step?),
            }
        }
        Ok(())
    }

    /// Takes off the link what is unfit: IPv6 knows an address once only, whatever its prefix. What stays fails the next step.
    async fn clear(&mut self, host: IpAddr, tell: &mut impl FnMut(Step)) -> Result<(), LinkError> {
        let unfit: Vec<_> = self.state.unfit_of(host).collect();
        for unfit in &unfit {
            if self.remove_address(*unfit).await.is_ok() {
                tell(Step::Removed(*unfit));
            }
        }
        if !unfit.is_empty() {
            self.state = self.netlink.state().await?;
        }
        Ok(())
    }

    /// Looks anew once something was tried: the kernel makes some pieces when it makes others, and somebody else may be faster.
    async fn ensure(&mut self, piece: Piece) -> Result<Step, LinkError> {
        if let Some(link) = &self.state.link {
            refuse_foreign(link, self.kind)?;
        }
        if self.state.has(piece) {
            return Ok(Step::Found(piece));
        }
        let added = self.add(piece).await;
        self.state = self.netlink.state().await?;
        match added {
            Ok(()) => Ok(Step::Made(piece)),
            Err(_) if self.state.has(piece) => Ok(Step::Found(piece)),
            Err(error) => Err(error),
        }
    }

    async fn add(&self, piece: Piece) -> Result<(), LinkError> {
        match piece {
            Piece::Link => self.add_link().await,
            Piece::Up => self.set_up(self.index()).await,
            Piece::Address(host) => self.add_address(host, self.index()).await,
            Piece::Route(host) => self.add_route(host, self.index()).await,
        }
    }

    fn index(&self) -> u32 {
        self.state.link.as_ref().map_or(0, |link| link.index)
    }

    async fn remove_address(&self, Unfit { host, prefix }: Unfit) -> Result<(), LinkError> {
        let mut message = AddressMessage::default();
        message.header.family = if host.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = prefix;
        message.header.index = self.index();
        // The kernel heeds the prefix only beside the second of these.
        message.attributes.extend([AddressAttribute::Local(host), AddressAttribute::Address(host)]);
        self.netlink.handle.address().del(message).execute().await.map_err(LinkError::kernel("remove the address"))
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
