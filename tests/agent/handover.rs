//! One agent of a node follows another: real processes, real sockets, and where a step has to be met exactly, a peer that speaks the
//! protocol from here.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::node::handover::directory::{Directory, Seat};
use credlet::node::handover::link::{Letter, Reader, halves};
use credlet::node::handover::machine::TAKING;
use credlet::node::handover::wire::{FORMAT, Greeting, Message, Part};
use credlet::sim::cloud::Cloud;
use credlet::sim::script::{Behaviour, Operation};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::agent::Agent;
use crate::harness::asker::{Asker, Asking, Connections};
use crate::harness::http;
use crate::harness::setup::Setup;
use crate::world::{cloud, pod, token, within};

const SECOND: Duration = Duration::from_secs(1);
/// An agent that stood by serves so soon after the one that it stood by for has died.
const RESUMED: Duration = Duration::from_millis(100);

/// A node: its cloud, its handover directory, and the folders of its agents.
struct Node {
    cloud: Cloud,
    folder: TempDir,
    setup: Setup,
}

impl Node {
    async fn new() -> Self {
        let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
        let shared = folder.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o700)).unwrap();
        let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).flag("handover-dir", shared.display());
        Self { cloud, folder, setup }
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

    fn token(&self, name: &str) -> String {
        token(&self.cloud, &pod(name))
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
    outbox: mpsc::UnboundedSender<Letter>,
}

impl Peer {
    fn over(stream: UnixStream) -> Self {
        let (reader, outbox) = halves(stream);
        Self { reader, outbox }
    }

    fn say(&self, message: Message, descriptors: Vec<OwnedFd>) {
        self.outbox.send(Letter { message, descriptors }).unwrap();
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
    agent.status().await.unwrap()["handover"].clone()
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
async fn a_successor_takes_over_and_nobody_notices() {
    let node = Node::new().await;
    let mut old = node.start("old").await;
    let askers = node.ask(&["app-0", "app-1", "app-2"]).begun().await;
    let probes = node.probe();
    let calls = node.exchanges();
    let mut new = node.start("new").await;
    becomes(&mut old, "standby").await;
    let standing = handover(&new).await;
    assert_eq!((&standing["role"], &standing["standing_by"][0]["pid"]), (&"serving".into(), &old.pid().unwrap().as_raw().into()));
    assert_eq!(handover(&old).await["serving"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(old.status().await.unwrap()["pending"]["duty"].is_string(), "it is not ready");
    assert_eq!(new.sample("credlet_handovers_total{result=\"taken\"}").await.unwrap(), 1, "its own metrics port");
    assert_eq!(results(&old, "given"), 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handover(&old).await["role"], "standby", "until it is told to end");
    let before = new.all_requests().await.unwrap();
    old.terminate().unwrap();
    assert_eq!(old.ended().await.unwrap().code(), Some(0));
    new.wait_for(async |new: &mut Agent| Ok(new.all_requests().await? > before + 100)).await.unwrap();
    assert!(!probes.is_finished(), "probes and metrics have answered all the time");
    askers.lost_nothing();
    assert_eq!(node.exchanges(), calls);
}
