//! A client that asks again and again and never tries again: the shortest time without credentials shows. A thread of its own asks by
//! plain sockets, so that a million questions cost little beside the agent's answers.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use credlet::base::clock::Clock;
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::harness::owner::Owner;

/// Where a node's agent is.
pub(crate) const NODES_AGENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)), 80);

/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(5);

/// How it comes to the agent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Connections {
    /// One for each question.
    Each,
    /// One for as long as the agent does not announce its end.
    Kept,
}

/// Whom it asks, and how.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) connections: Connections,
    /// From an answer, or its absence, to the next question.
    pub(crate) pause: Duration,
}

impl Asking {
    /// A node's agent, 300 times a second at most: its cores are few, and two clients of a pod stay below its rate.
    pub(crate) fn nodes_agent(token: &str, connections: Connections) -> Self {
        Self { address: NODES_AGENT, token: token.to_owned(), connections, pause: Duration::from_millis(3) }
    }
}

/// A client that is asking.
pub(crate) struct Asker {
    told_to_stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Asked>>,
    thread: JoinHandle<std::io::Result<()>>,
}

/// What it saw. Its Debug leaves out the many pauses.
#[derive(Clone, Default)]
pub(crate) struct Asked {
    pub(crate) served: usize,
    /// Without credentials of its own.
    pub(crate) failed: usize,
    /// Of these, with credentials of somebody else.
    pub(crate) foreign: usize,
    /// The longest time from an answer with credentials to the next, failures between them.
    pub(crate) gap: Duration,
    /// The longest one without failures: what this machine adds.
    pub(crate) slowest: Duration,
    /// The questions with which failures ended: when each began, and when it was answered.
    pub(crate) returns: Vec<[Instant; 2]>,
    /// What came of the last question that failed.
    pub(crate) last_failure: String,
    /// All times from an answer with credentials to the next, in microseconds.
    pub(crate) pauses: Vec<u32>,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, failed, foreign, gap, slowest, last_failure, .. } = self;
        write!(f, "{served} served, {failed} failed ({foreign} foreign), gap {gap:?}, slowest {slowest:?}, {last_failure:?}")
    }
}

impl Asker {
    /// Asks from this network.
    pub(crate) fn start(asking: Asking) -> Self {
        Self::start_after(asking, || Ok(()))
    }

    /// Asks from another network namespace.
    pub(crate) fn start_in(network: File, asking: Asking) -> Self {
        // A network namespace is a thread's own.
        Self::start_after(asking, || Ok(setns(network, CloneFlags::CLONE_NEWNET)?))
    }

    fn start_after(asking: Asking, enter: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Self {
        let (told_to_stop, asked) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Asked>>::default());
        let (told, seen) = (Arc::clone(&told_to_stop), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            enter()?;
            let owner = Owner::of(&asking.token).ok_or(ErrorKind::InvalidInput)?;
            ask_until(&told, &mut Client { asking, owner, kept: None }, &seen);
            Ok(())
        });
        Self { told_to_stop, asked, thread }
    }

    /// A look at what it has seen so far.
    pub(crate) fn so_far<T>(&self, look: impl FnOnce(&Asked) -> T) -> T {
        look(&self.asked.lock())
    }

    /// Ends it. Nothing excuses credentials of somebody else: they are an error.
    pub(crate) fn stop(self) -> anyhow::Result<Asked> {
        self.told_to_stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("it panicked"))?.context("no way into the network, or no token")?;
        let asked = std::mem::take(&mut *self.asked.lock());
        ensure!(asked.foreign == 0, "{} answers bore credentials of somebody else", asked.foreign);
        Ok(asked)
    }
}

fn ask_until(told_to_stop: &AtomicBool, client: &mut Client, asked: &Mutex<Asked>) {
    let (mut last_served, mut failing) = (Clock::System.now().mono, false);
    while !told_to_stop.load(Ordering::Relaxed) {
        let begin = Clock::System.now().mono;
        let outcome = client.ask();
        let now = Clock::System.now().mono;
        let mut asked = asked.lock();
        match outcome {
            Ok(()) => {
                let pause = now - last_served;
                let longest = if failing { &mut asked.gap } else { &mut asked.slowest };
                *longest = pause.max(*longest);
                asked.pauses.push(u32::try_from(pause.as_micros()).unwrap_or(u32::MAX));
                asked.returns.extend(failing.then_some([begin, now]));
                asked.served += 1;
                (last_served, failing) = (now, false);
            }
            Err(failure) => {
                asked.failed += 1;
                asked.foreign += usize::from(matches!(failure, Failure::Foreign));
                asked.last_failure = failure.to_string();
                failing = true;
            }
        }
        drop(asked);
        std::thread::sleep(client.asking.pause);
    }
}

/// Why a question brought no credentials.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Connection(#[from] std::io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("credentials of somebody else")]
    Foreign,
}

struct Client {
    asking: Asking,
    owner: Owner,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    fn ask(&mut self) -> Result<(), Failure> {
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let close = match self.asking.connections {
            Connections::Each => "Connection: close\r\n",
            Connections::Kept => "",
        };
        let Asking { address, token, .. } = &self.asking;
        let request = format!("GET /v1/credentials HTTP/1.1\r\nHost: {address}\r\nAuthorization: {token}\r\n{close}\r\n");
        connection.get_mut().write_all(request.as_bytes())?;
        let Answer { status, ends, body } = answer(&mut connection)?;
        self.kept = (!ends).then_some(connection);
        if !status.starts_with("HTTP/1.1 200") {
            return Err(Failure::Refused(status));
        }
        if self.owner.owns(&body) { Ok(()) } else { Err(Failure::Foreign) }
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.asking.address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

/// A whole answer.
struct Answer {
    /// Its first line.
    status: String,
    /// Whether the connection ends with it.
    ends: bool,
    body: Vec<u8>,
}

fn answer(connection: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let (status, mut length, mut ends) = (line(connection)?, 0, false);
    loop {
        let field = line(connection)?.to_ascii_lowercase();
        match field.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap_or_default(),
            Some(("connection", value)) => ends = value == "close",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(Answer { status, ends, body })
}

/// The next line of a head; nothing at its end.
fn line(connection: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    match connection.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}
