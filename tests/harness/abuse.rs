//! What one pod may do to the agent of its node.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::anyhow;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use credlet::base::clock::Clock;
use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::harness::http::{connect_from, get_from};

/// Targets of the abuser's service account, `target-0` and so on.
pub(crate) const TARGETS: usize = 50;
/// Requests are sent in bundles, one in each step.
const STEP: Duration = Duration::from_millis(5);
/// Requests a second of a pod in a busy loop, and of one with tokens that prove nothing.
const FLOOD: usize = 20_000;
const JUNK: usize = 2_000;
/// So much of a flood is answered; without optimization an agent is slower.
const LEAST_FLOOD: usize = if cfg!(debug_assertions) { 1_000 } else { FLOOD * 3 / 4 };
const IDLE: usize = 5_000;
const SLOW: usize = 256;
/// After so many new connections those that the agent has closed are given up.
const TRIED_AT_ONCE: usize = 64;
/// Connections that send heads as large as they can, one after the other.
const HEADS_AT_ONCE: usize = 8;

/// A way to abuse the agent.
#[derive(Debug, Clone, Copy, strum::EnumIter)]
pub(crate) enum Abuse {
    /// 20,000 good requests a second.
    Flood,
    /// 5,000 connections on which nothing comes.
    IdleConnections,
    /// Heads that come a byte at a time.
    SlowHeads,
    /// Tokens that are none.
    JunkTokens,
    /// Tokens by keys that nobody has.
    ForgedKids,
    /// Heads that are too large.
    HeaderFloods,
    /// The first requests for fifty targets, all at once.
    Misses,
}

/// A pod, by how a thread gets into its network and from where its connections come; and its token.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) enter: Arc<dyn Fn() -> io::Result<()> + Send + Sync>,
    pub(crate) from: Ipv4Addr,
    pub(crate) agent: SocketAddr,
    pub(crate) token: String,
}

/// What an abuser has done: abuse that the agent never saw proves nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deeds {
    /// Requests that were answered, connections tried, parts of heads sent, whole heads that were.
    pub(crate) done: usize,
    /// The same each second.
    pub(crate) a_second: usize,
    /// Connections or heads that were open at the end, targets served.
    pub(crate) held: usize,
}

#[derive(Debug, Default)]
struct Tally {
    done: AtomicUsize,
    held: AtomicUsize,
}

/// An abuser at work. Dropping it ends that.
pub(crate) struct Abuser {
    stop: CancellationToken,
    begun: Instant,
    tally: Arc<Tally>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Abuse {
    /// What it must come to, on two busy cores. A source may hold 256 connections.
    pub(crate) fn least(self) -> Deeds {
        let [done, a_second, held] = match self {
            Self::Flood => [0, LEAST_FLOOD, 0],
            Self::IdleConnections => [1_000, 0, 200],
            Self::SlowHeads => [0, 500, 200],
            Self::JunkTokens | Self::ForgedKids => [0, 200, 0],
            Self::HeaderFloods => [0, 50, 0],
            Self::Misses => [TARGETS / 2, 0, 0],
        };
        Deeds { done, a_second, held }
    }
}

impl Deeds {
    /// Whether nothing of it is less.
    pub(crate) fn reaches(self, least: Self) -> bool {
        self.done >= least.done && self.a_second >= least.a_second && self.held >= least.held
    }
}

impl Tally {
    fn add(&self, done: usize) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    fn holds(&self, held: usize) {
        self.held.store(held, Ordering::Relaxed);
    }
}

impl Place {
    /// Runs `work` there, on a thread of its own.
    pub(super) fn spawn<T, F>(&self, work: impl FnOnce(Self) -> F + Send + 'static) -> JoinHandle<anyhow::Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>>,
    {
        let place = self.clone();
        std::thread::spawn(move || {
            (place.enter)()?;
            Builder::new_current_thread().enable_all().build()?.block_on(work(place))
        })
    }

    /// Abuses the agent from here.
    pub(crate) fn begin(&self, abuse: Abuse) -> anyhow::Result<Abuser> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let (stop, tally) = (CancellationToken::new(), Arc::<Tally>::default());
        let (stopped, own_tally) = (stop.clone(), Arc::clone(&tally));
        let thread = self.spawn(async move |place| {
            tokio::select! {
                ended = place.abuse(abuse, &own_tally) => ended,
                () = stopped.cancelled() => Ok(()),
            }
        });
        Ok(Abuser { stop, begun: Clock::System.now().mono, tally, thread: Some(thread) })
    }

    pub(super) async fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = connect_from(self.from, self.agent).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(super) fn request(&self, path: &str, token: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n\r\n", self.agent)
    }

    async fn abuse(&self, abuse: Abuse, tally: &Arc<Tally>) -> anyhow::Result<()> {
        match abuse {
            Abuse::Flood => self.send(FLOOD, || self.request("/v1/credentials", &self.token), tally).await,
            Abuse::IdleConnections => self.idle(tally).await,
            Abuse::SlowHeads => self.slow_heads(tally).await,
            Abuse::JunkTokens => self.send(JUNK, || self.request("/v1/credentials", &junk()), tally).await,
            Abuse::ForgedKids => self.send(JUNK, || self.request("/v1/credentials", &self.forged()), tally).await,
            Abuse::HeaderFloods => self.header_floods(tally).await,
            Abuse::Misses => self.misses(tally).await,
        }
    }

