//! What the agent takes of a node: memory at rest, with entries, and after a crowd of connections; time to its first connection;
//! size of the binary. It is the real binary, beside a simulated cloud, and memory is what the kernel counts as resident.
//!
//! `cargo bench --bench footprint -- PATH` measures another build. Without `--bench` (as `cargo test --benches` runs it) a small
//! crowd shows that it works.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use credlet::base::clock::Clock;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::pod::{NODE, PodSpec};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

const TOKEN_LIFE: Duration = Duration::from_secs(86_400);

/// Fewer than the agent takes from one source address.
const CONNECTIONS_OF_A_SOURCE: usize = 200;

/// How much is asked of it.
struct Plan {
    starts: usize,
    pods: usize,
    /// Open at once; each asks once, and is closed when all have.
    connections: usize,
    crowds: usize,
    /// How long the agent rests before its memory is read.
    rest: Duration,
}

const WHOLE: Plan = Plan { starts: 20, pods: 2_000, connections: 1_750, crowds: 5, rest: Duration::from_secs(3) };
const SMOKE: Plan = Plan { starts: 1, pods: 20, connections: 20, crowds: 1, rest: Duration::from_millis(50) };

/// A running agent. Dropping it kills it.
struct Agent {
    process: Child,
    address: SocketAddr,
    started_in: Duration,
}

fn main() -> anyhow::Result<()> {
    let (whole, binary) = arguments();
    let plan = if whole { WHOLE } else { SMOKE };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = Runtime::new()?;
    let cloud = runtime.block_on(Cloud::start(Config::default()))?;
    measure(&plan, binary.as_ref(), &cloud)
}

fn measure(plan: &Plan, binary: &Path, cloud: &Cloud) -> anyhow::Result<()> {
    println!("binary: {:.1} MiB", mebibytes(std::fs::metadata(binary)?.len())?);
    let folder = tempfile::tempdir()?;
    let start = || Agent::start(binary, cloud, folder.path());
    let mut times = (0..plan.starts).map(|_| Ok(start()?.started_in)).collect::<anyhow::Result<Vec<_>>>()?;
    times.sort_unstable();
    let at = |place: usize| times.get(place).copied().unwrap_or_default();
    println!("exec to accepting: median {:?}, longest {:?}", at(times.len() / 2), at(times.len() - 1));

    let agent = start()?;
    agent.report("at rest", plan.rest)?;
    let tokens = tokens(cloud, plan.pods);
    for token in &tokens {
        agent.load(token)?;
    }
    agent.report(&format!("{} entries", plan.pods), plan.rest)?;
    for _ in 0..plan.crowds {
        let crowd = (0..plan.connections).zip(tokens.iter().cycle());
        let open = crowd.map(|(number, token)| agent.ask_from(source(number)?, token)).collect::<anyhow::Result<Vec<_>>>()?;
        agent.report(&format!("{} connections open", open.len()), plan.rest)?;
    }
    // Allocators give memory back with a delay.
    agent.report("all closed", plan.rest * 5)
}

/// Whether to measure everything, and of which binary.
fn arguments() -> (bool, OsString) {
    let (flags, paths): (Vec<_>, Vec<_>) = std::env::args_os().skip(1).partition(|argument| argument == "--bench");
    (!flags.is_empty(), paths.into_iter().next().unwrap_or_else(|| env!("CARGO_BIN_EXE_credlet").into()))
}

fn tokens(cloud: &Cloud, pods: usize) -> Vec<String> {
    let pod = |number| PodSpec::new("payments", "ledger", &format!("ledger-{number}"));
    (0..pods).map(|number| cloud.keys().token(&pod(number), POD_IDENTITY_AUDIENCE, TOKEN_LIFE)).collect()
}

/// An address of loopback, another one for each group of connections.
fn source(number: usize) -> anyhow::Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(127, 0, 1, u8::try_from(1 + number / CONNECTIONS_OF_A_SOURCE)?))
}

impl Agent {
    fn start(binary: &Path, cloud: &Cloud, folder: &Path) -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = command(binary, cloud, folder, address.port());
        let begun = Clock::System.now().mono;
        let mut process = command.spawn()?;
        while TcpStream::connect(address).is_err() {
            ensure!(process.try_wait()?.is_none(), "it has ended");
        }
        Ok(Self { process, address, started_in: Clock::System.now().mono - begun })
    }

    /// Asks until the credential is there.
    fn load(&self, token: &str) -> anyhow::Result<()> {
        for _ in 0..20 {
            if self.ask_from(Ipv4Addr::LOCALHOST, token).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.ask_from(Ipv4Addr::LOCALHOST, token).map(|_| ())
    }

    /// Asks once; the connection stays open.
    fn ask_from(&self, source: Ipv4Addr, token: &str) -> anyhow::Result<Socket> {
        let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&self.address.into())?;
        let head = format!("GET /v1/credentials HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n\r\n", self.address);
        socket.write_all(head.as_bytes())?;
        let mut answer = [0; 4096];
        let length = socket.read(&mut answer)?;
        let answer = answer.get(..length).unwrap_or_default();
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
        Ok(socket)
    }

    fn report(&self, when: &str, rest: Duration) -> anyhow::Result<()> {
        std::thread::sleep(rest);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let (resident, heap) = (field(&status, "VmRSS:")?, field(&status, "RssAnon:")?);
        println!("resident, {when}: {resident:.1} MiB, of which {heap:.1} are not the binary's");
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(binary: &Path, cloud: &Cloud, folder: &Path, port: u16) -> Command {
    let (access_key_id, secret) = cloud.node_credentials();
    let mut command = Command::new(binary);
    command.env_clear().env("AWS_REGION", Config::default().region).env("HOME", folder);
    command.env("AWS_ACCESS_KEY_ID", access_key_id).env("AWS_SECRET_ACCESS_KEY", secret.expose());
    command.args(["server", "--cluster-name=demo", "--bind-hosts=127.0.0.1", "--probe-port=0", "--metrics-port=0"]);
    command.args([format!("--port={port}"), format!("--node-name={NODE}"), format!("--endpoint={}", cloud.eks_auth_url())]);
    command.arg(format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url())).arg("--max-service-qps=100000");
    command.arg("--run-dir").arg(folder.join("run")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A field of `/proc/PID/status`, in MiB.
fn field(status: &str, name: &str) -> anyhow::Result<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    let kibibytes: u64 = value.trim().trim_end_matches(" kB").parse()?;
    mebibytes(kibibytes * 1024)
}

fn mebibytes(bytes: u64) -> anyhow::Result<f64> {
    Ok(f64::from(u32::try_from(bytes)?) / f64::from(1 << 20))
}
