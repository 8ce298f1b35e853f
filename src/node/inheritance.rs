//! Listening sockets that outlive the process which opened them.
//!
//! Whoever connects to a socket waits in the kernel's queue for as long as any process holds it, and is refused once the last one
//! has closed it. So agents that follow each other hand their sockets on: each part that listens is the [`Heir`] of its address,
//! takes the socket that a predecessor left, and has it ready for a successor.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use socket2::{Protocol, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_util::net::Listener;

use crate::base::duty::Duty;

/// The sockets of this process, had and hoped for. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Inheritance {
    estate: Arc<Mutex<Estate>>,
    arrived: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Estate {
    heirs: Vec<(SocketAddr, oneshot::Sender<std::net::TcpListener>)>,
    held: Vec<Weak<TcpListener>>,
}

/// Who listens on one address.
#[derive(Debug)]
pub struct Heir {
    address: SocketAddr,
    inheritance: Inheritance,
    inbox: Option<oneshot::Receiver<std::net::TcpListener>>,
}

/// A socket that can be handed on for as long as it listens.
#[derive(Debug)]
pub struct Listening(Arc<TcpListener>);

/// Why a descriptor is of no use.
#[derive(Debug, thiserror::Error)]
enum Useless {
    #[error("it is no socket: {0}")]
    Unknown(#[from] io::Error),
    #[error("it does not listen for TCP")]
    NotListening,
    #[error("this agent does not listen on {0}")]
    Unwanted(SocketAddr),
}

impl Inheritance {
    /// From now on a socket of `address` is of use.
    #[must_use]
    pub fn heir(&self, address: SocketAddr) -> Heir {
        let (outbox, inbox) = oneshot::channel();
        self.estate.lock().heirs.push((address, outbox));
        Heir { address, inheritance: self.clone(), inbox: Some(inbox) }
    }

    /// Hands a predecessor's sockets to their heirs, and closes those that have none. Where all have theirs, there is nothing to say
    /// of that: an agent that stands by brings its own sockets each time it comes.
    pub fn receive(&self, descriptors: Vec<OwnedFd>) {
        if self.estate.lock().heirs.is_empty() {
            return;
        }
        for descriptor in descriptors {
            match self.give(descriptor) {
                Ok(()) => (),
                Err(unwanted @ Useless::Unwanted(_)) => {
                    tracing::warn!(%unwanted, "a socket that was handed on is closed: once this agent serves, nobody answers there");
                }
                Err(useless) => tracing::info!(%useless, "what was handed on is closed"),
            }
        }
        self.arrived.send_replace(true);
    }

    /// Duplicates of all sockets that listen now.
    ///
    /// # Errors
    /// Without descriptors to spare.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let mut estate = self.estate.lock();
        estate.held.retain(|held| held.strong_count() > 0);
        estate.held.iter().filter_map(Weak::upgrade).map(|held| held.as_fd().try_clone_to_owned()).collect()
    }

    fn give(&self, descriptor: OwnedFd) -> Result<(), Useless> {
        let socket = SockRef::from(&descriptor);
        if socket.protocol()? != Some(Protocol::TCP) || !socket.is_listener()? {
            return Err(Useless::NotListening);
        }
        let socket = std::net::TcpListener::from(descriptor);
        let address = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        let mut estate = self.estate.lock();
        if estate.listens(address) {
            return Ok(());
        }
        let heir = estate.heirs.iter().position(|(of, outbox)| *of == address && !outbox.is_closed());
        let (_, outbox) = estate.heirs.swap_remove(heir.ok_or(Useless::Unwanted(address))?);
        outbox.send(socket).map_err(|_| Useless::Unwanted(address))
    }
}

impl Estate {
    /// Whether this process has a socket of `address` by now.
    fn listens(&self, address: SocketAddr) -> bool {
        self.held.iter().filter_map(Weak::upgrade).any(|held| held.local_addr().is_ok_and(|of| of == address))
    }
}

impl Heir {
    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket that was handed on; `None` once this process may bind one of its own: because it serves, or because what was
    /// handed on came without.
    pub async fn inherit(&mut self, duty: &Duty) -> Option<std::net::TcpListener> {
        let mut arrived = self.inheritance.arrived.subscribe();
        tokio::select! {
            biased;
            socket = received(&mut self.inbox) => Some(socket),
            () = duty.until(true) => None,
            _ = arrived.wait_for(|arrived| *arrived) => None,
        }
    }

    /// Listens on `socket`, which may be handed on as long as it does; no other one is of use any more.
    ///
    /// # Errors
    /// When the runtime can't watch it.
    pub fn listen(&mut self, socket: std::net::TcpListener) -> io::Result<Listening> {
        let socket = Arc::new(TcpListener::from_std(socket)?);
        self.inheritance.estate.lock().held.push(Arc::downgrade(&socket));
        self.renounce();
        Ok(Listening(socket))
    }

