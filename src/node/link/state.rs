//! What is there of the link, and what is missing.

use std::fmt;
use std::net::IpAddr;

use crate::node::link::netlink::{Netlink, View};
use crate::node::link::{HOSTS, LinkError, NAME, host_prefix};

/// A link, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `dummy`, `ifb`, …; `None` for hardware and for the loopback link.
    pub kind: Option<String>,
    /// Whether an administrator (or `initialize`) has set it up.
    pub up: bool,
}

/// A thing that `initialize` sees to, in the order in which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The link [`NAME`].
    Link,
    /// That it is up.
    Up,
    /// An address on it.
    Address(IpAddr),
    /// A host route to that address over it, in the main table.
    Route(IpAddr),
}

/// What is there of the link [`NAME`], of [`HOSTS`] on it, and of main-table routes to them over it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkState {
    /// The link, if there is one of that name, whatever its kind.
    pub link: Option<Link>,
    /// Those of [`HOSTS`] that it bears.
    pub addresses: Vec<IpAddr>,
    /// Those of [`HOSTS`] that the main table routes over it.
    pub routes: Vec<IpAddr>,
}

/// What this network namespace has of the link. Needs no capability.
///
/// # Errors
/// [`LinkError::Kernel`] when netlink can't be used here. Call it inside a runtime.
pub async fn inspect() -> Result<LinkState, LinkError> {
    Netlink::open()?.state().await
}

impl Piece {
    /// Every piece, in the order in which they can be made.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_host = |host| [Self::Address(host), Self::Route(host)];
        [Self::Link, Self::Up].into_iter().chain(HOSTS.into_iter().flat_map(of_host))
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => write!(f, "link {NAME}"),
            Self::Up => write!(f, "link {NAME} up"),
            Self::Address(host) => write!(f, "address {host}/{} on {NAME}", host_prefix(*host)),
            Self::Route(host) => write!(f, "main-table route to {host}/{} over {NAME}", host_prefix(*host)),
        }
    }
}

impl LinkState {
    /// Whether `piece` is there.
    #[must_use]
    pub fn has(&self, piece: Piece) -> bool {
        match piece {
            Piece::Link => self.link.is_some(),
            Piece::Up => self.link.as_ref().is_some_and(|link| link.up),
            Piece::Address(host) => self.addresses.contains(&host),
            Piece::Route(host) => self.routes.contains(&host),
        }
    }

    /// What is not there; each prints as what it is.
    pub fn missing(&self) -> impl Iterator<Item = Piece> {
        Piece::all().filter(|piece| !self.has(*piece))
    }
}

impl From<View> for LinkState {
    fn from(View { own, addresses, routes, .. }: View) -> Self {
        let is_own = |index| own.as_ref().is_some_and(|link| link.index == index);
        let addresses = addresses.iter().filter(|address| is_own(address.link)).map(|address| address.host).collect();
        Self { link: own, addresses, routes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::link::netlink::Address;

    #[test]
    fn what_is_missing_is_told_in_the_order_of_making() {
        let names = |state: &LinkState| state.missing().map(|piece| piece.to_string()).collect::<Vec<_>>();
        assert_eq!(
            names(&LinkState::default()),
            [
                "link pod-id-link0",
                "link pod-id-link0 up",
                "address 169.254.170.23/32 on pod-id-link0",
                "main-table route to 169.254.170.23/32 over pod-id-link0",
                "address fd00:ec2::23/128 on pod-id-link0",
                "main-table route to fd00:ec2::23/128 over pod-id-link0",
            ]
        );
        let link = Link { index: 7, name: NAME.into(), kind: Some("dummy".into()), up: false };
        let state = LinkState { link: Some(link), addresses: HOSTS.into(), routes: vec![HOSTS[1]] };
        assert_eq!(names(&state), ["link pod-id-link0 up", "main-table route to 169.254.170.23/32 over pod-id-link0"]);
    }

    #[test]
    fn an_address_on_another_link_is_not_on_this_one() {
        let own = Link { index: 7, name: NAME.into(), kind: Some("dummy".into()), up: true };
        let addresses = [(1, HOSTS[0]), (7, HOSTS[1])].map(|(link, host)| Address { host, link, usable: true });
        let view = View { own: Some(own), addresses: addresses.into(), ..View::default() };
        assert_eq!(LinkState::from(view.clone()).addresses, [HOSTS[1]]);
        assert!(LinkState::from(View { own: None, ..view }).addresses.is_empty());
    }
}
