//! What many pods and many agents that start together do to an AWS that throttles (R7).

use std::time::Duration;

use credlet::sim::cloud::{Conditions, Quota};
use credlet::sim::pod::PodSpec;
use futures_util::future::join_all;

use crate::harness::checker::Report;
use crate::simulation::{SimulatedAgent, Simulation, pod_on};
use crate::world::token;

/// How long EKS Auth takes for a call.
const LATENCY: Duration = Duration::from_millis(150);
/// Calls that the account may make at once.
const BURST: f64 = 10.0;
/// Between the three tries of an SDK (boto3), and between two uses of it by an application.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
const TRIES: usize = 3;
const BETWEEN_USES: Duration = Duration::from_secs(2);

/// The default of `--max-service-qps`, which holds each node back.
const CALLS_A_SECOND: f64 = 5.0;

/// Agents that start together, each with pods that start with it.
#[derive(Debug, Clone, Copy)]
struct Fleet {
    agents: usize,
    pods: usize,
    /// Calls a second of the account.
    per_second: f64,
}

/// What came of it.
#[derive(Debug)]
struct Course {
    /// Until a half of all pods had credentials, and until all had.
    half: Duration,
    all: Duration,
    calls: usize,
    throttled: usize,
    /// Given up before AWS had answered.
    abandoned: usize,
    failed_tries: usize,
}

impl Fleet {
    async fn start(self, retry_after: Option<Duration>) -> Course {
        let quota = Some(Quota { per_second: self.per_second, burst: BURST, retry_after });
        let simulation = Simulation::start(Conditions { latency: LATENCY, quota, ..Conditions::default() }).await;
        let agents: Vec<_> = (0..self.agents).map(|number| simulation.agent(&format!("node-{number}"), &[])).collect();
        let clients = (0..self.agents * self.pods).map(|number| {
            let agent = number % self.agents;
            served_after(&simulation, &agents[agent], pod_on(&format!("node-{agent}"), &format!("app-{number}")))
        });
        let mut times = join_all(clients).await;
        times.sort_unstable();
        let report = simulation.checker.verdict(&simulation.cloud.calls()).unwrap();
        let Report { calls, throttled, abandoned, failed: failed_tries, .. } = report;
        Course { half: times[times.len() / 2], all: times[times.len() - 1], calls, throttled, abandoned, failed_tries }
    }
}

/// How long a client asks until it is served: an SDK's tries, and an application that goes on.
async fn served_after(simulation: &Simulation, agent: &SimulatedAgent, pod: PodSpec) -> Duration {
    let (token, begun) = (token(&simulation.cloud, &pod), simulation.clock.now().mono);
    loop {
        for _ in 0..TRIES {
            if simulation.ask(agent, &pod, &token).await.is_ok() {
                return simulation.clock.now().mono - begun;
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        tokio::time::sleep(BETWEEN_USES).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_node_that_starts_on_two_calls_a_second_is_served_in_a_minute() {
    let course = Fleet { agents: 1, pods: 110, per_second: 2.0 }.start(None).await;
    assert!(course.all <= Duration::from_secs(60), "{course:?}");
    assert!(course.calls <= 120 && course.abandoned == 0, "{course:?}");
}

#[tokio::test(start_paused = true)]
async fn no_call_is_made_before_its_retry_after() {
    let course = Fleet { agents: 2, pods: 30, per_second: 2.0 }.start(Some(Duration::from_secs(7))).await;
    assert!(course.throttled > 0 && course.all <= Duration::from_secs(120), "{course:?}");
}

/// What docs/throttling.md shows.
#[tokio::test(start_paused = true)]
#[ignore = "a minute; prints a table"]
async fn table() {
    println!("| agents × pods | calls a second | half served | all served | at best | calls | throttled | failed tries |");
    println!("|---|---|---|---|---|---|---|---|");
    for (agents, pods) in [(1, 110), (50, 10)] {
        for per_second in [2.0, 20.0] {
            let course = Fleet { agents, pods, per_second }.start(None).await;
            let all_but_burst = |count: usize| f64::from(u32::try_from(count).unwrap()) - BURST;
            let at_best = (all_but_burst(agents * pods) / per_second).max(all_but_burst(pods) / CALLS_A_SECOND);
            let Course { half, all, calls, throttled, failed_tries, .. } = course;
            let seconds = [half, all].map(|time| time.as_secs());
            println!(
                "| {agents} × {pods} | {per_second} | {} s | {} s | {at_best:.0} s | {calls} | {throttled} | {failed_tries} |",
                seconds[0], seconds[1]
            );
            assert!(all.as_secs_f64() <= 3.0 * at_best.max(20.0), "{course:?}");
        }
    }
}
