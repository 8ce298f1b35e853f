//! Who holds a port that credlet wants, as far as the kernel's tables show it to everybody.

use std::net::SocketAddr;

use procfs::net::{TcpNetEntry, TcpState, tcp, tcp6};

/// The uid of the process that listens where `address` can't be bound; of the same network namespace.
#[must_use]
pub fn uid(address: SocketAddr) -> Option<u32> {
    let entries = tcp().into_iter().chain(tcp6()).flatten();
    entries.into_iter().find(|entry| blocks(entry, address)).map(|entry| entry.uid)
}

/// A wildcard listener of either family can hold the port of every address.
fn blocks(entry: &TcpNetEntry, address: SocketAddr) -> bool {
    let local = entry.local_address;
    let same = local.ip() == address.ip() || local.ip().is_unspecified();
    entry.state == TcpState::Listen && local.port() == address.port() && same
}
