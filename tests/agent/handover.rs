//! One agent of a node follows another: real processes, real sockets, and where a step has to be met exactly, a peer that speaks the
//! protocol from here.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::node::handover::directory::{Directory, Publication, Seat};
use credlet::node::handover::link::{Letter, Reader, Writer, halves};
use credlet::node::handover::machine::TAKING;
use credlet::node::handover::wire::{FORMAT, Greeting, Message, Part};
use credlet::sim::cloud::Cloud;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::{Behaviour, Operation};
use nix::sys::signal::{Signal, kill};
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::agent::Agent;
use crate::harness::asker::{Asker, Asking, Connections};
use crate::harness::http;
use crate::harness::setup::Setup;
use crate::world::{cloud, pod, token, within};

const SECOND: Duration = Duration::from_secs(1);
/// An agent that stood by serves so soon after the one that it stood by for has died.
const RESUMED: Duration = Duration::from_millis(100);

/// A node: its cloud, its handover directory, the folders of its agents, its pods.
struct Node {
    cloud: Cloud,
    folder: TempDir,
    setup: Setup,
    pods: Mutex<BTreeMap<String, PodSpec>>,
}

impl Node {
    async fn new() -> Self {
        let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
        let shared = folder.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o700)).unwrap();
        let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).flag("handover-dir", shared.display());
        let setup = setup.flag("max-service-qps", 1_000);
        Self { cloud, folder, setup, pods: Mutex::default() }
    }

    fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    fn directory(&self) -> Directory {
        Directory::open(&self.shared()).unwrap()
    }

    /// An agent that may not be ready.
    fn spawn(&self, name: &str) -> Agent {
        self.setup_of(name).spawn().unwrap()
    }

    fn setup_of(&self, name: &str) -> Setup {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        self.setup.clone().in_folder(&folder)
    }

    /// An agent that serves.
    async fn start(&self, name: &str) -> Agent {
        let mut agent = self.spawn(name);
        agent.become_ready_itself().await.unwrap();
        agent
    }

    /// A token of the one pod of this name.
    fn token(&self, name: &str) -> String {
        token(&self.cloud, self.pods.lock().entry(name.to_owned()).or_insert_with(|| pod(name)))
    }

    fn exchanges(&self) -> usize {
        self.cloud.count(Operation::EksAuth)
    }

    /// Clients that ask all the time: each of these pods over a kept connection, and by one a request.
    fn ask(&self, pods: &[&str]) -> Askers {
        let asking = |name: &&str, connections| Asking {
            address: self.setup.addresses().credentials,
            token: self.token(name),
            connections,
            pause: Duration::from_millis(1),
        };
        let kinds = [Connections::Kept, Connections::Each];
        Askers(pods.iter().flat_map(|name| kinds.map(|connections| Asker::start(asking(name, connections)))).collect())
    }

    /// Asks probes and metrics all the time.
    fn probe(&self) -> AbortOnDropHandle<()> {
        let addresses = self.setup.addresses();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                for (address, path) in [(addresses.probes, "/healthz"), (addresses.metrics, "/metrics")] {
                    assert_eq!(http::get(address, path, &[]).await.unwrap().status, 200, "{path}");
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }))
    }

    /// Looks all the time for files with anything in them: what is handed over is in none.
    fn watch_files(&self) -> AbortOnDropHandle<()> {
        let (folder, shared) = (self.folder.path().to_owned(), self.shared());
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                assert_eq!(written(&folder).into_iter().find(|path| !path.ends_with("agent.log")), None);
                let own = |name: &String| ["handover.sock", "handover.sock.new", "seat"].contains(&name.as_str());
                assert!(names(&shared).iter().all(own), "{:?}", names(&shared));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }))
    }

    /// Waits until a successor would find the one who serves.
    async fn is_found(&self) {
        within(10 * SECOND, async {
            while self.directory().connect().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// A peer that connects as a successor does.
    async fn successor(&self) -> Peer {
        let mut peer = Peer::over(self.directory().connect().await.unwrap());
        peer.say(Message::Hello(greeting(FORMAT)), Vec::new());
        let welcome = peer.hear().await;
        assert!(matches!(&welcome.message, Message::Welcome(greeting) if greeting.format == FORMAT), "{welcome:?}");
        assert_eq!(welcome.descriptors.len(), 4, "credentials, probes of both families, metrics");
        peer
    }

    /// Asks for `name` until it is served, and tells how long that took.
    async fn served_after(&self, name: &str) -> Duration {
        let (token, begun) = (self.token(name), Clock::System.now().mono);
        let address = self.setup.addresses().credentials;
        let served = async {
            while !http::get(address, "/v1/credentials", &[("authorization", &token)])
                .await
                .is_ok_and(|answer| answer.status == 200)
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(10 * SECOND, served).await;
        Clock::System.now().mono - begun
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The files below `folder` that are not empty. One may go while it is looked at.
fn written(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let below = |path: PathBuf| match path.symlink_metadata() {
        Ok(found) if found.is_dir() => written(&path),
        Ok(found) if found.len() > 0 => vec![path],
        _ => Vec::new(),
    };
    entries.flat_map(|entry| below(entry.path())).collect()
}

struct Askers(Vec<Asker>);

impl Askers {
    /// Waits until each has been served.
    async fn begun(self) -> Self {
        let each = || self.0.iter().all(|asker| asker.so_far(|asked| asked.served > 0));
        within(10 * SECOND, async {
            while !each() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        self
    }

    /// Nobody was refused a connection or credentials.
    fn lost_nothing(self) {
        for asker in self.0 {
            let asked = asker.stop().unwrap();
            assert!(asked.failed == 0 && asked.served > 0, "{} failed, {}", asked.failed, asked.last_failure);
        }
    }
}

fn greeting(format: u16) -> Greeting {
    Greeting { format, version: "0.0.0".into() }
}

/// Another agent, played here.
struct Peer {
    reader: Reader,
    writer: Writer,
}

impl Peer {
    fn over(stream: UnixStream) -> Self {
        let (reader, writer) = halves(stream);
        Self { reader, writer }
    }

    fn say(&self, message: Message, descriptors: Vec<OwnedFd>) {
        self.writer.post(message, descriptors);
    }

    async fn hear(&mut self) -> Letter {
        within(5 * SECOND, self.reader.next()).await.unwrap()
    }

    /// The next letter but parts.
    async fn hear_word(&mut self) -> Letter {
        loop {
            let letter = self.hear().await;
            if letter.message.word().is_some() {
                return letter;
            }
        }
    }

    /// Goes on to where it has the seat, and the other one waits for it to serve.
    async fn take(&mut self) -> Seat {
        assert_eq!(self.hear_word().await.message, Message::End);
        self.say(Message::End, Vec::new());
        self.say(Message::Ready, Vec::new());
        let mut go = self.hear_word().await;
        assert!(matches!(go.message, Message::Go(_)), "{go:?}");
        Seat::inherited(go.descriptors.pop().unwrap())
    }

    async fn is_closed(&mut self) {
        let end = async { while self.reader.next().await.is_ok() {} };
        within(5 * SECOND, end).await;
    }
}

async fn handover(agent: &Agent) -> Value {
    agent.status().await.unwrap_or_default()["handover"].clone()
}

async fn becomes(agent: &mut Agent, role: &str) {
    agent.wait_for(async |agent: &mut Agent| Ok(handover(agent).await["role"] == role)).await.unwrap();
}

fn signal(agent: &Agent, signal: Signal) {
    kill(agent.pid().unwrap(), signal).unwrap();
}

/// How many handovers came to `result`, by its log: the metrics port is another's when it stands by.
fn results(agent: &Agent, result: &str) -> usize {
    agent.log().matches(&format!("\"result\":\"{result}\"")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_knows_where_each_pod_is() {
    let mut node = Node::new().await;
    node.setup = node.setup.flag("source-binding", "enforce");
    let _first = node.start("first").await;
    let (token, address) = (node.token("app"), node.setup.addresses().credentials);
    let ask = async |number| {
        let headers = [("authorization", token.as_str())];
        http::get_from(Ipv4Addr::new(127, 0, 0, number), address, "/v1/credentials", &headers).await.unwrap().status
    };
    for number in 1..=4 {
        assert_eq!(ask(number).await, 200);
    }
    let second = node.start("second").await;
    assert_eq!((ask(5).await, ask(4).await), (403, 200), "a fifth address, by what its predecessor saw: {}", second.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_and_nobody_notices() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1", "app-2"]).begun().await;
    let (probes, files) = (node.probe(), node.watch_files());
    let calls = node.exchanges();
    let mut new = node.start("new").await;
    becomes(&mut old, "standby").await;
    let standing = handover(&new).await;
    assert_eq!((&standing["role"], &standing["standing_by"][0]["pid"]), (&"serving".into(), &old.pid().unwrap().as_raw().into()));
    assert_eq!(handover(&old).await["serving"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(new.sample("credlet_handovers_total{result=\"taken\"}").await.unwrap(), 1, "its own metrics port");
    assert_eq!(results(&old, "given"), 1);
    let log = old.log();
    let stands_by: Vec<_> = log.lines().filter(|line| line.contains("stands by for the agent that serves")).collect();
    assert!(matches!(stands_by[..], [line] if line.contains(&format!("\"pid\":{}", new.pid().unwrap()))), "{log}");
    let listener = old.status().await.unwrap()["listeners"][0].clone();
    assert!(listener["bound"] == true && listener["listening"] == false, "{listener}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handover(&old).await["role"], "standby", "until it is told to end");
    let before = new.all_requests().await.unwrap();
    old.terminate().unwrap();
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    new.wait_for(async |new: &mut Agent| Ok(new.all_requests().await? > before + 100)).await.unwrap();
    assert!(!probes.is_finished(), "probes and metrics have answered all the time");
    assert!(!files.is_finished(), "nothing but logs has been written");
    assert_eq!(names(&node.shared()), ["handover.sock", "seat"]);
    assert!(new.log().contains("another agent has closed its connection"), "{}", new.log());
    assert!(!new.log().contains("\"error\""), "a normal end is none: {}", new.log());
    askers.lost_nothing();
    assert_eq!(node.exchanges(), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_and_what_is_new_costs_one_call_each() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let gate = std::sync::Arc::default();
    node.cloud.script().next(Operation::EksAuth, [Behaviour::held(&gate)]);
    let (address, slow) = (old.address(), node.token("slow"));
    let asking = move |token: String| {
        tokio::spawn(async move { http::get(address, "/v1/credentials", &[("authorization", &token)]).await.unwrap() })
    };
    let first = asking(slow.clone());
    within(5 * SECOND, node.cloud.reached(Operation::EksAuth, 1)).await;
    let pods: Vec<String> = (0..200).map(|number| format!("new-{number}")).collect();
    let coming: Vec<_> = pods.iter().map(|name| node.token(name)).collect();
    let comers = tokio::spawn(async move {
        for token in coming {
            assert_eq!(asking(token).await.unwrap().status, 200);
        }
    });
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
    let second = asking(slow.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.notify_one();
    let second = second.await.unwrap();
    assert_eq!(second.status, 200, "what the old one fetched is served by the new one: {}", second.body);
    // A client is told to come again when AWS takes longer than it may.
    assert!([200, 503].contains(&first.await.unwrap().status));
    within(30 * SECOND, comers).await.unwrap();
    assert_eq!(node.exchanges(), 1 + pods.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_successors_at_once_follow_each_other() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1"]).begun().await;
    let mut others = [node.spawn("first"), node.spawn("second")];
    // Whoever comes second takes over from the first, and both others find the one who serves.
    let mut roles = Vec::new();
    old.wait_for(async |old: &mut Agent| {
        let [a, b] = &others;
        roles = Vec::new();
        for agent in [&*old, a, b] {
            roles.push(handover(agent).await);
        }
        let of = |role: &str| roles.iter().filter(|handover| handover["role"] == role).count();
        let attached = roles.iter().filter_map(|handover| handover["standing_by"].as_array()).map(Vec::len).max();
        Ok(of("serving") == 1 && of("standby") == 2 && attached == Some(2))
    })
    .await
    .unwrap();
    assert_eq!(roles[0]["role"], "standby", "{roles:?}");
    let given: usize = others.iter().map(|agent| results(agent, "given") + results(agent, "taken")).sum();
    assert!(given == 3 || given == 1, "{given}: twice, or once and the other came to the one that serves");
    askers.lost_nothing();
    assert_eq!(node.exchanges(), 2);
    for agent in &mut others {
        agent.stop().await.unwrap();
    }
    assert!(node.served_after("app-0").await < 2 * SECOND);
    assert_eq!((handover(&old).await["role"].as_str().unwrap(), node.exchanges()), ("serving", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_at_any_step_leaves_the_predecessor_serving() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1"]).begun().await;
    let calls = node.exchanges();
    for step in 0..7 {
        let failed = old.sample("credlet_handovers_total{result=\"failed\"}").await.unwrap();
        let mut peer = match step {
            0 => Peer::over(node.directory().connect().await.unwrap()),
            _ => node.successor().await,
        };
        let mut seat = None;
        match step {
            0 | 1 => {}
            2 => assert!(matches!(peer.hear().await.message, Message::Part(_))),
            3 => assert_eq!(peer.hear_word().await.message, Message::End),
            4 => peer.say(Message::Ready, Vec::new()),
            _ => seat = Some(peer.take().await),
        }
        if step == 6 {
            peer.say(Message::Serving, Vec::new());
            assert_eq!(peer.hear_word().await.message, Message::Done);
        }
        drop((peer, seat));
        assert!(node.served_after("app-0").await < SECOND, "step {step}");
        old.wait_for(async |old: &mut Agent| {
            let standing = handover(old).await;
            Ok(standing["role"] == "serving" && standing["standing_by"] == serde_json::json!([]))
        })
        .await
        .unwrap();
        let failed = old.sample("credlet_handovers_total{result=\"failed\"}").await.unwrap() - failed;
        assert_eq!(failed, u64::from([4, 5].contains(&step)), "step {step}");
    }
    assert_eq!((results(&old, "given"), results(&old, "resumed")), (1, 1));
    askers.lost_nothing();
    assert_eq!(node.exchanges(), calls);
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_afterwards_is_followed_by_its_predecessor_at_once() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    assert!(node.served_after("before").await < SECOND);
    let mut pauses = Vec::new();
    for round in 0..5 {
        let new = node.start(&format!("new-{round}")).await;
        becomes(&mut old, "standby").await;
        assert!(node.served_after("after").await < SECOND);
        // What a landing brings goes at once, but not before the answer to who asked.
        old.wait_for(async |old: &mut Agent| Ok(old.status().await?["entries"].as_array().map(Vec::len) == Some(2)))
            .await
            .unwrap();
        signal(&new, Signal::SIGKILL);
        pauses.push(node.served_after("before").await);
        new.ended().await.unwrap();
        becomes(&mut old, "serving").await;
    }
    pauses.sort_unstable();
    println!("serves again after {pauses:?}");
    // Its very end takes a dead process longer where others want the cores too.
    assert!(pauses[2] < RESUMED && pauses[4] < SECOND, "{pauses:?}");
    assert!(node.served_after("after").await < SECOND);
    assert_eq!(node.exchanges(), 2, "what the dead one fetched has gone to the one that lives");
    assert_eq!(results(&old, "resumed"), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_in_a_row_and_the_last_one_dies() {
    let node = Node::new().await;
    let agents = [node.start("a").await, node.start("b").await, node.start("c").await];
    assert!(node.served_after("app-0").await < SECOND);
    let [a, b, mut c] = agents;
    c.wait_for(async |c: &mut Agent| Ok(handover(c).await["standing_by"].as_array().map(Vec::len) == Some(2))).await.unwrap();
    signal(&c, Signal::SIGKILL);
    let resumed = node.served_after("app-0").await;
    assert!(resumed < SECOND, "{resumed:?}");
    let [mut a, mut b] = [a, b];
    let mut roles = Vec::new();
    a.wait_for(async |a: &mut Agent| {
        roles = vec![handover(a).await["role"].clone(), handover(&b).await["role"].clone()];
        Ok(roles.contains(&"serving".into()) && roles.contains(&"standby".into()))
    })
    .await
    .unwrap();
    let last = if roles[0] == "serving" { &mut b } else { &mut a };
    becomes(last, "standby").await;
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_hangs_is_not_waited_for() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0"]).begun().await;
    let mut peer = node.successor().await;
    let _seat = peer.take().await;
    let begun = Clock::System.now().mono;
    assert!(node.served_after("app-0").await < TAKING + SECOND);
    let waited = Clock::System.now().mono - begun;
    assert!(waited > TAKING / 2, "nobody accepted meanwhile: {waited:?}");
    peer.is_closed().await;
    becomes(&mut old, "serving").await;
    askers.lost_nothing();
    // What the hung one holds of the seat locks nobody out.
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_hangs_is_waited_for() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    assert!(node.served_after("app-0").await < SECOND);
    signal(&old, Signal::SIGSTOP);
    let mut new = node.spawn("new");
    new.wait_for(async |new: &mut Agent| Ok(handover(new).await["role"] == "greeting")).await.unwrap();
    let pending = new.status().await.unwrap()["pending"].clone();
    assert!(pending["duty"].is_string(), "{pending}");
    let waits = "waits for the agent that has the seat";
    new.wait_for(async |new: &mut Agent| Ok(new.log().contains(waits))).await.unwrap();
    let (waiting, pid) = (handover(&new).await, old.pid().unwrap().as_raw());
    assert!(waiting["for_seconds"].as_u64() >= Some(5) && waiting["serving"]["pid"] == pid, "{waiting}");
    let log = new.log();
    let line = log.lines().find(|line| line.contains(waits)).unwrap();
    assert!(line.contains("\"WARN\"") && line.contains(&format!("\"pid\":{pid}")), "{line}");
    signal(&old, Signal::SIGCONT);
    new.become_ready_itself().await.unwrap();
    becomes(&mut old, "standby").await;
    // And one that hangs while another one takes its seat because it has died in the middle.
    signal(&old, Signal::SIGSTOP);
    assert!(node.served_after("app-0").await < SECOND);
    signal(&new, Signal::SIGKILL);
    new.ended().await.unwrap();
    signal(&old, Signal::SIGCONT);
    assert!(node.served_after("app-0").await < SECOND);
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_finishes_the_handover_first() {
    let node = Node::new().await;
    let old = node.start("old").await;
    assert!(node.served_after("app-0").await < SECOND);
    let mut peer = node.successor().await;
    let seat = peer.take().await;
    old.terminate().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    peer.say(Message::Serving, Vec::new());
    assert_eq!(peer.hear_word().await.message, Message::Done);
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    drop(seat);

    // One that nobody has asked for hands over to who is there.
    let old = node.start("next").await;
    let mut peer = node.successor().await;
    assert_eq!(peer.hear_word().await.message, Message::End);
    old.terminate().unwrap();
    assert!(matches!(peer.hear_word().await.message, Message::Go(_)));
    // And if that dies, it ends all the same.
    drop(peer);
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    let _last = node.start("last").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stands_by_or_joins_ends_when_it_is_told_to() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let new = node.start("new").await;
    becomes(&mut old, "standby").await;
    let askers = node.ask(&["app-0"]).begun().await;
    old.terminate().unwrap();
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    signal(&new, Signal::SIGSTOP);
    let mut third = node.spawn("third");
    becomes(&mut third, "greeting").await;
    third.terminate().unwrap();
    assert_eq!(third.ended().await.unwrap().code(), Some(0));
    signal(&new, Signal::SIGCONT);
    askers.lost_nothing();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_handed_over_verify_while_their_source_is_away() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    assert!(node.served_after("app-0").await < SECOND);
    node.cloud.script().always(Operation::Jwks, Behaviour::Reset);
    let _new = node.start("new").await;
    becomes(&mut old, "standby").await;
    old.terminate().unwrap();
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    for name in ["app-0", "app-1"] {
        assert!(node.served_after(name).await < SECOND, "{name}");
    }
}

/// Plays a predecessor that serves nothing: it has the seat, the socket and a listening socket of the credentials' address.
struct Predecessor {
    seat: Seat,
    publication: Publication,
    credentials: TcpListener,
}

impl Predecessor {
    fn of(node: &Node) -> Self {
        let directory = node.directory();
        let seat = directory.take_seat().unwrap().unwrap();
        let credentials = TcpListener::bind(node.setup.addresses().credentials).unwrap();
        Self { seat, publication: directory.publish().unwrap(), credentials }
    }

    /// Greets the next successor, in a format of its own, with its socket.
    async fn greets(&self, format: u16) -> Peer {
        let mut peer = Peer::over(within(10 * SECOND, self.publication.accept()).await.unwrap());
        let hello = peer.hear().await;
        assert!(matches!(hello.message, Message::Hello(_)), "{hello:?}");
        peer.say(Message::Welcome(greeting(format)), vec![self.credentials.try_clone().unwrap().into()]);
        peer
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_not_known_is_left_and_the_sockets_are_taken() {
    let node = Node::new().await;
    let old = Predecessor::of(&node);
    let mut new = node.spawn("new");
    let mut peer = old.greets(FORMAT + 1).await;
    peer.say(Message::Part(Part { kind: 3, body: vec![1, 2, 3].into() }), Vec::new());
    peer.say(Message::End, Vec::new());
    assert_eq!(peer.hear_word().await.message, Message::End);
    assert_eq!(peer.hear_word().await.message, Message::Ready);
    let waiting = tokio::spawn(http::get(new.address(), "/healthz", &[]));
    peer.say(Message::Go(vec![9].into()), vec![old.seat.copy().unwrap()]);
    assert_eq!(peer.hear_word().await.message, Message::Serving);
    let Predecessor { seat, publication, credentials } = old;
    drop((seat, publication, credentials));
    peer.say(Message::Done, Vec::new());
    new.become_ready_itself().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status, 404, "who waited in the old queue is answered");
    assert_eq!(new.sample("credlet_handovers_total{result=\"cold\"}").await.unwrap(), 1);
    assert!(new.log().contains("of a format that this version does not know"), "{}", new.log());
    assert!(node.served_after("app-0").await < SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_dies_in_the_middle_is_followed_at_once() {
    for step in 0..4 {
        let node = Node::new().await;
        let old = Predecessor::of(&node);
        let mut new = node.spawn("new");
        let mut peer = old.greets(FORMAT).await;
        if step > 0 {
            let damaged = Part { kind: 3, body: vec![1, 255, 255].into() };
            peer.say(Message::Part(damaged), Vec::new());
        }
        if step > 1 {
            peer.say(Message::End, Vec::new());
            assert_eq!(peer.hear_word().await.message, Message::End);
            assert_eq!(peer.hear_word().await.message, Message::Ready);
        }
        if step > 2 {
            peer.say(Message::Go(Vec::new().into()), vec![old.seat.copy().unwrap()]);
            assert_eq!(peer.hear_word().await.message, Message::Serving);
        }
        drop((peer, old));
        new.become_ready_itself().await.unwrap();
        assert!(node.served_after("app-0").await < SECOND, "step {step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_that_fail_come_ever_more_seldom_and_the_seat_is_tried_all_the_while() {
    let node = Node::new().await;
    let (old, begun) = (Predecessor::of(&node), Clock::System.now().mono);
    let new = node.spawn("new");
    for _ in 0..8 {
        let mut peer = old.greets(FORMAT).await;
        peer.say(Message::Done, Vec::new());
        peer.is_closed().await;
    }
    let taken = Clock::System.now().mono - begun;
    assert!(taken > 2 * SECOND, "20 ms, and each time twice as long: {taken:?}");
    drop(old);
    assert!(node.served_after("app-0").await < SECOND, "before the next join, which is 2.5 s away");
    for line in ["another agent of this node", "could not be joined"] {
        assert_eq!(new.log().matches(line).count(), 1, "{line}: {}", new.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_removes_from_the_directory_is_made_again() {
    let node = Node::new().await;
    let (socket, seat, obstacle) = ["handover.sock", "seat", "handover.sock.new"].map(|name| node.shared().join(name)).into();
    std::fs::create_dir(&obstacle).unwrap();
    let mut agent = node.start("old").await;
    assert!(agent.log().contains("no successor can take over from this agent"), "{}", agent.log());
    std::fs::remove_dir(&obstacle).unwrap();
    node.is_found().await;
    std::fs::remove_file(&socket).unwrap();
    node.is_found().await;
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "").unwrap();
    node.is_found().await;
    [&socket, &seat].into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    node.is_found().await;
    assert!(node.directory().take_seat().unwrap().is_none(), "the one that others try now is locked as well");
    let _new = node.start("new").await;
    becomes(&mut agent, "standby").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_agent_says_ends_the_connection_and_nothing_else() {
    let node = Node::new().await;
    let old = node.start("old").await;
    for message in [Message::Ready, Message::Serving, Message::Done, Message::Go(Vec::new().into())] {
        let mut early = Peer::over(node.directory().connect().await.unwrap());
        early.say(message.clone(), Vec::new());
        early.is_closed().await;
        if message != Message::Ready {
            let mut late = node.successor().await;
            late.say(message, Vec::new());
            late.is_closed().await;
        }
    }
    let mut silent = Peer::over(node.directory().connect().await.unwrap());
    silent.is_closed().await;
    assert!(node.served_after("app-0").await < SECOND);
    assert_eq!(handover(&old).await["role"], "serving");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_used_is_a_warning() {
    let node = Node::new().await;
    std::fs::set_permissions(node.shared(), PermissionsExt::from_mode(0o755)).unwrap();
    for (name, directory) in [("open", node.shared()), ("relative", "here".into()), ("missing", node.shared().join("missing"))] {
        let mut agent = node.setup_of(name).flag("handover-dir", directory.display()).spawn().unwrap();
        agent.become_ready_itself().await.unwrap();
        let status = agent.status().await.unwrap();
        assert!(status["advice"]["handover"].is_string() && status["handover"].is_null(), "{status}");
        assert!(agent.log().contains("no handover"), "{}", agent.log());
        agent.stop().await.unwrap();
    }
    assert!(std::fs::read_dir(node.shared()).unwrap().next().is_none(), "nothing is made in there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_other_users_are_let_nowhere() {
    let node = Node::new().await;
    let socket = node.shared().join("handover.sock");
    let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    let stranger = |script: &str| {
        let mut python = tokio::process::Command::new("python3");
        python.args(["-c", script]).arg(&socket).uid(65_534).gid(65_534).stdout(Stdio::piped()).kill_on_drop(true);
        python.spawn().unwrap()
    };
    let old = node.start("old").await;
    // As if the directory had become open afterwards.
    [node.folder.path(), &node.shared(), &socket].into_iter().for_each(open);
    let connect = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.settimeout(5)\n\
                   print('heard', len(s.recv(9)))";
    let output = within(20 * SECOND, stranger(connect).wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "heard 0\n");
    assert!(old.log().contains("of another user"), "{}", old.log());
    signal(&old, Signal::SIGKILL);
    old.ended().await.unwrap();

    std::fs::remove_file(&socket).unwrap();
    let listen = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\ns.settimeout(10)\n\
                  c = s.accept()[0]\nc.settimeout(5)\nprint('heard', len(c.recv(9)))";
    let listening = stranger(listen);
    within(10 * SECOND, async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    std::fs::set_permissions(node.shared(), PermissionsExt::from_mode(0o700)).unwrap();
    let _seat = node.directory().take_seat().unwrap().unwrap();
    let new = node.spawn("new");
    let output = within(20 * SECOND, listening.wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "heard 0\n", "{}", new.log());
    assert!(new.log().contains("of another user"), "{}", new.log());
}
