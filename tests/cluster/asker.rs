//! A client that asks without a pause and never tries again: the shortest time without credentials shows.

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

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)), 80);

/// From an answer, or its absence, to the next question: the cores are few.
const PAUSE: Duration = Duration::from_millis(1);

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

/// A client that is asking.
pub(crate) struct Asker {
    told_to_stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Asked>>,
    thread: JoinHandle<nix::Result<()>>,
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
}

impl Asker {
    /// Asks from a network namespace with the token of a pod.
    pub(crate) fn start(network: File, token: &str, connections: Connections) -> Self {
        let (told_to_stop, asked) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Asked>>::default());
        let (told, seen) = (Arc::clone(&told_to_stop), Arc::clone(&asked));
        let mut client = Client { token: token.to_owned(), connections, kept: None };
        // A network namespace is a thread's own.
        let thread = std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET)?;
            ask_until(&told, &mut client, &seen);
            Ok(())
        });
        Self { told_to_stop, asked, thread }
    }

    /// What it has seen so far.
    pub(crate) fn so_far(&self) -> Asked {
        self.asked.lock().clone()
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
                let longest = if failing { &mut asked.gap } else { &mut asked.slowest };
                *longest = (now - last_served).max(*longest);
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
        std::thread::sleep(PAUSE);
    }
}

struct Client {
    token: String,
    connections: Connections,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    /// The first line of the answer.
    fn ask(&mut self) -> std::io::Result<String> {
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => connect()?,
        };
        let close = match self.connections {
            Connections::Each => "Connection: close\r\n",
            Connections::Kept => "",
        };
        let token = &self.token;
        let request = format!("GET /v1/credentials HTTP/1.1\r\nHost: 169.254.170.23\r\nAuthorization: {token}\r\n{close}\r\n");
        connection.get_mut().write_all(request.as_bytes())?;
        let (status, ends) = answer(&mut connection)?;
        self.kept = (!ends).then_some(connection);
        Ok(status)
    }
}

fn connect() -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&ADDRESS, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
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
