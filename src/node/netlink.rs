//! The way to the kernel's network tables (rtnetlink(7)), and how to read what comes back.

use std::future::ready;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::{Handle, new_connection, new_connection_with_strict_check};
use tokio_util::task::AbortOnDropHandle;

/// A socket, closed when dropped.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    _connection: AbortOnDropHandle<()>,
}

impl Netlink {
    /// Opens a socket. Checking strictly, which Linux 4.20 and newer can, lets the kernel filter what it lists; older ones list
    /// everything. Call it inside a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = new_connection_with_strict_check().or_else(|_| new_connection())?;
        Ok(Self { handle, _connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// The routes of the main table that lead over `link`, alone or among others, in both families.
    pub(super) async fn routes_over(&self, link: u32) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut wanted = RouteMessage::default();
            wanted.header.address_family = family;
            wanted.header.table = RouteHeader::RT_TABLE_MAIN;
            wanted.attributes.push(RouteAttribute::Oif(link));
            let listed = self.handle.route().get(wanted).execute().try_filter(|route| ready(leads_over(route, link)));
            match listed.try_collect::<Vec<_>>().await {
                Err(error) if has_no_routes(errno(&error)) => (),
                listed => routes.extend(listed?),
            }
        }
        Ok(routes)
    }
}

fn leads_over(route: &RouteMessage, link: u32) -> bool {
    let leads = |attribute: &RouteAttribute| {
        let hop = matches!(attribute, RouteAttribute::MultiPath(hops) if hops.iter().any(|hop| hop.interface_index == link));
        hop || *attribute == RouteAttribute::Oif(link)
    };
    route.header.table == RouteHeader::RT_TABLE_MAIN && route.attributes.iter().any(leads)
}

/// What the kernel said, if it answered with an error.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(Errno::from_raw(message.raw_code().saturating_abs())),
        rtnetlink::Error::UnexpectedMessage(_)
        | rtnetlink::Error::RequestFailed
        | rtnetlink::Error::NamespaceError(_)
        | rtnetlink::Error::InvalidHardwareAddress(_)
        | rtnetlink::Error::InvalidIp(_)
        | rtnetlink::Error::InvalidAddress(..)
        | rtnetlink::Error::InvalidNla(_) => None,
    }
}

/// Whether a table of routes was asked for that nobody has written to yet, in a family that the kernel has not, or over a link
/// that is gone by now.
fn has_no_routes(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::ENODEV))
}

/// The IP address in a route's attribute.
pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        return Some((*address).into());
    }
    let RouteAddress::Inet6(address) = address else { return None };
    Some((*address).into())
}
