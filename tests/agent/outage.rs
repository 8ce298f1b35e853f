//! AWS down for as long as is promised, and a day on which it is well: who asks notices nothing, and AWS is asked seldom.

use std::time::Duration;

use credlet::sim::cloud::Conditions;
use credlet::sim::fault::Fault;
use credlet::sim::keys::Algorithm;
use credlet::sim::pod::{NODE, PodSpec};
use credlet::sim::script::{Behaviour, Operation};
use futures_util::future::join_all;

use crate::harness::checker::{Promise, Report};
use crate::simulation::{SimulatedAgent, Simulation, pod_on};
use crate::world::token;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// All pods get new tokens each time that they have asked so often.
const STEPS_OF_A_TOKEN: usize = 8;
/// After an outage until everything is renewed: the longest `Retry-After` of [`failures`], then five calls a second.
const RECOVERY: Duration = Duration::from_secs(360);

/// The default of `--max-service-qps`.
const CALLS_A_SECOND: usize = 5;

/// Pods with an agent of theirs.
struct Life {
    simulation: Simulation,
    agent: SimulatedAgent,
    pods: Vec<(PodSpec, String)>,
    steps: usize,
    born: usize,
}

impl Life {
    /// With pods that have all been served once.
    async fn start(conditions: Conditions, pods: usize) -> Self {
        let simulation = Simulation::start(conditions).await;
        let agent = simulation.agent(NODE, &[]);
        let mut life = Self { simulation, agent, pods: Vec::new(), steps: 0, born: 0 };
        life.add(pods).await;
        life
    }

    /// New pods ask until they are served.
    async fn add(&mut self, count: usize) {
        self.simulation.checker.promise(Promise::NONE);
        let new = |number| {
            let pod = pod_on(NODE, &format!("app-{number}"));
            let token = token(&self.simulation.cloud, &pod);
            (pod, token)
        };
        let pods: Vec<_> = (self.born..self.born + count).map(new).collect();
        self.born += count;
        join_all(pods.iter().map(|(pod, token)| self.first(pod, token))).await;
        self.pods.extend(pods);
        self.simulation.checker.promise(Promise::WELL);
    }

