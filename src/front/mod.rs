//! The credentials endpoint: `GET /v1/credentials` on the node's link-local addresses.
//!
//! From the socket inwards: `listener` gets the sockets and `sign` tells of them, `accept` takes connections within `caps`, `connection` speaks
//! HTTP/1 within `pace`, `endpoint` turns a head into a reply by way of `request`, the broker and `reply`, and `record`
//! counts it.

mod accept;
mod advice;
mod caps;
mod connection;
mod endpoint;
pub mod holder;
pub mod listener;
pub mod nonce;
mod pace;
mod record;
mod reply;
mod request;
pub mod sign;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::base::duty::Duty;
use crate::broker::Broker;
use crate::front::accept::Gate;
use crate::front::caps::Caps;
use crate::front::endpoint::{Endpoint, Source};
use crate::front::listener::{Listener, Listeners, Place};
use crate::front::nonce::Nonces;
use crate::front::record::Record;
use crate::front::reply::Replies;
use crate::front::request::Hosts;
use crate::node::inheritance::Inheritance;
use crate::node::link::presence::{self, Presence};
use crate::node::source::{self, SourceCheck};
use crate::observe::Context;

/// Where to serve, and to how many.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses to bind, which are also those that `Host` may name.
    pub hosts: Vec<IpAddr>,
    /// The port on each; 0 lets the kernel choose.
    pub port: u16,
    /// Take connections from this very network namespace only. An address on the loopback link is otherwise within reach of every
    /// neighbour that sends its packets here, since Linux answers for all of its addresses on every link.
    pub only_local: bool,
    /// What is done about connections from outside this node.
    pub source_check: source::Mode,
    /// Open connections in all. Each takes a file descriptor.
    pub max_connections: usize,
    /// Open connections from one source address.
    pub max_connections_per_source: usize,
}

impl Config {
    /// Whether the node can't do without `host`: it can without IPv6 where it serves IPv4 too.
    #[must_use]
    pub fn requires(&self, host: IpAddr) -> bool {
        host.is_ipv4() || self.hosts.iter().all(IpAddr::is_ipv6)
    }
}

/// Why the front can't be.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// `EACCES`, `EPERM`: no waiting helps.
    #[error("no right to bind {0}: grant the capability NET_BIND_SERVICE, or choose a port above 1023")]
    NoRight(SocketAddr),
    /// Anything that is neither a taken port nor an address that is not there.
    #[error("can't listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
}

/// The bound endpoint. Connections wait in the kernel's queue until [`Front::serve`].
#[derive(Debug)]
pub struct Front {
    hosts: Vec<IpAddr>,
    context: Context,
    gate: Gate,
    nonces: Arc<Nonces>,
    bound: Vec<Listener>,
}

/// What all listeners share once they serve.
#[derive(Clone)]
struct Service {
    hosts: Vec<IpAddr>,
    source: Source,
    nonces: Arc<Nonces>,
    replies: Arc<Replies>,
    record: Record,
    duty: Duty,
}

impl Front {
    /// Binds every host once, or, in a process that stands by, waits for what `inheritance` brings. A port that is taken, or an
    /// address that the node does not have yet, is tried again by [`Front::serve`].
    ///
    /// # Errors
    /// When no waiting would help.
    pub fn bind(config: Config, inheritance: &Inheritance, context: Context) -> Result<Self, FrontError> {
        let place = |host: &IpAddr| Place { address: SocketAddr::new(*host, config.port), only_local: config.only_local };
        let bind = |host: &IpAddr| Listener::bind(place(host), config.requires(*host), inheritance, &context);
        let bound = config.hosts.iter().map(bind).collect::<Result<_, _>>()?;
        let gauge = context.metrics.front.connections.clone();
        let caps = Caps::new(config.max_connections, config.max_connections_per_source, gauge);
        let gate = Gate { caps, sources: Arc::new(SourceCheck::new(config.source_check, &context)) };
        let nonces = Arc::new(Nonces::new(context.clock.clone()));
        Ok(Self { hosts: config.hosts, context, gate, nonces, bound })
    }

    /// The listeners' states, now and later.
    #[must_use]
    pub fn listeners(&self) -> Listeners {
        self.bound.iter().collect()
    }

    /// The nonces by which this process knows itself.
    #[must_use]
    pub fn nonces(&self) -> Arc<Nonces> {
        Arc::clone(&self.nonces)
    }

