//! A client on a node that asks without a pause and never tries again: the shortest time without credentials shows.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use credlet::base::clock::Clock;
use nix::sched::{CloneFlags, setns};

use crate::lab::Node;

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)), 80);

/// From an answer, or its absence, to the next question: the cores are few.
const PAUSE: Duration = Duration::from_millis(1);

/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(5);

/// A client that is asking.
pub(crate) struct Asker {
    told_to_stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Asked>>,
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) served: usize,
    pub(crate) failed: usize,
    /// The longest time from an answer with credentials to the next, failures between them.
    pub(crate) gap: Duration,
    /// The longest one without failures: what this machine adds.
    pub(crate) slowest: Duration,
}

impl Asker {
    /// Asks from the node's own network with the token of a pod, over a connection for each question.
    pub(crate) fn start(node: &Node, token: &str) -> anyhow::Result<Self> {
        let namespace = File::open(format!("/proc/{}/ns/net", node.pid))?;
        let told_to_stop = Arc::new(AtomicBool::new(false));
        let (told, token) = (Arc::clone(&told_to_stop), token.to_owned());
        // A network namespace is a thread's own.
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(ask_until(&told, &token))
        });
        Ok(Self { told_to_stop, thread })
    }

    /// Ends it.
    pub(crate) fn stop(self) -> anyhow::Result<Asked> {
        self.told_to_stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("it panicked"))?.context("no way into the node's network")
    }
}

fn ask_until(told_to_stop: &AtomicBool, token: &str) -> Asked {
    let (mut asked, mut last_served, mut failing) = (Asked::default(), Clock::System.now().mono, false);
    while !told_to_stop.load(Ordering::Relaxed) {
        let served = ask(token).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
        let now = Clock::System.now().mono;
        if served {
            let longest = if failing { &mut asked.gap } else { &mut asked.slowest };
            *longest = (now - last_served).max(*longest);
            asked.served += 1;
            last_served = now;
        } else {
            asked.failed += 1;
        }
        failing = !served;
        std::thread::sleep(PAUSE);
    }
    asked
}

fn ask(token: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&ADDRESS, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let request =
        format!("GET /v1/credentials HTTP/1.1\r\nHost: 169.254.170.23\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
