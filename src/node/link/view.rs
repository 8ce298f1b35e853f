//! What the kernel tells of the link, and of some addresses wherever they are.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use tokio::time::timeout;

use crate::node::link::state::{Link, LinkState};
use crate::node::link::{HOSTS, LinkError, NAME, host_prefix};
use crate::node::netlink::{Netlink, ip};

/// To the kernel, links begin at 1.
const ANY_LINK: u32 = 0;

/// An address that was asked for, and the link that bears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: IpAddr,
    pub(super) link: u32,
    pub(super) prefix: u8,
    /// False while the kernel looks for duplicates of it, and after it has found one.
    pub(super) usable: bool,
}

/// What the kernel tells of some addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct View {
    /// The link [`NAME`].
    pub(super) own: Option<Link>,
    /// Other links that bear any of the addresses.
    pub(super) others: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// The addresses that the main table routes over [`NAME`].
    pub(super) routes: Vec<IpAddr>,
}

/// The longest that the kernel may take. An answer that got lost would otherwise be waited for without end.
const LONGEST: Duration = Duration::from_secs(10);

/// A socket for questions and orders. Call it inside a runtime.
pub(super) fn open() -> Result<Netlink, LinkError> {
    Netlink::open().map_err(|source| LinkError::Kernel { asked: "open a netlink socket", source })
}

/// As far as it concerns the link. Older kernels list more than was asked for, so answers are filtered here.
impl Netlink {
    /// The link [`NAME`] and what belongs to it. Other links may bear thousands of addresses, which are not asked for.
    pub(super) async fn state(&self) -> Result<LinkState, LinkError> {
        in_time(self.read_state()).await
    }

    /// Where `hosts` are.
    pub(super) async fn view(&self, hosts: &[IpAddr]) -> Result<View, LinkError> {
        in_time(self.read_view(hosts)).await
    }

    async fn read_state(&self) -> Result<LinkState, LinkError> {
        let Some(link) = self.own().await? else { return Ok(LinkState::default()) };
        let addresses = self.addresses(link.index, &HOSTS).await?;
        let routes = self.routes(link.index, &HOSTS).await?;
        Ok(LinkState::new(link, addresses, routes))
    }

    async fn read_view(&self, hosts: &[IpAddr]) -> Result<View, LinkError> {
        let addresses = self.addresses(ANY_LINK, hosts).await?;
        let own = self.own().await?;
        let mut others = Vec::new();
        for address in addresses.iter().filter(|address| own.as_ref().is_none_or(|link| link.index != address.link)) {
            others.extend(self.link(LinkUnspec::new_with_index(address.link).build()).await?);
        }
        let routes = match &own {
            Some(link) => self.routes(link.index, hosts).await?,
            None => Vec::new(),
        };
        Ok(View { own, others, addresses, routes })
    }

    async fn own(&self) -> Result<Option<Link>, LinkError> {
        self.link(LinkUnspec::new_with_name(NAME).build()).await
    }

    /// Those of `hosts` that `link` bears; none where it is gone by now.
    async fn addresses(&self, link: u32, hosts: &[IpAddr]) -> Result<Vec<Address>, LinkError> {
        let mut request = self.handle.address().get();
        request.message_mut().header.index = link;
        let messages = request.execute().try_collect::<Vec<_>>().await;
        let known = match messages.map_err(LinkError::kernel("read this node's addresses")) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Vec::new(),
            messages => messages?,
        };
        let is_wanted = |address: &Address| hosts.contains(&address.host) && [ANY_LINK, address.link].contains(&link);
        Ok(known.iter().filter_map(address).filter(is_wanted).collect())
    }

    /// The one link that `wanted` names, by index or name.
    async fn link(&self, wanted: LinkMessage) -> Result<Option<Link>, LinkError> {
        let mut request = self.handle.link().get().match_index(wanted.header.index);
        *request.message_mut() = wanted;
        let found = request.execute().try_next().await.map_err(LinkError::kernel("read a link of this node"));
        match found {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            found => Ok(found?.as_ref().and_then(link)),
        }
    }

    /// Those of `hosts` that the main table routes over the link `index`.
    async fn routes(&self, index: u32, hosts: &[IpAddr]) -> Result<Vec<IpAddr>, LinkError> {
        let routes = self.routes_over(index).await.map_err(LinkError::kernel("read this node's routes"))?;
        Ok(routes.iter().filter_map(destination).filter(|host| hosts.contains(host)).collect())
    }
}

async fn in_time<T>(read: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    let late = |_| LinkError::Kernel { asked: "look at this node's links", source: io::ErrorKind::TimedOut.into() };
    timeout(LONGEST, read).await.map_err(late)?
}

fn link(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut kind) = (None, None);
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            kind = infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None });
        }
    }
    Some(Link { index: message.header.index, name: name?, kind, up: message.header.flags.contains(LinkFlags::Up) })
}

/// The address in a message, whatever its prefix. On point-to-point links `Address` is the peer's, and `Local` never is.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(host) = attribute {
            local = Some(*host);
        } else if let AddressAttribute::Address(host) = attribute {
            address = Some(*host);
        }
    }
    let duplicate = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let usable = !message.header.flags.intersects(duplicate);
    let header = &message.header;
    Some(Address { host: local.or(address)?, link: header.index, prefix: header.prefix_len, usable })
}

/// The one address to which a route of the main table leads; `None` for routes to wider prefixes or in other tables.
pub(super) fn destination(route: &RouteMessage) -> Option<IpAddr> {
    let host = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(to) = attribute else { return None };
        ip(to)
    })?;
    let header = &route.header;
    let is_host_route = header.table == RouteHeader::RT_TABLE_MAIN && header.destination_prefix_length == host_prefix(host);
    is_host_route.then_some(host)
}