    /// Who judges where connections come from.
    #[must_use]
    pub fn source_check(&self) -> &SourceCheck {
        &self.gate.sources
    }

    /// Serves until [`crate::base::tasks::Tasks::shutdown`].
    pub fn serve(self, broker: Arc<Broker>) {
        self.serve_from(Source::Broker(broker));
    }

    /// Serves one connection that no listener took, such as one in memory, until either side ends it.
    pub async fn serve_connection<T>(self, broker: Arc<Broker>, io: T, peer: IpAddr)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let endpoint = self.service(Source::Broker(broker)).endpoint(0);
        connection::serve(io, peer, endpoint, self.context.tasks.shutting_down()).await;
    }

    fn serve_from(self, source: Source) {
        let service = self.service(source);
        self.watch();
        let context = self.context;
        for listener in self.bound {
            let serve = run(listener, service.clone(), self.gate.clone(), context.clone());
            context.tasks.spawn_critical("credentials listener", serve);
        }
    }

    /// Learns where the addresses are, and that they come and go.
    fn watch(&self) {
        let Context { clock, tasks, readiness, metrics, .. } = self.context.clone();
        let (hosts, signs): (Vec<_>, Vec<_>) = self.bound.iter().filter_map(Listener::watched).unzip();
        metrics.front.link_up.set(i64::from(hosts.is_empty()));
        if hosts.is_empty() {
            return;
        }
        let (part, shutdown) = (readiness.advisory("addresses"), tasks.shutting_down());
        tasks.spawn_critical("addresses", async move {
            let seen = |presences: Vec<Presence>| {
                signs.iter().zip(presences).for_each(|(sign, presence)| sign.placed(presence));
                metrics.front.link_up.set(i64::from(signs.iter().all(|sign| sign.is_in_place())));
            };
            tokio::select! {
                never = presence::follow(&hosts, &clock, &part, seen) => match never {},
                () = shutdown => (),
            }
        });
    }

    fn service(&self, source: Source) -> Service {
        let Context { clock, metrics, audit, sheds, duty, .. } = self.context.clone();
        let record = Record { clock, metrics, audit, sheds };
        let (hosts, nonces) = (self.hosts.clone(), Arc::clone(&self.nonces));
        Service { hosts, source, nonces, replies: Arc::new(Replies::new()), record, duty }
    }
}

async fn run(mut listener: Listener, service: Service, gate: Gate, context: Context) {
    let socket = tokio::select! {
        socket = listener.socket() => socket,
        () = context.tasks.shutting_down() => return,
    };
    match socket {
        Some(socket) => accept::run(socket, service.endpoint(listener.port()), gate, context).await,
        None => context.tasks.shutting_down().await,
    }
    listener.closed();
}

impl Service {
    fn endpoint(self, port: u16) -> Arc<Endpoint> {
        let Self { hosts, source, nonces, replies, record, duty } = self;
        Arc::new(Endpoint { hosts: Hosts::new(&hosts, port), source, nonces, replies, record, duty })
    }
}

#[cfg(test)]
mod tests {
    mod succession;

    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::base::clock::Clock;
    use crate::front::endpoint::tests::SCRIPTED;
    use crate::front::sign::ListenerStatus;

    fn context() -> Context {
        Context::new(Clock::System)
    }

    fn config(hosts: &[&str], port: u16) -> Config {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let source_check = source::Mode::Enforce;
        Config { hosts, port, only_local: false, source_check, max_connections: 4, max_connections_per_source: 2 }
    }

