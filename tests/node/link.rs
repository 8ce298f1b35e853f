//! `credlet initialize --watch`: what disappears of the link is put back, and agents go on serving.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::node::link::state::inspect;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::net::{TcpNetEntries, TcpState};
use procfs::process::Process;
use procfs::{FromReadSI, current_system_info};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::harness::http::get;
use crate::initialize::{WHOLE, initialize, ip, pieces};
use crate::node::{Node, on_a_bare_node, run};
use crate::presence::up;

pub(crate) const KIND: &str = "--link-kind=ifb";
const ADDRESS: &str = "169.254.170.23:80";
/// What disappears must be back after this.
const PROMISE: Duration = Duration::from_secs(1);
const WAIT_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);

fn now() -> Instant {
    Clock::System.now().mono
}

/// All capabilities dropped but one.
pub(crate) fn only(capability: &str) -> [String; 4] {
    let bounding_set = format!("--bounding-set=-all,+{capability}");
    ["/usr/bin/setpriv".to_owned(), bounding_set, "--inh-caps=-all".to_owned(), "--no-new-privs".to_owned()]
}

/// `credlet initialize --watch`, with no capability but that which it needs.
struct Keeper {
    process: Child,
    log: PathBuf,
}

impl Keeper {
    async fn start(node: &Node) -> Self {
        Self::start_as(node, "initialize").await
    }

    async fn start_as(node: &Node, name: &str) -> Self {
        // The last of what it sees to when it begins.
        Self::run(node, name, &["--watch"], "main-table route to fd00:ec2::23/128").await
    }

