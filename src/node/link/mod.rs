//! The link that bears the addresses of the credentials endpoint: what is there of it, making it, and noticing when it goes.
//!
//! The EKS Pod Identity Agent makes the same link with the same addresses and routes, so that either agent serves on what the
//! other left. The kernel delivers to an address by its local table; the host routes in the main table are for those who look
//! there alone, such as CNI plugins and policy routing.

mod error;
mod events;
mod make;
pub mod presence;
pub mod state;
mod view;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use crate::node::link::error::LinkError;
pub use crate::node::link::make::{Step, keep, keep_away, make, remove};

/// The link's name, as the EKS Pod Identity Agent knows it too.
pub const NAME: &str = "pod-id-link0";

/// The addresses that the AWS SDKs know, each alone in its prefix (/32, /128).
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html>
pub const HOSTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23))];

/// The length of a prefix that holds one address.
#[must_use]
pub const fn host_prefix(host: IpAddr) -> u8 {
    match host {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
