//! What is there of the link, and what is missing.

use std::fmt;
use std::net::IpAddr;

use crate::node::link::view::{Address, open};
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

/// One of [`HOSTS`] on the link [`NAME`] in a form that serves nobody: with a wider prefix, whose route swallows other addresses
/// (169.254.0.0/16 that of the metadata service), or held back by the kernel as a possible duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit {
    /// The address.
    pub host: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
}

/// What is there of the link [`NAME`], of [`HOSTS`] on it, and of main-table routes to them over it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkState {
    /// The link, if there is one of that name, whatever its kind.
    pub link: Option<Link>,
    /// Those of [`HOSTS`] that it bears, each alone in its prefix.
    pub addresses: Vec<IpAddr>,
    /// What is to be taken off it.
    pub unfit: Vec<Unfit>,
    /// Those of [`HOSTS`] that the main table routes over it.
    pub routes: Vec<IpAddr>,
}

/// What this network namespace has of the link. Needs no capability.
///
/// # Errors
/// [`LinkError::Kernel`] when netlink can't be used here. Call it inside a runtime.
pub async fn inspect() -> Result<LinkState, LinkError> {
    open()?.state().await
}

impl Piece {
    /// Every piece, in the order in which they can be made.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_host = |host| [Self::Address(host), Self::Route(host)];
        [Self::Link, Self::Up].into_iter().chain(HOSTS.into_iter().flat_map(of_host))
    }

    /// Whether pods are served without it: the kernel delivers by its local table, and IPv4 is enough.
    pub(super) const fn is_optional(self) -> bool {
        matches!(self, Self::Route(_) | Self::Address(IpAddr::V6(_)))
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

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {}/{} on {NAME}", self.host, self.prefix)
    }
}

impl LinkState {
    pub(super) fn new(link: Link, addresses: Vec<Address>, routes: Vec<IpAddr>) -> Self {
        let fits = |address: &Address| address.usable && address.prefix == host_prefix(address.host);
        let (fit, unfit): (Vec<_>, Vec<_>) = addresses.into_iter().partition(fits);
        let unfit = unfit.into_iter().map(|Address { host, prefix, .. }| Unfit { host, prefix }).collect();
        Self { link: Some(link), addresses: fit.into_iter().map(|address| address.host).collect(), unfit, routes }
    }

    /// Whether `piece` is there, and an address in no other form.
    #[must_use]
    pub fn has(&self, piece: Piece) -> bool {
        match piece {
            Piece::Link => self.link.is_some(),
            Piece::Up => self.link.as_ref().is_some_and(|link| link.up),
            Piece::Address(host) => self.addresses.contains(&host) && self.unfit_of(host).next().is_none(),
            Piece::Route(host) => self.routes.contains(&host),
        }
    }

    pub(super) fn unfit_of(&self, host: IpAddr) -> impl Iterator<Item = Unfit> {
        self.unfit.iter().copied().filter(move |unfit| unfit.host == host)
    }

    /// What is not there; each prints as what it is.
    pub fn missing(&self) -> impl Iterator<Item = Piece> {
        Piece::all().filter(|piece| !self.has(*piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let state = LinkState { link: Some(link), addresses: HOSTS.into(), unfit: Vec::new(), routes: vec![HOSTS[1]] };
        assert_eq!(names(&state), ["link pod-id-link0 up", "main-table route to 169.254.170.23/32 over pod-id-link0"]);
    }

    #[test]
    fn an_address_counts_in_one_form_only() {
        let state = |host: IpAddr, forms: &[(u8, bool)]| {
            let link = Link { index: 7, name: NAME.into(), kind: Some("dummy".into()), up: true };
            let address = |&(prefix, usable)| Address { host, link: 7, prefix, usable };
            LinkState::new(link, forms.iter().map(address).collect(), Vec::new())
        };
        let [ipv4, ipv6] = HOSTS;
        assert!(state(ipv4, &[(32, true)]).has(Piece::Address(ipv4)) && state(ipv6, &[(128, true)]).has(Piece::Address(ipv6)));
        for (host, forms) in
            [(ipv4, &[(16, true)][..]), (ipv4, &[(32, true), (16, true)]), (ipv6, &[(64, true)]), (ipv6, &[(128, false)])]
        {
            let state = state(host, forms);
            assert!(!state.has(Piece::Address(host)) && state.unfit.len() == 1, "{state:?}");
        }
    }
}
