//! What takes real time: the real binary over real sockets, with handovers and much churn. What hours of sessions do is shown with
//! time that is simulated, in `outage`; here a session has minutes.
//!
//! `cargo test --test agent soak -- --ignored --nocapture`; `CREDLET_SOAK_SECONDS` sets the life of a session (300), and
//! `CREDLET_SOAK_PODS` how many pods come and go (100,000).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::sim::cloud::{self, Cloud, Conditions};
use credlet::sim::fault::Fault;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::{Behaviour, Operation};
use procfs::process::Process;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::flood::flood;
use crate::harness::agent::Agent;
use crate::harness::checker::{Checker, Promise};
use crate::harness::http::get_from;
use crate::harness::setup::Setup;
use crate::world::{World, config, pod, token};

const PODS: usize = 500;
/// The patience of the Rust SDK. The 900 ms are judged where time is simulated; here clients, agents and AWS share a machine.
const LIMIT: Duration = Duration::from_secs(5);
/// Requests at once: each may wait half a second for a renewal, and all are to ask within a few seconds.
const CLIENTS: u8 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// One agent of a node after the other, by handover, and all of its pods.
struct Node {
    cloud: Arc<Cloud>,
    checker: Arc<Checker>,
    pods: Arc<Vec<PodSpec>>,
    setup: Setup,
    agent: Agent,
    agents: usize,
    _folder: TempDir,
}

impl Node {
    async fn start(lifetime: Duration) -> Self {
        let conditions = Conditions { lifetime, ..Conditions::default() };
        let cloud = Cloud::start(cloud::Config { conditions, ..config() }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        // As many calls for a session of minutes as the default allows for one of hours.
        let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).flag("max-service-qps", 100);
        let setup = setup.with_handover().unwrap();
        let agent = setup.start().await.unwrap();
        let pods = (0..PODS).map(|number| pod(&format!("app-{number}"))).collect();
        let checker = Arc::new(Checker::new(Clock::System, LIMIT));
        Self { cloud: Arc::new(cloud), checker, pods: Arc::new(pods), setup, agent, agents: 1, _folder: folder }
    }

    /// The next agent takes over, and the one before ends.
    async fn hand_over(&mut self) {
        let next = self.setup.follow(&self.agents.to_string()).await.unwrap();
        self.agents += 1;
        std::mem::replace(&mut self.agent, next).stop().await.unwrap();
    }

    /// Each pod asks once, with a new token.
    async fn ask_all(&self) {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            // An address for each: what one may have open is limited.
            let source = Ipv4Addr::new(127, 0, 1, client);
            let (cloud, checker, pods) = (Arc::clone(&self.cloud), Arc::clone(&self.checker), Arc::clone(&self.pods));
            let address = self.setup.addresses().credentials;
            clients.spawn(async move {
                for pod in pods.iter().skip(client.into()).step_by(CLIENTS.into()) {
                    let token = token(&cloud, pod);
                    let headers = [("authorization", token.as_str())];
                    let asking = get_from(source, address, "/v1/credentials", &headers);
                    let asking = async { asking.await.map_err(|error| format!("{error:#}"))?.document() };
                    let _ = checker.ask(pod, &token, asking).await;
                }
            });
        }
        clients.join_all().await;
    }

    async fn live(&self, time: Duration) {
        self.live_until(Clock::System.now().mono + time).await;
    }

    async fn live_until(&self, end: Instant) {
        while Clock::System.now().mono < end {
            self.ask_all().await;
            tokio::time::sleep(SECOND).await;
        }
    }
}

