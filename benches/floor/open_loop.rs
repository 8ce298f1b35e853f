//! Latency at a bounded rate. Requests are due at fixed times whether or not earlier ones have been answered, and a latency is
//! counted from when its request was due, so that a stall shows in all requests that it holds up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use credlet::base::clock::Clock;
use strum::IntoEnumIterator;

use crate::client::Client;
use crate::contender::Contender;
use crate::cpu;
use crate::pods::Pods;
use crate::process::Process;

const PER_SECOND: u32 = 5_000;
const CONNECTIONS: usize = 50;

/// Latencies of one contender, shortest first.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) contender: Contender,
    pub(crate) sorted: Vec<Duration>,
}

/// An open connection and the buffer for its answers, which are all equally long.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

/// Asks each contender for `time`, from another CPU than its own if there are two.
pub(crate) fn run(time: Duration, cpus: &[usize], pods: &Pods, client: &Client) -> anyhow::Result<Vec<Latencies>> {
    let (own, server) = (cpus.first().context("no CPU")?, cpus.last().context("no CPU")?);
    cpu::pin(*own)?;
    Contender::iter().map(|contender| measure(contender, *server, time, pods, client)).collect()
}

fn measure(contender: Contender, cpu: usize, time: Duration, pods: &Pods, client: &Client) -> anyhow::Result<Latencies> {
    let process = Process::start(contender, &pods.key_set(), cpu)?;
    client.warm_up(process.address)?;
    let requests = client.requests();
    let first = requests.first().context("no requests")?;
    let mut connections = (0..CONNECTIONS).map(|_| Connection::open(process.address, first)).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = Vec::new();
    let mut due = Clock::System.now().mono;
    let end = due + time;
    for number in (0..).take_while(|_| Clock::System.now().mono < end) {
        while Clock::System.now().mono < due {
            std::hint::spin_loop();
        }
        let connection = connections.get_mut(number % CONNECTIONS).context("no connection")?;
        connection.exchange(requests.get(number % requests.len()).context("no request")?)?;
        sorted.push(Clock::System.now().mono - due);
        due += Duration::from_secs(1) / PER_SECOND;
    }
    sorted.sort_unstable();
    Ok(Latencies { contender, sorted })
}

impl Connection {
    fn open(address: SocketAddr, request: &[u8]) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(request)?;
        let mut answer = vec![0; 64 * 1024];
        let mut filled = 0;
        while !answer.get(..filled).is_some_and(|answer| answer.ends_with(b"}")) {
            filled += stream.read(answer.get_mut(filled..).context("an endless answer")?)?;
        }
        answer.truncate(filled);
        Ok(Self { stream, answer })
    }

    fn exchange(&mut self, request: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(request)?;
        self.stream.read_exact(&mut self.answer)
    }
}