    /// Sends so many requests a second, pipelined, whatever the answers are, of which it only sees how many there are.
    async fn send(&self, a_second: usize, request: impl Fn() -> String, tally: &Arc<Tally>) -> anyhow::Result<()> {
        let bundle = a_second * usize::try_from(STEP.as_millis())? / 1_000;
        let mut ticks = interval(STEP);
        loop {
            let (mut reader, mut writer) = self.connect().await?.into_split();
            let tally = Arc::clone(tally);
            let reading = tokio::spawn(async move {
                let mut answers = [0; 65_536];
                while let Ok(read @ 1..) = reader.read(&mut answers).await {
                    tally.add(String::from_utf8_lossy(&answers[..read]).matches("HTTP/1.1 ").count());
                }
            });
            let mut sent = Ok(());
            while sent.is_ok() {
                ticks.tick().await;
                let bytes: String = (0..bundle).map(|_| request()).collect();
                sent = writer.write_all(bytes.as_bytes()).await;
            }
            reading.abort();
        }
    }

    async fn idle(&self, tally: &Tally) -> anyhow::Result<()> {
        let mut held = Vec::new();
        for tried in 1..=IDLE {
            held.extend(self.connect().await.ok());
            tally.add(1);
            if tried % TRIED_AT_ONCE == 0 {
                held.retain(is_open);
                tally.holds(held.len());
            }
        }
        loop {
            // Those that the agent has not looked at yet seem open.
            sleep(STEP * 20).await;
            held.retain(is_open);
            tally.holds(held.len());
        }
    }

    async fn slow_heads(&self, tally: &Tally) -> anyhow::Result<()> {
        let mut held: Vec<Option<TcpStream>> = (0..SLOW).map(|_| None).collect();
        loop {
            for place in &mut held {
                if let Some(stream) = place {
                    if !is_open(stream) || stream.write_all(b"x").await.is_err() {
                        *place = None;
                    }
                } else if let Ok(mut stream) = self.connect().await {
                    let begun = stream.write_all(b"GET /v1/credentials HTTP/1.1\r\nx: ").await;
                    *place = begun.is_ok().then_some(stream);
                }
                tally.add(usize::from(place.is_some()));
            }
            sleep(STEP * 20).await;
            tally.holds(held.iter().flatten().filter(|stream| is_open(stream)).count());
        }
    }

    async fn header_floods(&self, tally: &Tally) -> anyhow::Result<()> {
        let many: String = (0..2_000).map(|number| format!("x-{number}: y\r\n")).collect();
        let large = format!("x: {}\r\n", "y".repeat(64 * 1024));
        let heads = [many, large].map(|headers| format!("GET /v1/credentials HTTP/1.1\r\nHost: {}\r\n{headers}", self.agent));
        let attack = async |head: &str| {
            loop {
                if let Ok(mut stream) = self.connect().await {
                    // It is closed before all of it is sent.
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.read(&mut [0; 1024]).await;
                    tally.add(1);
                }
            }
        };
        let attacks = heads.iter().cycle().take(HEADS_AT_ONCE).map(|head| attack(head));
        join_all(attacks).await;
        Ok(())
    }

    /// Every target is asked for until it is served.
    async fn misses(&self, tally: &Tally) -> anyhow::Result<()> {
        let headers = [("authorization", self.token.as_str())];
        let served = AtomicUsize::new(0);
        let misses = (0..TARGETS).map(async |number| {
            let path = format!("/v1/credentials/target-{number}");
            loop {
                let answer = get_from(self.from, self.agent, &path, &headers).await;
                tally.add(usize::from(answer.is_ok()));
                if answer.is_ok_and(|answer| answer.status == 200) {
                    return tally.holds(served.fetch_add(1, Ordering::Relaxed) + 1);
                }
                sleep(STEP * 20).await;
            }
        });
        join_all(misses).await;
        std::future::pending().await
    }

    /// A token like a good one, by a key that nobody has.
    fn forged(&self) -> String {
        let header = format!(r#"{{"alg":"ES256","kid":"{:032x}","typ":"JWT"}}"#, rand::random::<u128>());
        let (_, rest) = self.token.split_once('.').unwrap_or_default();
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
    }
}

fn junk() -> String {
    let [header, payload, signature] = [24, 600, 64].map(|length| {
        let bytes: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        URL_SAFE_NO_PAD.encode(bytes)
    });
    format!("{header}.{payload}.{signature}")
}

/// Whether the agent has neither closed a connection nor said anything on it.
fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Abuser {
    /// Ends it, and says what it has done.
    pub(crate) fn end(mut self) -> anyhow::Result<Deeds> {
        self.stop.cancel();
        let took = Clock::System.now().mono - self.begun;
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).map_err(|_| anyhow!("the abuser has panicked"))??;
        let [done, held] = [&self.tally.done, &self.tally.held].map(|count| count.load(Ordering::Relaxed));
        let a_second = done * 1_000 / usize::try_from(took.as_millis())?.max(1);
        Ok(Deeds { done, a_second, held })
    }
}

impl Drop for Abuser {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