    /// One whole exchange on a connection of its own.
    async fn fetch(address: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let token = "a".repeat(40);
        let head =
            format!("GET /v1/credentials HTTP/1.1\r\nHost: {address}\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn it_serves_on_what_it_bound_and_stops_when_told() {
        let context = context();
        let front = Front::bind(config(&["127.0.0.1"], 0), &Inheritance::default(), context.clone()).unwrap();
        let listeners = front.listeners();
        let address = listeners.addresses()[0];
        assert!(context.readiness.pending().is_empty());
        front.serve_from(SCRIPTED);
        assert!(fetch(address).await.unwrap().starts_with("HTTP/1.1 200"));
        assert!(context.metrics.encode().unwrap().contains("listener_up{family=\"ipv4\"} 1"));

        let mut idle = TcpStream::connect(address).await.unwrap();
        while context.metrics.front.connections.get() == 0 {
            tokio::task::yield_now().await;
        }
        context.tasks.shutdown();
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
        context.tasks.drained().await;
        assert!(fetch(address).await.is_err());
        assert_eq!((context.metrics.front.connections.get(), listeners.addresses().len()), (0, 0));
        assert!(context.tasks.ended().is_empty());
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_holder_and_served_once_free() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = holder.local_addr().unwrap();
        let context = context();
        let front = Front::bind(config(&["127.0.0.1"], address.port()), &Inheritance::default(), context.clone()).unwrap();
        let detail = context.readiness.pending().into_values().next().unwrap();
        let uid = nix::unistd::geteuid();
        assert!(detail.contains(&address.to_string()) && detail.contains(&format!("uid {uid}")), "{detail}");
        front.serve_from(SCRIPTED);
        drop(holder);
        while !context.readiness.pending().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(fetch(address).await.unwrap().starts_with("HTTP/1.1 200"));
    }

    /// Waits for the first look at the node's addresses.
    async fn look(listeners: &Listeners) -> Vec<ListenerStatus> {
        loop {
            let statuses = listeners.statuses();
            if statuses.iter().all(|status| !status.detail.contains("not known yet")) {
                return statuses;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn an_ipv6_address_that_the_node_lacks_is_no_fault() {
        let context = context();
        let front = Front::bind(config(&["127.0.0.1", "2001:db8::23"], 0), &Inheritance::default(), context.clone()).unwrap();
        let listeners = front.listeners();
        front.serve_from(SCRIPTED);
        let [ipv4, ipv6] = <[_; 2]>::try_from(look(&listeners).await).unwrap();
        assert!(context.readiness.pending().is_empty());
        assert!(ipv4.listening && !ipv6.listening && ipv6.detail.contains("not on this node"), "{ipv6:?}");
        let metrics = context.metrics.encode().unwrap();
        assert!(metrics.contains("listener_up{family=\"ipv6\"} 0") && metrics.contains("credlet_link_up 1"), "{metrics}");
        assert!(context.tasks.ended().is_empty());
    }

    #[tokio::test]
    async fn an_address_that_is_not_there_yet_keeps_the_node_unready() {
        for host in ["192.0.2.23", "2001:db8::23"] {
            let context = context();
            let front = Front::bind(config(&[host], 0), &Inheritance::default(), context.clone()).unwrap();
            let listeners = front.listeners();
            assert!(listeners.addresses().is_empty());
            front.serve_from(SCRIPTED);
            assert!(!look(&listeners).await[0].listening, "nothing else would serve");
            assert_eq!(context.readiness.pending().len(), 1);
            assert!(context.metrics.encode().unwrap().contains("credlet_link_up 0"));
        }
    }

    #[tokio::test]
    async fn a_refusal_reaches_a_client_that_still_sends() {
        let front = Front::bind(config(&["127.0.0.1"], 0), &Inheritance::default(), context()).unwrap();
        let address = front.listeners().addresses()[0];
        front.serve_from(SCRIPTED);
        let long = "y".repeat(200_000);
        let body = format!("Host: {address}\r\nContent-Length: 200000\r\n\r\n{long}");
        for (rest, status) in [(format!("x: {long}\r\n\r\n"), "431"), (body, "400")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let sent = stream.write_all(format!("GET /v1/credentials HTTP/1.1\r\n{rest}").as_bytes()).await;
            let mut text = vec![0; 12];
            stream.read_exact(&mut text).await.unwrap();
            assert_eq!(text, format!("HTTP/1.1 {status}").as_bytes(), "{sent:?}");
        }
    }

    #[tokio::test]
    async fn connections_over_a_cap_are_closed_and_counted() {
        let context = context();
        let front = Front::bind(config(&["127.0.0.1"], 0), &Inheritance::default(), context.clone()).unwrap();
        let address = front.listeners().addresses()[0];
        front.serve_from(SCRIPTED);
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(third.read(&mut [0]).await.unwrap(), 0);
        let text = context.metrics.encode().unwrap();
        assert!(text.contains("connections_refused_total{limit=\"source_connections\"} 1"), "{text}");
        assert!(text.contains("refusals_total{reason=\"conn_cap\"} 1") && text.contains("credlet_connections 2"));
        drop(held);
        while context.metrics.front.connections.get() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(fetch(address).await.unwrap().starts_with("HTTP/1.1 200"));
    }
}
