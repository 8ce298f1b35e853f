//! Getting a listening socket, now or as soon as it can be had.
//!
//! An operator may install credlet beside the agent that it replaces: a port that is taken is no fault, but something to wait
//! for. So is an address that another program gives the node. Only a missing right is final.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::base::clock::Clock;
use crate::base::readiness::Part;
use crate::front::{FrontError, holder};
use crate::observe::Context;
use crate::observe::metrics::Metrics;

/// Connections that the kernel keeps until they are accepted: each CLI run of every pod opens one.
const BACKLOG: i32 = 4096;

/// From one attempt to bind to the next.
const RETRY: Duration = Duration::from_millis(50);

/// How long an IPv6 address beside an IPv4 one is waited for. Duplicate address detection takes a second or two.
const PATIENCE: Duration = Duration::from_secs(5);

/// The link of connections that come from this very network namespace, whatever address they go to.
const LOOPBACK_LINK: &[u8] = b"lo";

/// Where to listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// For connections that come over [`LOOPBACK_LINK`] and no others.
    pub(super) only_local: bool,
}

/// One address to serve on.
#[derive(Debug)]
pub struct Listener {
    place: Place,
    socket: Option<TcpListener>,
    required: bool,
    obstacle: Option<Obstacle>,
    sign: Sign,
}

/// A listener as `/status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerStatus {
    /// The address: as bound, else as asked for.
    pub address: SocketAddr,
    /// Whether connections are taken on it.
    pub listening: bool,
    /// If not, why.
    pub detail: String,
}

/// The states of all listeners.
#[derive(Debug, Clone)]
pub struct Listeners(Vec<State>);

/// The state of one listener.
pub type State = Arc<Mutex<ListenerStatus>>;

/// Why an address can't be bound at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// `EACCES`, `EPERM`.
    NoRight,
    /// `EADDRINUSE`.
    Taken,
    /// `EADDRNOTAVAIL`, `EAFNOSUPPORT`.
    Absent,
    /// Anything else.
    Other,
}

/// Tells status, readiness and metrics alike.
#[derive(Debug)]
struct Sign {
    state: State,
    part: Part,
    metrics: Arc<Metrics>,
}

impl Listener {
    /// Tries once to bind `place`. One that is not `required` may be missing for good.
    ///
    /// # Errors
    /// When the kernel's answer will not change.
    pub(super) fn bind(place: Place, required: bool, context: &Context) -> Result<Self, FrontError> {
        let address = place.address;
        let sign = Sign::new(address, context);
        let mut listener = Self { place, socket: None, required, obstacle: None, sign };
        match open(place) {
            Ok(socket) => listener.opened(socket).map_err(|source| FrontError::Bind { address, source })?,
            Err(source) => match obstacle(&source) {
                Obstacle::NoRight => return Err(FrontError::NoRight(address)),
                Obstacle::Other => return Err(FrontError::Bind { address, source }),
                met @ (Obstacle::Taken | Obstacle::Absent) => listener.blocked(met, &source),
            },
        }
        Ok(listener)
    }

    /// Where its state can be read.
    pub(super) fn state(&self) -> State {
        Arc::clone(&self.sign.state)
    }

    /// The port that it listens on.
    pub(super) fn port(&self) -> u16 {
        self.place.address.port()
    }

    /// The socket, as soon as it can be had; `None` once it is clear that the node does without.
    pub(super) async fn socket(&mut self, clock: &Clock) -> Option<TcpListener> {
        let begin = clock.now().mono;
        while self.socket.is_none() {
            let waited = clock.now().mono.saturating_duration_since(begin);
            if self.is_dispensable() && waited >= PATIENCE {
                return None;
            }
            tokio::time::sleep(RETRY).await;
            if let Err(error) = open(self.place).and_then(|socket| self.opened(socket)) {
                self.blocked(obstacle(&error), &error);
            }
        }
        self.socket.take()
    }

    /// It listens no more.
    pub(super) fn closed(&self) {
        self.sign.down("closed");
    }

    fn opened(&mut self, socket: TcpListener) -> io::Result<()> {
        let address = socket.local_addr()?;
        self.place.address = address;
        self.socket = Some(socket);
        self.sign.up(address);
        tracing::info!(%address, "listening");
        Ok(())
    }

