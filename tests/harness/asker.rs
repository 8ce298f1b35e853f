//! A client that asks again and again and never tries again: the shortest time without credentials shows. A thread of its own asks by
//! plain sockets, so that a million questions cost little beside the agent's answers.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use credlet::base::clock::Clock;
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use tokio::time::Instant;

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

/// What it saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) served: usize,
    pub(crate) failed: usize,
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
            ask_until(&told, &mut Client { asking, kept: None }, &seen);
            Ok(())
        });
        Self { told_to_stop, asked, thread }
    }

    /// A look at what it has seen so far.
    pub(crate) fn so_far<T>(&self, look: impl FnOnce(&Asked) -> T) -> T {
        look(&self.asked.lock())
    }

    /// Ends it.
    pub(crate) fn stop(self) -> anyhow::Result<Asked> {
        self.told_to_stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("it panicked"))?.context("no way into the network")?;
        Ok(std::mem::take(&mut *self.asked.lock()))
    }
}

fn ask_until(told_to_stop: &AtomicBool, client: &mut Client, asked: &Mutex<Asked>) {
    let (mut last_served, mut failing) = (Clock::System.now().mono, false);
    while !told_to_stop.load(Ordering::Relaxed) {
        let begin = Clock::System.now().mono;
        let answer = client.ask();
        let now = Clock::System.now().mono;
        let mut asked = asked.lock();
        match answer {
            Ok(status) if status.starts_with("HTTP/1.1 200") => {
                let pause = now - last_served;
                let longest = if failing { &mut asked.gap } else { &mut asked.slowest };
                *longest = pause.max(*longest);
                asked.pauses.push(u32::try_from(pause.as_micros()).unwrap_or(u32::MAX));
                asked.returns.extend(failing.then_some([begin, now]));
                asked.served += 1;
                (last_served, failing) = (now, false);
            }
            other => {
                asked.failed += 1;
                asked.last_failure = other.unwrap_or_else(|error| error.to_string());
                failing = true;
            }
        }
        drop(asked);
        std::thread::sleep(client.asking.pause);
    }
}

struct Client {
    asking: Asking,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    /// The first line of the answer.
    fn ask(&mut self) -> std::io::Result<String> {
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
        let (status, ends) = answer(&mut connection)?;
        self.kept = (!ends).then_some(connection);
        Ok(status)
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.asking.address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

/// Reads a whole answer: its first line, and whether the connection ends with it.
fn answer(connection: &mut BufReader<TcpStream>) -> std::io::Result<(String, bool)> {
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
    connection.read_exact(&mut vec![0; length])?;
    Ok((status, ends))
}

/// The next line of a head; nothing at its end.
fn line(connection: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    match connection.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}
