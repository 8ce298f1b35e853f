//! What one pod may do to the agent of its node, and what its neighbour notices.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use credlet::base::clock::Clock;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::Cloud;
use credlet::sim::iam::role::Role;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::Operation;
use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use strum::IntoEnumIterator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::harness::agent::Agent;
use crate::harness::http::{connect_from, get_from};

/// Targets of the abuser's service account.
pub(crate) const TARGETS: usize = 50;
/// Requests are sent in bundles, one in each step.
const STEP: Duration = Duration::from_millis(5);
/// Requests a second of a pod in a busy loop, and of one with tokens that prove nothing.
const FLOOD: usize = 20_000;
const JUNK: usize = 2_000;
const IDLE: usize = 5_000;
const SLOW: usize = 256;
/// Connections that send heads as large as they can, one after the other.
const HEADS_AT_ONCE: usize = 8;
/// The neighbour asks so often, on one connection and on a new one in turn.
const BETWEEN_ASKS: Duration = Duration::from_millis(5);

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

/// What the neighbour noticed.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) asked: usize,
    pub(crate) failed: usize,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

/// An abuser at work. Dropping it ends that.
pub(crate) struct Abuser {
    stop: CancellationToken,
    done: Arc<AtomicUsize>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Place {
    /// Runs `work` there, on a thread of its own.
    fn spawn<T, F>(&self, work: impl FnOnce(Self) -> F + Send + 'static) -> JoinHandle<anyhow::Result<T>>
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
        let (stop, done) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let (stopped, counter) = (stop.clone(), Arc::clone(&done));
        let thread = self.spawn(async move |place| {
            tokio::select! {
                ended = place.abuse(abuse, &counter) => ended,
                () = stopped.cancelled() => Ok(()),
            }
        });
        Ok(Abuser { stop, done, thread: Some(thread) })
    }

    /// Asks for credentials from here for so long.
    pub(crate) async fn ask_for(&self, time: Duration) -> anyhow::Result<Notice> {
        let thread = self.spawn(async move |place| place.asks(time).await);
        tokio::task::spawn_blocking(|| thread.join()).await?.map_err(|_| anyhow!("the neighbour has panicked"))?
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = connect_from(self.from, self.agent).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn request(&self, path: &str, token: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n\r\n", self.agent)
    }

    async fn asks(&self, time: Duration) -> anyhow::Result<Notice> {
        let (clock, request) = (Clock::System, self.request("/v1/credentials", &self.token));
        let mut kept = self.connect().await?;
        let mut ticks = interval(BETWEEN_ASKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut took, mut failed, end) = (Vec::new(), 0, clock.now().mono + time);
        while clock.now().mono < end {
            ticks.tick().await;
            let asked = clock.now().mono;
            let answered = if took.len() % 2 == 0 {
                ask(&mut kept, &request).await
            } else {
                match self.connect().await {
                    Ok(mut stream) => ask(&mut stream, &request).await,
                    Err(error) => Err(error),
                }
            };
            took.push(clock.now().mono - asked);
            failed += usize::from(!answered.is_ok_and(|status| status == 200));
        }
        Ok(Notice::new(took, failed))
    }

    async fn abuse(&self, abuse: Abuse, done: &AtomicUsize) -> anyhow::Result<()> {
        match abuse {
            Abuse::Flood => self.send(FLOOD, || self.request("/v1/credentials", &self.token), done).await,
            Abuse::IdleConnections => self.idle(done).await,
            Abuse::SlowHeads => self.slow_heads(done).await,
            Abuse::JunkTokens => self.send(JUNK, || self.request("/v1/credentials", &junk()), done).await,
            Abuse::ForgedKids => self.send(JUNK, || self.request("/v1/credentials", &self.forged()), done).await,
            Abuse::HeaderFloods => self.header_floods(done).await,
            Abuse::Misses => self.misses(done).await,
        }
    }

    /// Sends so many requests a second, pipelined, whatever the answers are.
    async fn send(&self, a_second: usize, request: impl Fn() -> String, done: &AtomicUsize) -> anyhow::Result<()> {
        let bundle = a_second * usize::try_from(STEP.as_millis())? / 1_000;
        let mut ticks = interval(STEP);
        loop {
            let (mut reader, mut writer) = self.connect().await?.into_split();
            let reading = tokio::spawn(async move { while reader.read(&mut [0; 65_536]).await.is_ok_and(|read| read > 0) {} });
            let mut sent = Ok(());
            while sent.is_ok() {
                ticks.tick().await;
                let bytes: String = (0..bundle).map(|_| request()).collect();
                sent = writer.write_all(bytes.as_bytes()).await;
                done.fetch_add(bundle, Ordering::Relaxed);
            }
            reading.abort();
        }
    }

    async fn idle(&self, done: &AtomicUsize) -> anyhow::Result<()> {
        let mut held = Vec::new();
        for _ in 0..IDLE {
            held.push(self.connect().await);
            done.fetch_add(1, Ordering::Relaxed);
        }
        std::future::pending().await
    }

    async fn slow_heads(&self, done: &AtomicUsize) -> anyhow::Result<()> {
        let mut held: Vec<Option<TcpStream>> = (0..SLOW).map(|_| None).collect();
        loop {
            for place in &mut held {
                if let Some(stream) = place {
                    if stream.write_all(b"x").await.is_err() {
                        *place = None;
                    }
                } else if let Ok(mut stream) = self.connect().await {
                    let begun = stream.write_all(b"GET /v1/credentials HTTP/1.1\r\nx: ").await;
                    *place = begun.is_ok().then_some(stream);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            sleep(STEP * 20).await;
        }
    }

    async fn header_floods(&self, done: &AtomicUsize) -> anyhow::Result<()> {
        let many: String = (0..2_000).map(|number| format!("x-{number}: y\r\n")).collect();
        let large = format!("x: {}\r\n", "y".repeat(64 * 1024));
        let heads = [many, large].map(|headers| format!("GET /v1/credentials HTTP/1.1\r\nHost: {}\r\n{headers}", self.agent));
        let attack = async |head: &str| {
            loop {
                if let Ok(mut stream) = self.connect().await {
                    // It is closed before all of it is sent.
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.read(&mut [0; 1024]).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let attacks = heads.iter().cycle().take(HEADS_AT_ONCE).map(|head| attack(head));
        join_all(attacks).await;
        Ok(())
    }

    /// Every target is asked for until it is served.
    async fn misses(&self, done: &AtomicUsize) -> anyhow::Result<()> {
        let headers = [("authorization", self.token.as_str())];
        let misses = (0..TARGETS).map(async |number| {
            let path = format!("/v1/credentials/target-{number}");
            while !get_from(self.from, self.agent, &path, &headers).await.is_ok_and(|answer| answer.status == 200) {
                sleep(STEP * 20).await;
            }
            done.fetch_add(1, Ordering::Relaxed);
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

/// The status of the answer, all of which has come.
async fn ask(stream: &mut TcpStream, request: &str) -> anyhow::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 8_192]);
    // A document of credentials and an error both end so, and nothing before their end does.
    while !answer.ends_with(b"\"}") {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "closed");
        answer.extend_from_slice(&buffer[..read]);
    }
    let status = std::str::from_utf8(&answer)?.get(9..12).context("no status")?;
    Ok(status.parse()?)
}

impl Abuser {
    /// Ends it, and says how much it has done: requests, connections, bytes, targets.
    pub(crate) fn end(mut self) -> anyhow::Result<usize> {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).map_err(|_| anyhow!("the abuser has panicked"))??;
        Ok(self.done.load(Ordering::Relaxed))
    }
}

impl Drop for Abuser {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Notice {
    fn new(mut took: Vec<Duration>, failed: usize) -> Self {
        took.sort_unstable();
        let last = took.len().saturating_sub(1);
        let at = |percent: usize| took.get((last * percent).div_ceil(100)).copied().unwrap_or_default();
        Self { asked: took.len(), failed, median: at(50), p99: at(99), longest: at(100) }
    }
}

/// What R8 promises a neighbour, of a release build. A debug build is several times slower and shares its cores with its abuser,
/// the simulated AWS and whatever else is tested, so that milliseconds tell of those; what no answer may take there either is the
/// deadline of all answers.
const P99: Duration = Duration::from_millis(if cfg!(debug_assertions) { 900 } else { 5 });
/// How long each abuse lasts.
const EACH: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_500 } else { 10_000 });
/// Memory that stays with the agent after all of it: allocator's pages, buckets, the audit's and the memo's entries. In KiB.
const GROWTH: u64 = 24 * 1024;

/// The policy by which service account `default/abuser` has as many targets, in `folder`; their roles are put into `cloud`.
pub(crate) fn policy(cloud: &Cloud, folder: &Path) -> anyhow::Result<PathBuf> {
    let chain = |number| format!("      target-{number}: {{ chain: [ {{ role: '{}' }} ] }}\n", role(number));
    let targets: String = (0..TARGETS).map(chain).collect();
    let rule = "- match: { namespace: default, serviceAccount: abuser }\n    exchange: pod-identity\n    targets:\n";
    let path = folder.join("policy.yaml");
    std::fs::write(
        &path,
        format!("rules:\n  {rule}{targets}  - match: {{ namespace: '*', serviceAccount: '*' }}\n    exchange: pod-identity\n"),
    )?;
    (0..TARGETS).try_for_each(|number| anyhow::Ok(cloud.put_role(Role::new(&role(number), TRUST)?)))?;
    Ok(path)
}

fn role(number: usize) -> String {
    format!("arn:aws:iam::222222222222:role/target-{number}")
}

/// By which the roles of all associations may assume a role.
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},
    "Action":["sts:AssumeRole","sts:TagSession"]}]}"#;

/// The tokens of an abuser and of its neighbour.
pub(crate) fn tokens(cloud: &Cloud) -> [String; 2] {
    ["abuser", "app"].map(|service_account| {
        let pod = PodSpec::new("default", service_account, &format!("{service_account}-0"));
        cloud.keys().token(&pod, POD_IDENTITY_AUDIENCE, Duration::from_secs(86_400))
    })
}

/// Whether `neighbour` notices nothing while `abuser` does all it can, and what AWS and the agent's memory notice.
pub(crate) async fn prove(agent: &Agent, cloud: &Cloud, [abuser, neighbour]: [&Place; 2]) -> anyhow::Result<()> {
    for place in [abuser, neighbour] {
        let first = place.ask_for(EACH / 5).await?;
        ensure!(first.failed == 0, "{first:?}");
    }
    let before = agent.resident()?;
    for abuse in Abuse::iter() {
        let at_work = abuser.begin(abuse)?;
        let notice = neighbour.ask_for(EACH).await?;
        println!("{abuse:?}, {} times: {notice:?}", at_work.end()?);
        ensure!(notice.failed == 0 && notice.p99 <= P99, "{abuse:?}: {notice:?}");
    }
    let after = agent.resident()?;
    println!("resident before {before} KiB, after {after} KiB");
    ensure!(after <= before + GROWTH, "{before} KiB before, {after} KiB after");
    let calls = [Operation::EksAuth, Operation::AssumeRole].map(|operation| cloud.count(operation));
    ensure!(calls[0] == 2 && calls[1] <= TARGETS, "one call a pod, and one a target: {calls:?}");
    Ok(())
}