    /// Says what is in the way, once until that changes.
    fn blocked(&mut self, met: Obstacle, error: &io::Error) {
        if self.obstacle.replace(met) == Some(met) {
            return;
        }
        let address = self.place.address;
        let detail = detail(met, address, error);
        tracing::warn!(%address, "{detail}");
        self.sign.down(&detail);
        if self.is_dispensable() {
            self.sign.part.ready();
        } else {
            self.sign.part.pending(detail);
        }
    }

    fn is_dispensable(&self) -> bool {
        !self.required && self.obstacle == Some(Obstacle::Absent)
    }
}

/// Whether `address` could be served on now. Nobody is kept from it meanwhile, as only who listens does that.
///
/// # Errors
/// What is in the way; [`obstacle`] says what that means.
pub fn claim(address: SocketAddr) -> io::Result<()> {
    bound(Place { address, only_local: false }).map(drop)
}

fn open(place: Place) -> io::Result<TcpListener> {
    let socket = bound(place)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bound(Place { address, only_local }: Place) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if only_local {
        socket.bind_device(Some(LOOPBACK_LINK))?;
    }
    // Accepted sockets inherit it on Linux, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What the kernel's refusal to bind means.
#[must_use]
pub fn obstacle(error: &io::Error) -> Obstacle {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => Obstacle::NoRight,
        Some(Errno::EADDRINUSE) => Obstacle::Taken,
        Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT) => Obstacle::Absent,
        _ => Obstacle::Other,
    }
}

fn detail(obstacle: Obstacle, address: SocketAddr, error: &io::Error) -> String {
    match obstacle {
        Obstacle::Taken => match holder::uid(address) {
            Some(uid) => format!("{address} is held by a process of uid {uid}; waiting for it to leave"),
            None => format!("{address} is held by another process; waiting for it to leave"),
        },
        Obstacle::Absent => format!("{} is not on this node: {error}", address.ip()),
        Obstacle::NoRight | Obstacle::Other => format!("can't listen on {address}: {error}"),
    }
}

impl Sign {
    fn new(address: SocketAddr, context: &Context) -> Self {
        let status = ListenerStatus { address, listening: false, detail: "not bound yet".into() };
        let part = context.readiness.part(format!("listener {address}"), "not bound yet");
        Self { state: Arc::new(Mutex::new(status)), part, metrics: Arc::clone(&context.metrics) }
    }

    fn up(&self, address: SocketAddr) {
        *self.state.lock() = ListenerStatus { address, listening: true, detail: String::new() };
        self.metrics.front.listener_up(address.ip(), true);
        self.part.ready();
    }

    fn down(&self, detail: &str) {
        let mut status = self.state.lock();
        status.listening = false;
        detail.clone_into(&mut status.detail);
        self.metrics.front.listener_up(status.address.ip(), false);
    }
}

impl Listeners {
    /// Every listener as it is now.
    #[must_use]
    pub fn statuses(&self) -> Vec<ListenerStatus> {
        self.0.iter().map(|state| state.lock().clone()).collect()
    }

    /// The addresses on which connections are taken now.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.statuses().into_iter().filter(|status| status.listening).map(|status| status.address).collect()
    }
}

impl FromIterator<State> for Listeners {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        Self(states.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_answers_are_told_apart() {
        let of = |errno: Errno| obstacle(&errno.into());
        assert_eq!(of(Errno::EACCES), Obstacle::NoRight);
        assert_eq!(of(Errno::EADDRINUSE), Obstacle::Taken);
        assert_eq!(of(Errno::EADDRNOTAVAIL), Obstacle::Absent);
        assert_eq!(of(Errno::EAFNOSUPPORT), Obstacle::Absent);
        assert_eq!(of(Errno::EINVAL), Obstacle::Other);
    }

    #[tokio::test]
    async fn accepted_sockets_send_without_delay_and_ipv6_leaves_ipv4_alone() {
        let place = |address: &str| Place { address: address.parse().unwrap(), only_local: false };
        let listener = open(place("127.0.0.1:0")).unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, _client) = tokio::join!(listener.accept(), client);
        assert!(accepted.unwrap().0.nodelay().unwrap());
        if let Ok(ipv6) = open(place("[::1]:0")) {
            assert!(socket2::SockRef::from(&ipv6).only_v6().unwrap());
        }
    }
}