/// Scaled: sessions of minutes in place of six hours, calls a second to match, and while AWS is well the life that a renewal at
/// 0.55 of it leaves in place of twenty minutes. The 60 s below which nothing is served and the backoff of 30 s are as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 1.2 lives of a session in real time"]
async fn an_outage_with_two_handovers_in_it() {
    let lifetime = SECOND * u32::try_from(setting("CREDLET_SOAK_SECONDS", 300)).unwrap();
    let outage = lifetime.mul_f64(0.45) - 70 * SECOND;
    let mut node = Node::start(lifetime).await;
    let loaded = Clock::System.now().mono;
    for _ in 0..3 {
        node.ask_all().await;
    }
    node.checker.promise(Promise { served: true, life: lifetime.mul_f64(0.45) - 20 * SECOND });
    // Renewals come from 0.45 of a life to 0.55 of it: about a half of them are still to come.
    node.live(lifetime.mul_f64(0.5).saturating_sub(Clock::System.now().mono - loaded)).await;
    let before = node.cloud.calls().len();
    node.checker.promise(Promise::OUTAGE);
    let failures: [Behaviour; 4] =
        [Fault::internal_server().into(), Behaviour::Hang, Behaviour::Reset, Fault::throttling().retry_after(5 * SECOND).into()];
    let begun = Clock::System.now().mono;
    for (number, failure) in (1..).zip(failures) {
        node.cloud.script().always(Operation::EksAuth, failure);
        node.ask_all().await;
        if number % 2 == 0 {
            node.hand_over().await;
        }
        node.live_until(begun + outage * number / 4).await;
    }
    let during = node.checker.verdict(&node.cloud.calls()).unwrap();
    node.cloud.script().clear();
    node.checker.promise(Promise::NONE);
    node.live(40 * SECOND).await;
    node.checker.promise(Promise { served: true, life: lifetime.mul_f64(0.45) - 20 * SECOND });
    node.live(10 * SECOND).await;
    let after = node.checker.verdict(&node.cloud.calls()).unwrap();
    println!("{outage:?} of {lifetime:?}, {before} calls before it\nat its end: {during:?}\nafter: {after:?}");
}

/// Pods that come and go, each of which asks a hundred times: memory is what those that live need, and no more (R11).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes in a build that is not optimized"]
async fn memory_is_flat_while_pods_come_and_go() {
    /// As many a batch and as seldom as the cache has room for: what a pod held lapses after ten seconds.
    const BATCH: u64 = 250;
    const BETWEEN_BATCHES: Duration = Duration::from_secs(2);
    const REQUESTS_OF_EACH: usize = 100;
    let world = World::with(|setup| setup.flag("max-service-qps", 100_000).flag("pod-rate", 1_000_000)).await;
    // So that what they held lapses soon after them.
    world.cloud.set_conditions(Conditions { lifetime: 70 * SECOND, ..Conditions::default() });
    let (process, pods) = (Process::new(world.agent.pid().unwrap().as_raw()).unwrap(), setting("CREDLET_SOAK_PODS", 100_000));
    let resident = || process.status().unwrap().vmrss.unwrap() / 1024;
    let (mut sizes, mut ticks) = (Vec::new(), tokio::time::interval(BETWEEN_BATCHES));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for batch in 0..pods / BATCH {
        ticks.tick().await;
        let tokens: Vec<_> = (0..BATCH).map(|number| world.token(&pod(&format!("app-{batch}-{number}")))).collect();
        let requests = (0..tokens.len() * REQUESTS_OF_EACH).map(|number| tokens[number % tokens.len()].clone());
        let statuses = flood(Ipv4Addr::LOCALHOST, world.agent.address(), requests).await;
        // The first of a pod's requests may have to be put off where the machine is busy.
        let served = statuses.iter().rev().take_while(|status| **status == 200).count();
        assert!(served >= tokens.len() * (REQUESTS_OF_EACH - 1), "{served} of {}", statuses.len());
        sizes.push(resident());
        println!("{} pods, {} requests each: {} MiB resident", (batch + 1) * BATCH, REQUESTS_OF_EACH, resident());
    }
    let (early, late) = (sizes[sizes.len() / 4], sizes[sizes.len() - 1]);
    assert!(late <= early + early / 5, "{early} MiB after a quarter, {late} at the end");
}
