//! One agent of a node follows another: real processes and real sockets. Here stand the node, its clients and what can be seen of an
//! agent; `agents` has two or three of ours, `peers` one that is played, where a step has to be met exactly, and `directory` what
//! becomes of theirs.

mod agents;
mod directory;
mod peers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::node::handover::directory::Directory;
use credlet::sim::cloud::Cloud;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::Operation;
use nix::sys::signal::{Signal, kill};
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;
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
        let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).flag("max-service-qps", 1_000);
        // Two clients of a pod that never pause are quicker than a pod may be.
        let setup = setup.flag("pod-rate", 1_000_000);
        let setup = setup.with_handover().unwrap();
        Self { cloud, folder, setup, pods: Mutex::default() }
    }

    fn shared(&self) -> PathBuf {
        self.folder.path().join("handover")
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
                let own = |name: &String| ["handover.sock", "handover.sock.new", "seat", "seat.new"].contains(&name.as_str());
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

    /// Asks for `name` until it is served, and tells how long that took.
    async fn served_after(&self, name: &str) -> Duration {
        let (token, begun) = (self.token(name), Clock::System.now().mono);
        let address = self.setup.addresses().credentials;
        // One that hangs may have accepted.
        let headers = [("authorization", token.as_str())];
        let ask = || timeout(SECOND, http::get(address, "/v1/credentials", &headers));
        let served = async {
            while !ask().await.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(20 * SECOND, served).await;
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

async fn handover(agent: &Agent) -> Value {
    agent.status().await.unwrap_or_default()["handover"].clone()
}

async fn becomes(agent: &mut Agent, role: &str) {
    agent.wait_for(async |agent: &mut Agent| Ok(handover(agent).await["role"] == role)).await.unwrap();
}

/// What a landing brings goes to others at once, but not before the answer to who asked.
async fn knows(agent: &mut Agent, entries: usize) {
    agent
        .wait_for(async |agent: &mut Agent| Ok(agent.status().await?["entries"].as_array().map(Vec::len) == Some(entries)))
        .await
        .unwrap();
}

/// The one of both that comes to serve, and the one that comes to stand by.
async fn in_order(mut a: Agent, b: Agent) -> [Agent; 2] {
    let mut roles = Vec::new();
    a.wait_for(async |a: &mut Agent| {
        roles = vec![handover(a).await["role"].clone(), handover(&b).await["role"].clone()];
        Ok(roles.contains(&"serving".into()) && roles.contains(&"standby".into()))
    })
    .await
    .unwrap();
    if roles[0] == "serving" { [a, b] } else { [b, a] }
}

fn signal(agent: &Agent, signal: Signal) {
    kill(agent.pid().unwrap(), signal).unwrap();
}

/// How many handovers came to `result`, by its log: the metrics port is another's when it stands by.
fn results(agent: &Agent, result: &str) -> usize {
    agent.log().matches(&format!("\"result\":\"{result}\"")).count()
}
