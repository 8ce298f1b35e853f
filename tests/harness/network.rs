//! A node's network: a namespace of its own, with pods as namespaces behind veth pairs, the way a CNI that routes lays them.
//!
//! A namespace is held by an open file and by the processes and threads in it; with the last of them the kernel takes it and its
//! links away, however a test ends. Nothing in it reaches another network. Needs root and iproute2.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Handle};

use crate::harness::setup::CREDLET;

/// At which pods reach what listens on the node.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The node's end of every veth pair, so that pods need not ask for it.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// It behaves as a `dummy` link does, and is there in kernels that have no such links.
const LINK_KIND: &str = "ifb";

/// No connection takes longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A node's network without pods, and without the link of EKS Pod Identity.
pub(crate) struct Network {
    pub(crate) node: Namespace,
}

/// A pod's network: `eth0`, with one address of each family, and the node as its way to everywhere.
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
}

/// A network namespace.
pub(crate) struct Namespace(File);

/// Runs `body` on a thread of its own in a new node's network, as are its sockets and the processes that it starts.
pub(crate) fn on_a_node<T, F>(body: impl FnOnce(Network) -> F + Send + 'static) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>>,
{
    let thread = std::thread::spawn(move || {
        let network = Network::start()?;
        network.node.enter()?;
        // Of one thread, for a namespace is a thread's own.
        Builder::new_current_thread().enable_all().build()?.block_on(body(network))
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Network {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let node = Namespace::new()?;
        node.ip(&format!("address add {NODE}/32 dev lo"))?;
        Ok(Self { node })
    }

    /// Makes the link and the addresses of EKS Pod Identity, by `credlet initialize` with no more rights than it needs.
    pub(crate) async fn initialize(&self) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new("/usr/bin/setpriv");
        command.args(["--no-new-privs", "--bounding-set=-all,+net_admin", CREDLET, "initialize", "--link-kind", LINK_KIND]);
        command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = self.node.spawn(&mut command)?.wait_with_output().await?;
        ensure!(output.status.success(), "credlet initialize: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A new pod with the addresses `192.0.2.NUMBER` and `2001:db8::NUMBER`, on the node's link `vethNUMBER`. The number in IPv6
    /// is hexadecimal.
    pub(crate) fn pod(&self, number: u8) -> anyhow::Result<Pod> {
        let namespace = Namespace::new()?;
        let (ipv4, ipv6) = (Ipv4Addr::new(192, 0, 2, number), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()));
        let (link, mac, netns) = (format!("veth{number}"), format!("02:00:00:00:00:{number:02x}"), namespace.path());
        // Neighbours are told at both ends: a link-local address that is still being checked for duplicates asks for none.
        self.node.ip(&format!(
            "link add {link} address {GATEWAY_MAC} type veth peer name eth0 address {mac} netns {netns}
             link set {link} up
             route add {ipv4}/32 dev {link}
             route add {ipv6}/128 dev {link}
             neighbour replace {ipv4} lladdr {mac} dev {link} nud permanent
             neighbour replace {ipv6} lladdr {mac} dev {link} nud permanent"
        ))?;
        namespace.ip(&format!(
            "address add {ipv4}/32 dev eth0
             address add {ipv6}/128 dev eth0 nodad
             link set eth0 up
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1 dev eth0
             neighbour replace 169.254.1.1 lladdr {GATEWAY_MAC} dev eth0 nud permanent
             route add fe80::1 dev eth0
             route add default via fe80::1 dev eth0
             neighbour replace fe80::1 lladdr {GATEWAY_MAC} dev eth0 nud permanent"
        ))?;
        Ok(Pod { namespace, ipv4, ipv6 })
    }
}

impl Namespace {
    /// With its loopback link up.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace, which needs root")?;
            anyhow::Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let namespace = Self(made.join().map_err(|_| anyhow!("the thread of a new namespace has panicked"))??);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name for programs that run as long as this process does.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Takes this very thread there, for ever.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// Does `work` there: the sockets that it makes and the processes that it starts stay there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let there = || self.enter().and_then(|()| work());
        std::thread::scope(|scope| scope.spawn(there).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Starts a program there.
    pub(crate) fn spawn(&self, command: &mut tokio::process::Command) -> io::Result<tokio::process::Child> {
        let runtime = Handle::current();
        self.run(|| {
            let _runtime = runtime.enter();
            command.spawn()
        })
    }

    /// A connection from there.
    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let stream = self.run(|| TcpStream::connect_timeout(&address, CONNECT_LIMIT))?;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }

    /// Executes lines of `ip` there, up to the first that fails.
    pub(crate) fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(text(lines)?).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = self.run(|| command.spawn()?.wait_with_output()).context("run ip")?;
        ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// A standard input.
fn text(lines: &str) -> io::Result<Stdio> {
    let (reader, mut writer) = io::pipe()?;
    // Less than a pipe holds.
    io::Write::write_all(&mut writer, lines.as_bytes())?;
    Ok(reader.into())
}
