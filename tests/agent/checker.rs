//! The judge of all proofs, judged: each broken promise is told, and nothing is that was kept.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use credlet::sim::cloud::Conditions;
use credlet::sim::pod::{NODE, PodSpec};

use crate::harness::abuse::Place;
use crate::harness::asker::{Asker, Asking, Connections};
use crate::harness::canned::Canned;
use crate::harness::checker::{ANSWER_LIMIT, Promise};
use crate::simulation::{SimulatedAgent, Simulation, pod_on};
use crate::world::{World, pod, token, within};

/// A pod that was served, and what.
struct Scene {
    simulation: Simulation,
    _agent: SimulatedAgent,
    pod: PodSpec,
    document: String,
}

impl Scene {
    async fn start() -> Self {
        let simulation = Simulation::start(Conditions::default()).await;
        let (agent, pod) = (simulation.agent(NODE, &[]), pod_on(NODE, "app-0"));
        let document = simulation.ask(&agent, &pod, &token(&simulation.cloud, &pod)).await.unwrap();
        simulation.checker.promise(Promise::WELL);
        Self { simulation, _agent: agent, pod, document }
    }

    /// `pod` gets `outcome` after `delay`.
    async fn answer(&self, pod: &PodSpec, outcome: Result<String, String>, delay: Duration) {
        let token = token(&self.simulation.cloud, pod);
        let answer = async {
            tokio::time::sleep(delay).await;
            outcome
        };
        let _ = self.simulation.checker.ask(pod, &token, answer).await;
    }

    fn broken(&self) -> String {
        self.simulation.checker.verdict(&self.simulation.cloud.calls()).unwrap_err()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_not_told() {
    let scene = Scene::start().await;
    scene.answer(&scene.pod, Ok(scene.document.clone()), ANSWER_LIMIT).await;
    let report = scene.simulation.checker.verdict(&scene.simulation.cloud.calls()).unwrap();
    assert_eq!((report.requests, report.failed, report.calls, report.slowest), (2, 0, 1, ANSWER_LIMIT));
}

#[tokio::test(start_paused = true)]
async fn the_credentials_of_another_pod_are_told() {
    let scene = Scene::start().await;
    scene.answer(&pod_on(NODE, "app-0"), Ok(scene.document.clone()), Duration::ZERO).await;
    assert!(scene.broken().contains("AWS issued no such thing"));
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_not_what_aws_issued_is_told() {
    for member in ["AccessKeyId", "Token", "Expiration"] {
        let scene = Scene::start().await;
        let mut document: serde_json::Value = serde_json::from_str(&scene.document).unwrap();
        document[member] = if member == "Expiration" { "2099-01-01T00:00:00Z".into() } else { "other".into() };
        scene.answer(&scene.pod, Ok(document.to_string()), Duration::ZERO).await;
        assert!(scene.broken().contains("AWS issued no such thing"), "{member}");
    }
}

#[tokio::test(start_paused = true)]
async fn too_little_life_is_told_by_what_is_promised() {
    let hours = |count: u64| Duration::from_secs(count * 3_600);
    for (promise, left, is_kept) in [
        (Promise::WELL, Duration::from_secs(20 * 60 + 2), true),
        (Promise::WELL, Duration::from_secs(20 * 60 - 2), false),
        (Promise::OUTAGE, Duration::from_secs(62), true),
        (Promise::NONE, Duration::from_secs(60), false),
    ] {
        let scene = Scene::start().await;
        scene.simulation.checker.promise(promise);
        scene.answer(&scene.pod, Ok(scene.document.clone()), Duration::ZERO).await;
        let (clock, begun) = (&scene.simulation.clock, scene.simulation.clock.now().wall);
        tokio::time::sleep(hours(6) - left - (clock.now().wall.duration_since(begun).unwrap())).await;
        scene.answer(&scene.pod, Ok(scene.document.clone()), Duration::ZERO).await;
        let verdict = scene.simulation.checker.verdict(&scene.simulation.cloud.calls());
        assert_eq!(verdict.is_ok(), is_kept, "{promise:?} {left:?}: {verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_and_a_failed_one_are_told() {
    let scene = Scene::start().await;
    scene.answer(&scene.pod, Ok(scene.document.clone()), ANSWER_LIMIT + Duration::from_millis(1)).await;
    scene.answer(&scene.pod, Err("503".into()), Duration::ZERO).await;
    let broken = scene.broken();
    assert!(broken.starts_with("2 promises") && broken.contains("waited for") && broken.contains("got none: 503"), "{broken}");
}

#[tokio::test(start_paused = true)]
async fn a_call_before_its_retry_after_is_told() {
    for (pause, is_kept) in [(6, false), (8, true)] {
        let scene = Scene::start().await;
        let mut calls = scene.simulation.cloud.calls();
        let mut again = calls[0].clone();
        let answer = calls[0].answer.as_mut().unwrap();
        answer.retry_after = Some(Duration::from_secs(7));
        again.at = answer.at + Duration::from_secs(pause);
        calls.push(again);
        let verdict = scene.simulation.checker.verdict(&calls);
        assert_eq!(verdict.is_ok(), is_kept, "{verdict:?}");
    }
}

/// How often a client that asks all the time got nothing of its own from this agent; what it got of somebody else is an error.
async fn verdict_of_a_client(agent: SocketAddr, token: &str) -> Result<usize, String> {
    let (token, pause) = (token.to_owned(), Duration::from_millis(1));
    let asker = Asker::start(Asking { address: agent, token, connections: Connections::Each, pause });
    within(Duration::from_secs(10), async {
        while asker.so_far(|asked| asked.served + asked.failed == 0) {
            tokio::time::sleep(pause).await;
        }
    })
    .await;
    asker.stop().map(|asked| asked.failed).map_err(|error| error.to_string())
}

#[tokio::test]
async fn clients_under_load_tell_credentials_of_somebody_else() {
    let world = World::start().await;
    let [mine, others] = ["app-0", "app-0"].map(|name| world.token(&pod(name)));
    let [own, foreign] = [world.agent.ask(&mine).await.unwrap().json(), world.agent.ask(&others).await.unwrap().json()];
    let mut mixed = own.clone();
    mixed["AccessKeyId"] = foreign["AccessKeyId"].clone();
    for (document, is_own) in [(own, true), (foreign, false), (mixed, false)] {
        let canned = Canned::start(&document).await.unwrap();
        let agent = canned.url.trim_start_matches("http://").parse().unwrap();
        let verdict = verdict_of_a_client(agent, &mine).await;
        assert_eq!(verdict.is_ok(), is_own, "{verdict:?}");
        let place = Place { enter: Arc::new(|| Ok(())), from: Ipv4Addr::LOCALHOST, agent, token: mine.clone() };
        let notice = place.ask_for(Duration::from_millis(20)).await;
        assert_eq!(notice.is_ok(), is_own, "{notice:?}");
    }
}
