//! The client: many connections on one thread, with requests written in advance, so that little of the CPU goes to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::ensure;
use credlet::base::clock::Clock;
use strum::{EnumIter, IntoStaticStr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent;

/// Connections at a time.
const CONNECTIONS: usize = 32;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, IntoStaticStr)]
pub(crate) enum Mode {
    /// One after the other on a connection.
    #[strum(serialize = "keep-alive")]
    KeepAlive,
    /// Each on a connection of its own, as most SDKs do.
    #[strum(serialize = "connection a request")]
    Fresh,
}

/// Prepared requests, one a pod.
pub(crate) struct Client {
    runtime: Runtime,
    keep_alive: Arc<[Vec<u8>]>,
    fresh: Arc<[Vec<u8>]>,
}

/// What all connections of one run share.
struct Run {
    address: SocketAddr,
    requests: Arc<[Vec<u8>]>,
    until: Instant,
    served: AtomicU32,
}

impl Client {
    pub(crate) fn new(tokens: &[String]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let requests = |more: &str| tokens.iter().map(|token| agent::request(token, more)).collect();
        Ok(Self { runtime, keep_alive: requests(""), fresh: requests("Connection: close\r\n") })
    }

    /// The requests that leave their connection open.
    pub(crate) fn requests(&self) -> &[Vec<u8>] {
        &self.keep_alive
    }

    /// Asks once for each pod, so that what comes later is a hit.
    pub(crate) fn warm_up(&self, address: SocketAddr) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            for request in self.fresh.iter() {
                exchange(address, request, &mut Vec::new()).await?;
            }
            Ok(())
        })
    }

    /// Asks for as long as `time`; returns how often it was answered.
    pub(crate) fn ask(&self, address: SocketAddr, mode: Mode, time: Duration) -> anyhow::Result<u32> {
        let requests = Arc::clone(if mode == Mode::KeepAlive { &self.keep_alive } else { &self.fresh });
        let run = Run { address, requests, until: Clock::System.now().mono + time, served: AtomicU32::new(0) };
        self.runtime.block_on(Arc::new(run).all(mode))
    }
}

impl Run {
    async fn all(self: Arc<Self>, mode: Mode) -> anyhow::Result<u32> {
        let mut connections = JoinSet::new();
        for number in 0..CONNECTIONS {
            let run = Arc::clone(&self);
            connections.spawn(async move {
                match mode {
                    Mode::KeepAlive => run.on_one_connection(number).await,
                    Mode::Fresh => run.on_many_connections(number).await,
                }
            });
        }
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        Ok(self.served.load(Ordering::Relaxed))
    }

    async fn on_one_connection(&self, number: usize) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let mut answer = Vec::new();
        for request in self.requests(number) {
            stream.write_all(request).await?;
            if answer.is_empty() {
                answer = first_answer(&mut stream).await?;
            } else {
                stream.read_exact(&mut answer).await?;
                self.count(&answer)?;
            }
        }
        Ok(())
    }

    async fn on_many_connections(&self, number: usize) -> anyhow::Result<()> {
        let mut answer = Vec::new();
        for request in self.requests(number) {
            exchange(self.address, request, &mut answer).await?;
            self.count(&answer)?;
        }
        Ok(())
    }

    /// One pod after the other, each connection from another one on, until time is up.
    fn requests(&self, number: usize) -> impl Iterator<Item = &Vec<u8>> {
        let first = number * self.requests.len() / CONNECTIONS;
        self.requests.iter().cycle().skip(first).take_while(|_| Clock::System.now().mono < self.until)
    }

    fn count(&self, answer: &[u8]) -> anyhow::Result<()> {
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "not served: {}", String::from_utf8_lossy(answer));
        self.served.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// One request on a connection of its own.
async fn exchange(address: SocketAddr, request: &[u8], answer: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    answer.clear();
    stream.read_to_end(answer).await?;
    Ok(())
}

/// All answers are as long as this one, whose end is that of its JSON.
async fn first_answer(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
    }
    Ok(answer)
}