    /// Returns once its log says `begun`.
    async fn run(node: &Node, name: &str, flags: &[&str], begun: &str) -> Self {
        let log = node.folder().join(format!("{name}.log"));
        let [setpriv, dropped @ ..] = only("net_admin");
        let mut command = Command::new(setpriv);
        command.args(dropped).args([env!("CARGO_BIN_EXE_credlet"), "initialize", KIND]).args(flags);
        command.args(["--log-format=text", "--verbosity=debug"]);
        command.stderr(std::fs::File::create(&log).unwrap()).stdout(Stdio::null()).kill_on_drop(true);
        let keeper = Self { process: command.spawn().unwrap(), log };
        while !keeper.log().contains(begun) {
            tokio::time::sleep(POLL).await;
        }
        keeper
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// How many things it has made so far.
    fn made(&self) -> usize {
        self.log().matches("made: ").count()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    /// Returns once it takes no more news.
    async fn stand_still(&self) {
        self.signal(Signal::SIGSTOP);
        let process = Process::new(self.process.id().unwrap().try_into().unwrap()).unwrap();
        while process.stat().unwrap().state != 'T' {
            tokio::time::sleep(POLL).await;
        }
    }

    async fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        tokio::time::timeout(WAIT_LIMIT, self.process.wait()).await.unwrap().unwrap().code()
    }
}

/// Waits until nothing is missing.
async fn whole() {
    let complete = async {
        while inspect().await.unwrap().missing().next().is_some() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, complete).await.unwrap_or_else(|_| panic!("{:?} is there", pieces()));
}

/// Does what a careless operator or another program does, and says how long it was felt, that command included.
async fn undo(keeper: &Keeper, command: &str) -> Duration {
    let (made, begin) = (keeper.made(), now());
    let done = Command::new("ip").args(command.split(' ')).status().await.unwrap();
    assert!(done.success(), "{command}");
    while keeper.made() == made {
        assert!(now() - begin < WAIT_LIMIT, "{command}: {}", keeper.log());
        tokio::time::sleep(POLL).await;
    }
    whole().await;
    now() - begin
}

/// A pod that asks again and again, with a connection for each request.
struct Client {
    token: String,
    /// When each failed request began.
    failed: RefCell<Vec<Instant>>,
    served: Cell<usize>,
}

impl Client {
    async fn ask(&self) -> ! {
        loop {
            let begin = now();
            let answer = get(ADDRESS.parse().unwrap(), "/v1/credentials", &[("authorization", &self.token)]).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                self.served.set(self.served.get() + 1);
            } else {
                self.failed.borrow_mut().push(begin);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for some more answers.
    async fn be_served(&self) {
        let enough = self.served.get() + 20;
        while self.served.get() < enough {
            tokio::time::sleep(POLL).await;
        }
    }
}

#[test]
fn what_disappears_is_put_back_under_load() {
    on_a_bare_node(async |node| {
        let keeper = Keeper::start(&node).await;
        let agent = node.setup().start().await.unwrap();
        let client = Client { token: node.token(), failed: RefCell::default(), served: Cell::default() };
        let socket = listening_socket();
        assert!(socket.is_some());
        let undone = async {
            client.be_served().await;
            for command in [
                "address delete 169.254.170.23/32 dev pod-id-link0",
                "address delete fd00:ec2::23/128 dev pod-id-link0",
                "route delete 169.254.170.23/32 dev pod-id-link0",
                "-6 route delete fd00:ec2::23/128 dev pod-id-link0",
                "link set pod-id-link0 down",
                "link delete pod-id-link0",
            ] {
                let took = undo(&keeper, command).await;
                println!("put back after `ip {command}`: {took:?}");
                assert!(took < PROMISE, "{command}: {took:?}");
                let back = now();
                client.be_served().await;
                assert!(client.failed.borrow().iter().all(|failed| *failed < back), "{command}: a failure after the gap");
                assert_eq!(pieces(), WHOLE, "{command}");
            }
        };
        tokio::select! {
            () = undone => (),
            never = client.ask() => never,
        }
        println!("{} requests served, {} failed in the gaps", client.served.get(), client.failed.borrow().len());
        assert_eq!(listening_socket(), socket, "the socket outlives its address");
        assert!(agent.probe("/readyz").await.unwrap().status == 200, "{}", agent.log());
        assert_eq!(keeper.end(Signal::SIGTERM).await, Some(0));
    });
}

/// The kernel's number for the socket that listens on the address.
pub(crate) fn listening_socket() -> Option<u64> {
    // This thread's own network namespace.
    let sockets = TcpNetEntries::from_file("/proc/thread-self/net/tcp", current_system_info()).unwrap().0;
    let address = ADDRESS.parse().unwrap();
    let mut listening = sockets.into_iter().filter(|entry| entry.local_address == address && entry.state == TcpState::Listen);
    listening.next().map(|entry| entry.inode)
}

#[test]
fn each_thing_put_back_is_a_line_and_a_signal_ends_it_well() {
    on_a_bare_node(async |node| {
        let keeper = Keeper::start(&node).await;
        let begun = keeper.log();
        undo(&keeper, "address delete fd00:ec2::23/128 dev pod-id-link0").await;
        let log = keeper.log();
        let told: Vec<_> = log.strip_prefix(&begun).unwrap().lines().filter(|line| line.contains("INFO")).collect();
        assert!(told.len() == 1 && told[0].contains("made: address fd00:ec2::23/128 on pod-id-link0"), "{log}");
        assert_eq!(keeper.end(Signal::SIGINT).await, Some(0));
    });
}

#[test]
fn what_is_to_stay_away_is_taken_away_again() {
    on_a_bare_node(async |node| {
        initialize(&[KIND]).await;
        let keeper = Keeper::run(&node, "keep-away", &["--remove", "--watch"], "removed: link pod-id-link0").await;
        ip("link add pod-id-link0 type ifb");
        let gone = async {
            while inspect().await.unwrap().link.is_some() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PROMISE, gone).await.unwrap();
        assert_eq!(keeper.end(Signal::SIGTERM).await, Some(0));
        assert!(inspect().await.unwrap().link.is_none());
    });
}

#[test]
fn two_of_them_do_not_quarrel() {
    on_a_bare_node(async |node| {
        let keepers = [Keeper::start(&node).await, Keeper::start_as(&node, "other").await];
        for _ in 0..5 {
            ip("link delete pod-id-link0");
            whole().await;
        }
        for keeper in keepers {
            assert_eq!(keeper.end(Signal::SIGTERM).await, Some(0));
        }
    });
}

/// How many files a running process may have open.
fn limit_files(keeper: &Keeper, files: &str) {
    let pid = keeper.process.id().unwrap().to_string();
    run("prlimit", &["--pid", &pid, &format!("--nofile={files}:")]);
}

#[test]
fn a_kernel_that_does_not_answer_for_a_while_ends_nothing() {
    on_a_bare_node(async |node| {
        for (flags, begun) in [(&["--watch"][..], "route to fd00:ec2::23/128"), (&["--remove", "--watch"], "removed: link")] {
            let keeper = Keeper::run(&node, &format!("keeper-{}", flags.len()), flags, begun).await;
            limit_files(&keeper, "4");
            match flags.len() {
                1 => ip("address delete 169.254.170.23/32 dev pod-id-link0"),
                _ => ip("link add pod-id-link0 type ifb"),
            }
            while !keeper.log().contains("trying again") {
                tokio::time::sleep(POLL).await;
            }
            assert_eq!(keeper.log().matches("Too many open files").count(), 1, "{}", keeper.log());
            limit_files(&keeper, "1024");
            let mended = async {
                while inspect().await.unwrap().missing().count() != [0, WHOLE.len()][flags.len() - 1] {
                    tokio::time::sleep(POLL).await;
                }
            };
            tokio::time::timeout(WAIT_LIMIT, mended).await.unwrap();
            assert_eq!(keeper.end(Signal::SIGTERM).await, Some(0));
        }
    });
}

#[test]
fn what_cannot_be_put_back_is_told_and_tried_again() {
    on_a_bare_node(async |node| {
        let keeper = Keeper::start(&node).await;
        ip("link add other0 type ifb");
        ip("link set other0 up");
        ip("route replace 169.254.170.23/32 dev other0 scope link");
        while !keeper.log().contains("another route to 169.254.170.23") {
            tokio::time::sleep(POLL).await;
        }
        ip("route delete 169.254.170.23/32 dev other0");
        whole().await;
        assert_eq!(keeper.end(Signal::SIGTERM).await, Some(0));
    });
}

/// Fills the keeper's queue of news with those of another link while it stands still.
async fn flood(node: &Node) {
    ip("link add other0 type ifb");
    ip("link set other0 up");
    let addresses = (0..4096).map(|n| format!("address add 10.0.{}.{}/32 dev other0\n", n / 256, n % 256));
    let batch = node.folder().join("flood");
    std::fs::write(&batch, addresses.collect::<String>()).unwrap();
    ip(&format!("-batch {}", batch.display()));
}

/// How many news the kernel has dropped because somebody in this namespace did not take them.
fn dropped_news() -> u64 {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    sockets.lines().skip(1).map(|socket| socket.split_whitespace().nth(8).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn news_that_the_kernel_dropped_are_made_up_for() {
    on_a_bare_node(async |node| {
        let keeper = Keeper::start(&node).await;
        keeper.stand_still().await;
        flood(&node).await;
        assert!(dropped_news() > 0);
        ip("address delete fd00:ec2::23/128 dev pod-id-link0");
        keeper.signal(Signal::SIGCONT);
        whole().await;
    });
}

#[test]
fn a_node_without_ipv6_is_kept_and_given_ipv6_when_it_is_there() {
    on_a_bare_node(async |node| {
        let keeper = Keeper::start(&node).await;
        std::fs::write("/proc/sys/net/ipv6/conf/pod-id-link0/disable_ipv6", "1").unwrap();
        while !keeper.log().contains("address fd00:ec2::23/128 on pod-id-link0 is left out") {
            tokio::time::sleep(POLL).await;
        }
        std::fs::write("/proc/sys/net/ipv6/conf/pod-id-link0/disable_ipv6", "0").unwrap();
        whole().await;
        assert_eq!(keeper.log().matches("is left out").count(), 1, "{}", keeper.log());
        assert_eq!(keeper.end(Signal::SIGTERM).await, Some(0));
    });
}

#[test]
fn a_restless_link_confuses_nobody() {
    on_a_bare_node(async |node| {
        let keeper = Keeper::start(&node).await;
        let mut agent = node.setup().start().await.unwrap();
        for _ in 0..15 {
            // In the midst of being put back it may be missing.
            Command::new("ip").args(["link", "delete", "pod-id-link0"]).output().await.unwrap();
        }
        whole().await;
        agent.become_ready().await.unwrap();
        assert_eq!((node.ask(&agent).await.status, up(&agent).await), (200, 1));
        assert!(!agent.log().contains("can't be watched"), "{}", agent.log());
        assert_eq!(keeper.end(Signal::SIGTERM).await, Some(0));
    });
}
