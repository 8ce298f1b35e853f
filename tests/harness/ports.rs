//! Ports for processes that can't tell which one the kernel chose.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context;

/// Below the ports that Linux hands out by itself (32,768 and up), so that no connection of anybody's takes one meanwhile; runs
/// side by side begin at different ones.
static NEXT_PORT: LazyLock<AtomicU16> = LazyLock::new(|| {
    let offset = std::process::id() % 1000;
    AtomicU16::new(20_000_u16.saturating_add(u16::try_from(offset).unwrap_or_default().saturating_mul(10)))
});

/// A loopback address on which nobody listens and that nobody here has been given before.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) if port > 32_000 => return Err(error).context("no free port below 32,000"),
            Err(_) => {}
        }
    }
}
