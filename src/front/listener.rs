//! Getting a listening socket, now or as soon as it can be had.
//!
//! An operator may install credlet beside the agent that it replaces: a port that is taken is no fault, but something to wait
//! for. A socket that a predecessor hands on is taken as it is, and an agent that stands by binds none that the other may hold. An
//! address that the node does not have yet is bound all the same, so that it is served the moment it comes. Only a
//! missing right is final.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::duty::Duty;
use crate::front::sign::{Hold, ListenerStatus, Sign};
use crate::front::{FrontError, holder};
use crate::node::inheritance::{Heir, Inheritance, Listening};
use crate::node::link::presence::Presence;
use crate::observe::Context;

/// Connections that the kernel keeps until they are accepted: each CLI run of every pod opens one.
const BACKLOG: i32 = 4096;

/// From one attempt to bind to the next. The port of an agent that leaves is to be served within 50 ms; a client that tries all the
/// while sees this pause, and some milliseconds for the other's end and the bind.
const RETRY: Duration = Duration::from_millis(20);

/// From one look at what is in the way to the next: another process may take the port from the one that held it.
const LOOK: Duration = Duration::from_secs(5);

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
    heir: Heir,
    socket: Option<Listening>,
    required: bool,
    obstacle: Option<Obstacle>,
    next_look: Instant,
    clock: Clock,
    duty: Duty,
    sign: Arc<Sign>,
}

/// What is known of all listeners.
#[derive(Debug, Clone)]
pub struct Listeners(Vec<Arc<Sign>>);

/// Why an address can't be bound at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// `EACCES`, `EPERM`.
    NoRight,
    /// `EADDRINUSE`.
    Taken,
    /// `EAFNOSUPPORT`; `EADDRNOTAVAIL`, where it is not bound before it comes.
    Absent,
    /// Anything else.
    Other,
}

impl Place {
    /// Whether the address may come and go. Loopback stays, and who is only local asks for what is there.
    fn is_watched(self) -> bool {
        !self.only_local && !self.address.ip().to_canonical().is_loopback()
    }
}

impl Listener {
    /// Tries once to bind `place`, unless this process stands by. One that is not `required` may be missing for good.
    ///
    /// # Errors
    /// When the kernel's answer will not change.
    pub(super) fn bind(place: Place, required: bool, inheritance: &Inheritance, context: &Context) -> Result<Self, FrontError> {
        let address = place.address;
        let presence = if place.is_watched() { Presence::Unseen } else { Presence::Assumed };
        let sign = Arc::new(Sign::new(address, presence, required, context));
        let (clock, duty, next_look) = (context.clock.clone(), context.duty.clone(), context.clock.now().mono);
        let heir = inheritance.heir(address);
        let mut listener = Self { place, heir, socket: None, required, obstacle: None, next_look, clock, duty, sign };
        if listener.duty.is_serving() {
            listener.open()?;
        }
        Ok(listener)
    }

    fn open(&mut self) -> Result<(), FrontError> {
        let address = self.place.address;
        let Err(source) = open(self.place).and_then(|socket| self.opened(socket)) else { return Ok(()) };
        match obstacle(&source) {
            Obstacle::NoRight => Err(FrontError::NoRight(address)),
            Obstacle::Other => Err(FrontError::Bind { address, source }),
            met @ (Obstacle::Taken | Obstacle::Absent) => {
                self.blocked(met, &source);
                Ok(())
            }
        }
    }

    /// Where its state can be read.
    pub(super) fn sign(&self) -> Arc<Sign> {
        Arc::clone(&self.sign)
    }

    /// The sign of an address that may come and go.
    pub(super) fn watched(&self) -> Option<(IpAddr, Arc<Sign>)> {
        self.place.is_watched().then(|| (self.place.address.ip(), self.sign()))
    }

    /// The port that it listens on.
    pub(super) fn port(&self) -> u16 {
        self.place.address.port()
    }

    /// The socket, as soon as it can be had; `None` once it is clear that the node does without.
    pub(super) async fn socket(&mut self) -> Option<Listening> {
        while self.socket.is_none() {
            if !self.required && self.obstacle == Some(Obstacle::Absent) {
                self.heir.renounce();
                return None;
            }
            if self.obstacle.is_some() {
                tokio::time::sleep(RETRY).await;
            }
            let socket = self.heir.inherit(&self.duty).await.map_or_else(|| open(self.place), Ok);
            if let Err(error) = socket.and_then(|socket| self.opened(socket)) {
                self.blocked(obstacle(&error), &error);
            }
        }
        self.socket.take()
    }

    /// It listens no more.
    pub(super) fn closed(&self) {
        self.sign.unbound(Hold::Idle);
    }

    fn opened(&mut self, socket: std::net::TcpListener) -> io::Result<()> {
        let address = socket.local_addr()?;
        self.socket = Some(self.heir.listen(socket)?);
        self.place.address = address;
        self.sign.bound(address);
        Ok(())
    }

    /// Says what is in the way. The sign tells it on when it changes.
    fn blocked(&mut self, met: Obstacle, error: &io::Error) {
        let now = self.clock.now().mono;
        if self.obstacle.replace(met) == Some(met) && now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        let detail = detail(met, self.place.address, error);
        self.sign.unbound(if met == Obstacle::Absent { Hold::Impossible(detail) } else { Hold::Blocked(detail) });
    }
}

/// Whether `address` could be served on now. It is bound for an instant: meanwhile who binds it with `SO_REUSEADDR`, as servers do,
/// succeeds, and who binds it without gets `EADDRINUSE`.
///
/// # Errors
/// What is in the way; [`obstacle`] says what that means.
pub fn claim(address: SocketAddr) -> io::Result<()> {
    bound(Place { address, only_local: false }).map(drop)
}

fn open(place: Place) -> io::Result<std::net::TcpListener> {
    let socket = bound(place)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(place: Place) -> io::Result<Socket> {
    let Place { address, only_local } = place;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if place.is_watched() {
        bind_before_it_comes(&socket, address)?;
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

/// ip(7), `IP_FREEBIND`: needs no capability.
fn bind_before_it_comes(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => socket.set_freebind_v6(true),
    }
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

impl Listeners {
    /// Every listener as it is now.
    #[must_use]
    pub fn statuses(&self) -> Vec<ListenerStatus> {
        self.0.iter().map(|sign| sign.status()).collect()
    }

    /// The addresses on which connections arrive and are taken now.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.statuses().into_iter().filter(|status| status.listening).map(|status| status.address).collect()
    }
}

impl<'l> FromIterator<&'l Listener> for Listeners {
    fn from_iter<I: IntoIterator<Item = &'l Listener>>(listeners: I) -> Self {
        Self(listeners.into_iter().map(Listener::sign).collect())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

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
        let listener = TcpListener::from_std(open(place("127.0.0.1:0")).unwrap()).unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, _client) = tokio::join!(listener.accept(), client);
        assert!(accepted.unwrap().0.nodelay().unwrap());
        if let Ok(ipv6) = open(place("[::1]:0")) {
            assert!(socket2::SockRef::from(&ipv6).only_v6().unwrap());
        }
    }
}