    async fn first(&self, pod: &PodSpec, token: &str) {
        while self.simulation.ask(&self.agent, pod, token).await.is_err() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// All pods ask in each step of `time`, before which something may happen. It takes exactly that time.
    async fn go_on(&mut self, time: Duration, step: Duration, mut before: impl FnMut(&Simulation)) {
        let end = self.simulation.clock.now().mono + time;
        while self.simulation.clock.now().mono < end {
            before(&self.simulation);
            self.steps += 1;
            if self.steps.is_multiple_of(STEPS_OF_A_TOKEN) {
                self.pods.iter_mut().for_each(|(pod, current)| *current = token(&self.simulation.cloud, pod));
            }
            self.ask_all().await;
            tokio::time::sleep_until(end.min(self.simulation.clock.now().mono + step)).await;
        }
    }

    async fn ask_all(&self) {
        join_all(self.pods.iter().map(|(pod, token)| self.simulation.ask(&self.agent, pod, token))).await;
    }

    fn verdict(&self) -> Report {
        self.simulation.checker.verdict(&self.simulation.cloud.calls()).unwrap()
    }
}

/// AWS down in each of the ways that the promise names.
fn failures() -> [Behaviour; 5] {
    [
        Fault::internal_server().into(),
        Behaviour::Hang,
        Behaviour::Reset,
        Fault::throttling().into(),
        Fault::throttling().retry_after(2 * MINUTE).into(),
    ]
}

#[tokio::test(start_paused = true)]
async fn five_hundred_pods_notice_no_outage() {
    let lifetime = 6 * HOUR;
    let mut life = Life::start(Conditions { lifetime, latency: Duration::from_millis(80), ..Conditions::default() }, 500).await;
    // Just before the last of the renewals, which come at half of a life and a tenth of that sooner or later: the worst moment.
    life.go_on(lifetime.mul_f64(0.54), lifetime.mul_f64(0.09), |_| ()).await;
    let (before, mut failures) = (life.verdict(), failures().into_iter().cycle());
    life.simulation.checker.promise(Promise::OUTAGE);
    let mut break_anew = |simulation: &Simulation| {
        simulation.cloud.script().always(Operation::EksAuth, failures.next().unwrap());
    };
    let third = (lifetime.mul_f64(0.45) - Duration::from_secs(71)) / 3;
    for handovers in 0..3 {
        if handovers > 0 {
            life.simulation.hand_over(&mut life.agent, NODE);
        }
        life.go_on(third, 4 * MINUTE, &mut break_anew).await;
    }
    // Within the last second.
    life.ask_all().await;
    let during = life.verdict();
    life.simulation.cloud.script().clear();
    // The oldest have ten seconds left, and may rest for longer than that after their last failure.
    life.simulation.checker.promise(Promise::NONE);
    life.go_on(RECOVERY, MINUTE, |_| ()).await;
    life.simulation.checker.promise(Promise::WELL);
    life.go_on(lifetime / 2, HOUR, |_| ()).await;
    let after = life.verdict();
    println!("before: {before:?}\nat the end of the outage: {during:?}\nafter: {after:?}");
    assert!(during.requests - before.requests >= 500 * 39 && during.failed == before.failed);
    let (tried, most) = (during.calls - before.calls, CALLS_A_SECOND * 9_650);
    assert!(tried > 500 && tried < most, "{tried} renewals were tried, within the node's budget of {most}");
}

/// Calls to AWS a pod and hour on a day without trouble.
async fn calls_a_pod_hour(lifetime: Duration) -> f64 {
    let (pods, day) = (100_u32, 24 * HOUR);
    let mut life = Life::start(Conditions { lifetime, ..Conditions::default() }, 100).await;
    let (mut hours, mut next) = (0_u32, String::new());
    let rotate = |simulation: &Simulation| {
        hours += 1;
        let keys = simulation.cloud.keys();
        // A key is published an hour before it signs, as it must be.
        match hours % 8 {
            3 => {
                next = keys.generate(Algorithm::Es256);
                keys.publish(&next);
                simulation.publish();
            }
            4 => keys.sign_with(&next),
            _ => (),
        }
    };
    life.go_on(day, HOUR, rotate).await;
    let report = life.verdict();
    println!("{lifetime:?}: {report:?}");
    assert_eq!(report.throttled + report.abandoned, 0);
    f64::from(u32::try_from(report.calls).unwrap()) / f64::from(pods * 24)
}

#[tokio::test(start_paused = true)]
async fn a_pod_costs_few_calls_an_hour() {
    let (long, short) = (calls_a_pod_hour(6 * HOUR).await, calls_a_pod_hour(HOUR).await);
    println!("{long:.3} calls a pod-hour with sessions of 6 h, {short:.3} with sessions of 1 h");
    assert!(long <= 0.4 && short <= 2.3, "{long} {short}");
}

/// Without the pod watch nobody tells that a pod is gone: what it held is renewed until nobody has asked for two lifetimes.
#[tokio::test(start_paused = true)]
async fn a_new_pod_costs_one_call_and_a_dead_one_ends_by_itself() {
    let lifetime = HOUR;
    let mut life = Life::start(Conditions { lifetime, ..Conditions::default() }, 100).await;
    for _ in 0..24 {
        life.pods.drain(..10);
        life.add(10).await;
        life.go_on(HOUR, HOUR / 4, |_| ()).await;
    }
    let (report, hours) = (life.verdict(), 24 * 100);
    let dead_hours = 240 * 3;
    println!("{report:?} with {} pods, of which 240 died", life.born);
    assert!(report.calls <= life.born + (hours + dead_hours) * 23 / 10, "{report:?}");
    life.pods.clear();
    tokio::time::sleep(3 * HOUR).await;
    let ended = life.verdict().calls;
    tokio::time::sleep(24 * HOUR).await;
    assert_eq!(life.verdict().calls, ended, "nobody asks: nothing is renewed");
}

/// Sessions and the calls that they cost outlive an agent; a budget that AWS has closed stays closed.
#[tokio::test(start_paused = true)]
async fn a_handover_costs_no_call_and_keeps_the_distance_that_aws_asked_for() {
    let mut life = Life::start(Conditions::default(), 20).await;
    let before = life.verdict().calls;
    for _ in 0..5 {
        life.simulation.hand_over(&mut life.agent, NODE);
        life.go_on(MINUTE, MINUTE / 4, |_| ()).await;
    }
    assert_eq!(life.verdict().calls, before);

    let throttled = Fault::throttling().retry_after(2 * MINUTE);
    life.simulation.cloud.script().next(Operation::EksAuth, [throttled.into()]);
    life.simulation.checker.promise(Promise::NONE);
    let newcomer = pod_on(NODE, "newcomer");
    let its_token = token(&life.simulation.cloud, &newcomer);
    for _ in 0..130 {
        let _ = life.simulation.ask(&life.agent, &newcomer, &its_token).await;
        life.simulation.hand_over(&mut life.agent, NODE);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(life.verdict().calls, before + 2, "one that was throttled, and one after two minutes");
}

/// The API server, or whoever gives keys, is away: what an agent knew its successor knows, and for as long.
#[tokio::test(start_paused = true)]
async fn keys_go_along_with_a_handover_and_not_with_a_crash() {
    let mut life = Life::start(Conditions::default(), 1).await;
    life.simulation.withdraw_keys();
    for hour in 1..24 {
        tokio::time::sleep(HOUR).await;
        life.simulation.hand_over(&mut life.agent, NODE);
        let pod = pod_on(NODE, &format!("app-{hour}"));
        let served = life.simulation.ask(&life.agent, &pod, &token(&life.simulation.cloud, &pod)).await;
        assert!(served.is_ok(), "after {hour} h: {served:?}");
    }
    life.simulation.checker.promise(Promise::NONE);
    let (pod, its_token) = life.pods[0].clone();
    let crashed = life.simulation.agent(NODE, &[]);
    let refused = life.simulation.ask(&crashed, &pod, &its_token).await.unwrap_err();
    assert!(refused.contains("KeysUnavailable"), "{refused}");
    tokio::time::sleep(HOUR + 2 * MINUTE).await;
    let fresh = pod_on(NODE, "app-25");
    let refused = life.simulation.ask(&life.agent, &fresh, &token(&life.simulation.cloud, &fresh)).await.unwrap_err();
    assert!(refused.contains("KeysUnavailable"), "a day is over, whoever has served in it: {refused}");
    life.verdict();
}
