//! Why the kernel did not do what was asked of it, and what an operator can do about that.

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::node::link::NAME;
use crate::node::netlink::errno;

/// Why the link can't be seen, made or kept. Print it with its source.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// `EPERM`.
    #[error("no right to change this node's links: grant the capability NET_ADMIN")]
    NoRight,
    /// The kernel lacks the module.
    #[error("this kernel knows no links of the kind {0}: load the module of that name, or choose another kind with --link-kind")]
    UnknownKind(String),
    /// Somebody else's link has the name.
    #[error(
        "there is a link {NAME} already, and it is {is}: it was left as it is. If nothing needs it, remove it (ip link delete \
         {NAME}) or give it another name (ip link set {NAME} down; ip link set {NAME} name OTHER), then run this again{or}"
    )]
    Foreign {
        /// What it is.
        is: String,
        /// The other remedy, where there is one.
        or: String,
    },
    /// `EACCES` and its like, for an IPv6 address.
    #[error("IPv6 is off on this node (by the sysctl disable_ipv6, or the kernel has none)")]
    NoIpv6,
    /// The main table leads elsewhere.
    #[error("the main table has another route to {0}: see it with `ip route show {0}`, remove it, then run this again")]
    RouteTaken(IpAddr),
    /// Any other answer of the kernel.
    #[error("{asked}")]
    Kernel {
        /// What it was asked for.
        asked: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl LinkError {
    /// The kernel's answer to `asked`.
    pub(super) fn kernel(asked: &'static str) -> impl FnOnce(rtnetlink::Error) -> Self {
        move |error| match errno(&error) {
            Some(Errno::EPERM) => Self::NoRight,
            Some(errno) => Self::Kernel { asked, source: errno.into() },
            None => Self::Kernel { asked, source: io::Error::other(error) },
        }
    }

    /// What the kernel said, if this is that.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::NoRight | Self::UnknownKind(_) | Self::Foreign { .. } | Self::NoIpv6 | Self::RouteTaken(_) => None,
        }
    }
}