    /// No socket is of use any more.
    pub fn renounce(&mut self) {
        self.inbox = None;
        self.inheritance.estate.lock().heirs.retain(|(_, outbox)| !outbox.is_closed());
    }
}

/// Never completes where nothing can come any more.
async fn received(inbox: &mut Option<oneshot::Receiver<std::net::TcpListener>>) -> std::net::TcpListener {
    if let Some(waiting) = inbox
        && let Ok(socket) = waiting.await
    {
        *inbox = None;
        return socket;
    }
    std::future::pending().await
}

impl Listener for Listening {
    type Io = TcpStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.0.poll_accept(context)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The next connection while this process serves. On standby the queue is the other agent's, from that instant on.
///
/// # Errors
/// Those of accept(2).
pub async fn accept<L: Listener>(listener: &mut L, duty: &Duty) -> io::Result<(L::Io, L::Addr)> {
    loop {
        duty.until(true).await;
        tokio::select! {
            biased;
            () = duty.until(false) => (),
            accepted = listener.accept() => return accepted,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bound() -> (std::net::TcpListener, SocketAddr) {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn a_socket_goes_from_heir_to_heir_and_its_queue_with_it() {
        let (socket, address) = bound();
        let [old, new] = [Inheritance::default(), Inheritance::default()];
        let mut heir = old.heir(address);
        let listening = heir.listen(socket).unwrap();
        let client = TcpStream::connect(address).await.unwrap();

        let mut heir = new.heir(address);
        new.receive(old.duplicates().unwrap());
        let handed_on = heir.inherit(&Duty::standby()).await.unwrap();
        let mut inherited = heir.listen(handed_on).unwrap();
        drop(listening);
        assert!(old.duplicates().unwrap().is_empty(), "what listens no more is not handed on");
        assert_eq!(new.duplicates().unwrap().len(), 1);
        let (_, peer) = accept(&mut inherited, &Duty::serving()).await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[tokio::test]
    async fn what_nobody_wants_is_closed() {
        let inheritance = Inheritance::default();
        let ((unwanted, elsewhere), (second, address)) = (bound(), bound());
        let mut heir = inheritance.heir(address);
        let pipe = std::io::pipe().unwrap().0;
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let quiet = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let again = second.try_clone().unwrap();
        inheritance.receive(vec![unwanted.into(), pipe.into(), datagrams.into(), quiet.into(), second.into(), again.into()]);
        assert!(TcpStream::connect(elsewhere).await.is_err());
        assert!(heir.inherit(&Duty::standby()).await.is_some());
        heir.renounce();
        assert!(TcpStream::connect(address).await.is_err(), "one is enough");
    }

    #[tokio::test]
    async fn what_is_held_already_is_no_loss_and_an_address_that_is_not_is_one() {
        let inheritance = Inheritance::default();
        let ((unwanted, elsewhere), (socket, address)) = (bound(), bound());
        let again = socket.try_clone().unwrap();
        let _listening = inheritance.heir(address).listen(socket).unwrap();
        assert!(inheritance.give(again.into()).is_ok());
        let lost = inheritance.give(unwanted.into()).unwrap_err();
        assert!(matches!(lost, Useless::Unwanted(of) if of == elsewhere), "{lost}");
        assert!(matches!(inheritance.give(std::io::pipe().unwrap().0.into()), Err(Useless::Unknown(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_inherits_nothing_binds_once_it_serves_or_the_rest_has_come() {
        let (inheritance, duty) = (Inheritance::default(), Duty::standby());
        let mut heir = inheritance.heir("127.0.0.1:1".parse().unwrap());
        let early = tokio::time::timeout(Duration::from_secs(60), heir.inherit(&duty)).await;
        assert!(early.is_err());
        duty.set(true);
        assert!(heir.inherit(&duty).await.is_none());
        duty.set(false);
        inheritance.receive(Vec::new());
        assert!(heir.inherit(&duty).await.is_none());
    }

    #[tokio::test]
    async fn the_queue_is_left_alone_on_standby() {
        let (socket, address) = bound();
        let (inheritance, duty) = (Inheritance::default(), Duty::standby());
        let mut listening = inheritance.heir(address).listen(socket).unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        tokio::select! {
            biased;
            _ = accept(&mut listening, &duty) => panic!("accepted on standby"),
            () = tokio::time::sleep(Duration::from_millis(50)) => (),
        }
        duty.set(true);
        accept(&mut listening, &duty).await.unwrap();
    }
}
