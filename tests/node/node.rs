//! A node: a network namespace, by default with the link-local addresses on its loopback link, and a cluster of the simulated
//! cloud in it.
//!
//! The namespace belongs to a thread and to the processes that it starts; with the last of them the kernel takes it away, however
//! a test ends. Nothing in it reaches another network.

use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::keys::Algorithm;
use credlet::sim::pod::PodSpec;
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::runtime::Builder;

use crate::harness::agent::Agent;
use crate::harness::http::{Answer, get};
use crate::harness::setup::{REGION, Setup};

/// A node and its cloud.
pub(crate) struct Node {
    pub(crate) cloud: Cloud,
    folder: TempDir,
}

/// Runs `test` on a node of its own, which has the addresses on its loopback link.
pub(crate) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send + 'static) {
    on_a_bare_node(async |node| {
        run("ip", &["address", "add", "169.254.170.23/32", "dev", "lo"]);
        run("ip", &["address", "add", "fd00:ec2::23/128", "dev", "lo", "nodad"]);
        test(node).await;
    });
}

/// Runs `test` on a node of its own, which has no addresses but those of loopback.
pub(crate) fn on_a_bare_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, which needs root");
        run("ip", &["link", "set", "lo", "up"]);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config { region: REGION.to_owned(), algorithm: Algorithm::Es256, ..Config::default() };
            test(Node { cloud: Cloud::start(config).await.unwrap(), folder: tempfile::tempdir().unwrap() }).await;
        });
    });
    thread.join().unwrap_or_else(|panic| resume_unwind(panic));
}

/// Runs a command on this node, which must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Node {
    /// An agent of this node, with the defaults of all flags for addresses and ports.
    pub(crate) fn setup(&self) -> Setup {
        Setup::on_node(self.folder.path()).of(&self.cloud)
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A good token of a new pod.
    pub(crate) fn token(&self) -> String {
        let pod = PodSpec::new("default", "app", "app-0");
        self.cloud.keys().token(&pod, POD_IDENTITY_AUDIENCE, Duration::from_secs(3600))
    }

    /// An agent's answer to it.
    pub(crate) async fn ask(&self, agent: &Agent) -> Answer {
        agent.ask(&self.token()).await.unwrap()
    }

    /// The answer at an address, to a request for this host.
    pub(crate) async fn ask_at(&self, address: &str, host: &str) -> Answer {
        let token = self.token();
        get(address.parse().unwrap(), "/v1/credentials", &[("host", host), ("authorization", &token)]).await.unwrap()
    }
}
