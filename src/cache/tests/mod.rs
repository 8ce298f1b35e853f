//! The cache around its state machine: loads, waiting, renewal and room, with a made-up mint and a simulated clock.

mod access;
mod transfer;

use std::time::UNIX_EPOCH;

use parking_lot::Mutex;

use super::*;
use crate::base::clock::Clock;
use crate::base::duty::Duty;
use crate::base::secret::Secret;
use crate::base::tasks::Tasks;
use crate::domain::credential::{Provenance, Session};
use crate::domain::identity::{BearerToken, Identity, Presented, Subject};
use crate::domain::mint::{Denial, Minting, Order};
use crate::domain::policy::{Claimant, POD_IDENTITY_AUDIENCE, Policy};
use crate::observe::metrics::Metrics;

const HOUR: Duration = Duration::from_secs(3600);
const CONFIG: Config = Config { capacity: 100, longest_retention: None };

/// What the made-up AWS does, call by call; the last entry goes on for ever.
#[derive(Debug, Clone)]
enum Act {
    Issue {
        after: Duration,
        lifetime: Duration,
    },
    Fail(Failure),
    /// Has no access to make what these grants ask for, and issues six hours of any other.
    NoAccess(fn(&Grant) -> bool),
    Panic,
}

struct FakeMint {
    clock: Clock,
    acts: Vec<Act>,
    orders: Mutex<Vec<Order>>,
}

impl Mint for FakeMint {
    fn mint(&self, order: Order) -> Minting<'_> {
        let call = self.orders.lock().len();
        self.orders.lock().push(order.clone());
        let act = self.acts.get(call).or(self.acts.last()).cloned().unwrap();
        Box::pin(async move {
            match act {
                Act::Issue { after, lifetime } => {
                    tokio::time::sleep(after).await;
                    Ok(issue(self.clock.now(), lifetime, call))
                }
                Act::Fail(failure) => Err(failure),
                Act::NoAccess(concerns) if concerns(&order.grant) => Err(Failure::Misconfigured("no access".into())),
                Act::NoAccess(_) => Ok(issue(self.clock.now(), 6 * HOUR, call)),
                Act::Panic => std::panic::resume_unwind(Box::new("test")),
            }
        })
    }
}

fn issue(now: Now, lifetime: Duration, call: usize) -> Credential {
    let session = Session {
        access_key_id: format!("ASIA{call}"),
        secret_access_key: Secret::new("s".into()),
        session_token: Secret::new("t".into()),
        expires_at: now.wall + lifetime,
        assumed_role_arn: "arn:aws:sts::111122223333:assumed-role/r/s".into(),
    };
    Credential::new(&session, Provenance::default(), now).unwrap()
}

struct World {
    cache: Cache,
    mint: Arc<FakeMint>,
    metrics: Arc<Metrics>,
    clock: Clock,
    tasks: Tasks,
    duty: Duty,
    token_end: Duration,
}

fn world(config: Config, acts: &[Act]) -> World {
    let clock = Clock::simulated(UNIX_EPOCH + 1000 * HOUR);
    let mint = Arc::new(FakeMint { clock: clock.clone(), acts: acts.to_vec(), orders: Mutex::default() });
    let context = Context::new(clock.clone());
    let (metrics, tasks, duty) = (Arc::clone(&context.metrics), context.tasks.clone(), context.duty.clone());
    let cache = Cache::new(config, Arc::<FakeMint>::clone(&mint), context);
    World { cache, mint, metrics, clock, tasks, duty, token_end: 1100 * HOUR }
}

impl World {
    fn caller(&self, pod_uid: &str) -> Caller {
        let identity = Identity {
            issuer: "https://issuer".into(),
            namespace: "ns".into(),
            service_account: "sa".into(),
            service_account_uid: "sa-uid".into(),
            pod: "pod".into(),
            pod_uid: pod_uid.into(),
            node: None,
        };
        let token = BearerToken::parse(b"aaaaaaaaaa.bbbbbbbbbb.cccccccccc").unwrap();
        let presented = Presented { token, expires_at: Some(UNIX_EPOCH + self.token_end), token_id: "jti".into() };
        Caller::for_tests(Subject::Verified(identity), presented)
    }

    async fn ask(&self, pod_uid: &str) -> Result<Found, Missing> {
        let (policy, who) = (Policy::without_rules(Some("demo".into())), Claimant::hypothetical("default", "s"));
        let grant = policy.case(&who).grant(&POD_IDENTITY_AUDIENCE.into(), None, None).unwrap();
        self.ask_for(pod_uid, &grant).await
    }

    async fn ask_for(&self, pod_uid: &str, grant: &Grant) -> Result<Found, Missing> {
        self.cache.credential(&self.caller(pod_uid), grant, self.clock.now()).await
    }

    /// Calls so far for one grant.
    fn calls_for(&self, grant: &Grant) -> usize {
        self.mint.orders.lock().iter().filter(|order| order.grant == *grant).count()
    }

    fn calls(&self) -> usize {
        self.mint.orders.lock().len()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.encode().unwrap().lines().any(|found| found == line)
    }
}

fn at_once(lifetime: Duration) -> Act {
    Act::Issue { after: Duration::ZERO, lifetime }
}

fn unavailable() -> Failure {
    Failure::Unavailable("503".into())
}

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_one_call_and_an_answer_in_time() {
    let world = Arc::new(world(CONFIG, &[Act::Issue { after: Duration::from_millis(2500), lifetime: 6 * HOUR }]));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let world = Arc::clone(&world);
        callers.spawn(async move {
            let asked = world.clock.now().mono;
            (world.ask("pod").await.unwrap_err(), world.clock.now().mono - asked)
        });
    }
    for (missing, took) in callers.join_all().await {
        assert!(missing == Missing::Pending && took <= Duration::from_millis(860), "{missing:?} after {took:?}");
    }
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(world.ask("pod").await.unwrap().how, How::Held);
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_outlives_the_caller_who_began_it() {
    let world = world(CONFIG, &[Act::Issue { after: Duration::from_millis(500), lifetime: HOUR }]);
    assert!(tokio::time::timeout(Duration::from_millis(10), world.ask("pod")).await.is_err(), "the caller hangs up");
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.ask("pod").await.unwrap().how, How::Held);
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_a_request_waits_for_tries_again() {
    let world = world(CONFIG, &[Act::Fail(unavailable()), at_once(HOUR)]);
    assert_eq!(world.ask("pod").await.unwrap().how, How::Loaded);
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn entries_are_renewed_at_half_of_their_life_without_anybody_asking() {
    let world = world(CONFIG, &[at_once(6 * HOUR)]);
    world.ask("pod").await.unwrap();
    world.pass(HOUR * 27 / 10).await;
    assert_eq!(world.calls(), 1, "not before 45 %");
    world.pass(HOUR * 6 / 10).await;
    assert_eq!(world.calls(), 2, "not after 55 %");
    assert_eq!(world.ask("pod").await.unwrap().credential.access_key_id(), "ASIA1");
    assert!(world.metric("credlet_refreshes_total{result=\"ok\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_nearly_half_a_life_is_not_seen() {
    let outage = [at_once(HOUR), Act::Fail(unavailable())];
    let world = world(CONFIG, &outage);
    world.ask("pod").await.unwrap();
    for _ in 0..58 {
        world.pass(Duration::from_secs(60)).await;
        world.ask("pod").await.unwrap();
    }
    assert!(world.calls() < 250, "{}: backoff holds", world.calls());
    world.pass(Duration::from_secs(61)).await;
    assert!(matches!(world.ask("pod").await, Err(Missing::Failed { failure: Failure::Unavailable(_), .. })));
}

#[tokio::test(start_paused = true)]
async fn a_rotated_token_is_a_hit_and_another_pod_is_not() {
    let mut world = world(CONFIG, &[at_once(6 * HOUR)]);
    world.ask("pod").await.unwrap();
    world.token_end += HOUR;
    assert_eq!(world.ask("pod").await.unwrap().how, How::Held);
    world.ask("other").await.unwrap();
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_next_load_presents_the_newest_token() {
    let mut world = world(CONFIG, &[at_once(6 * HOUR)]);
    world.ask("pod").await.unwrap();
    world.token_end += HOUR;
    world.ask("pod").await.unwrap();
    world.pass(4 * HOUR).await;
    let orders = world.mint.orders.lock();
    assert_eq!(orders[1].presented.expires_at, Some(UNIX_EPOCH + world.token_end));
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_nothing_is_renewed_and_the_entry_goes() {
    let world = world(CONFIG, &[at_once(HOUR)]);
    world.ask("pod").await.unwrap();
    world.pass(20 * HOUR).await;
    assert!((3..=5).contains(&world.calls()), "{} calls in two lifetimes", world.calls());
    assert!(world.metric("credlet_cache_entries 0"));
    assert!(world.metric("credlet_cache_evictions_total{cause=\"lapsed\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_back_is_renewed_ahead_again() {
    let mut world = world(CONFIG, &[at_once(6 * HOUR)]);
    world.token_end = 1001 * HOUR;
    world.ask("pod").await.unwrap();
    world.pass(4 * HOUR).await;
    assert_eq!(world.calls(), 1, "its only token has ended: no ghost is renewed");
    world.token_end = 1100 * HOUR;
    assert_eq!(world.ask("pod").await.unwrap().how, How::Held);
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.calls(), 2, "what was due is made up for");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_at_renewal_is_confirmed_before_it_counts() {
    let denied = Act::Fail(Failure::Denied(Denial::new("AccessDeniedException")));
    let world = world(CONFIG, &[at_once(6 * HOUR), denied]);
    world.ask("pod").await.unwrap();
    world.pass(HOUR * 34 / 10).await;
    assert!(matches!(world.ask("pod").await, Err(Missing::Failed { failure: Failure::Denied(_), .. })));
    assert!(world.metric("credlet_denials_unconfirmed_total 1"));
}

#[tokio::test(start_paused = true)]
async fn broken_node_credentials_rest_renewals_and_take_nothing_away() {
    let broken = Act::Fail(Failure::Misconfigured("ExpiredTokenException".into()));
    let mut acts = vec![at_once(6 * HOUR); 20];
    acts.extend(vec![broken; 20]);
    acts.push(at_once(6 * HOUR));
    let world = world(CONFIG, &acts);
    for pod in 0..20 {
        world.ask(&format!("pod{pod}")).await.unwrap();
    }
    world.pass(HOUR * 27 / 10).await;
    while world.calls() == 20 {
        world.pass(Duration::from_secs(1)).await;
    }
    assert!(world.metric("credlet_renewals_paused 1"));
    world.pass(Duration::from_secs(60)).await;
    assert!(world.calls() <= 26, "{}: one tries for all", world.calls() - 20);
    for pod in 0..20 {
        assert_eq!(world.ask(&format!("pod{pod}")).await.unwrap().how, How::Held);
    }
    world.pass(HOUR).await;
    assert!(world.metric("credlet_renewals_paused 0"));
    assert!(world.calls() >= 60, "{}: all are renewed afterwards", world.calls());
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_one_load() {
    let world = world(CONFIG, &[Act::Panic, at_once(HOUR)]);
    assert!(matches!(world.ask("pod").await, Err(Missing::Failed { failure: Failure::Bug(_), .. })));
    assert_eq!(world.ask("pod").await.unwrap().how, How::Loaded);
    assert!(world.tasks.ended().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_at_capacity_is_served_and_evicts_nobody() {
    let world = world(Config { capacity: 2, ..CONFIG }, &[at_once(6 * HOUR)]);
    for pod in ["a", "b", "c", "c"] {
        world.ask(pod).await.unwrap();
    }
    assert_eq!(world.calls(), 3);
    assert!(world.metric("credlet_cache_entries 2"));
    world.pass(Duration::from_secs(6)).await;
    for pod in ["a", "b", "c"] {
        world.ask(pod).await.unwrap();
    }
    assert_eq!(world.calls(), 4, "only the newcomer is fetched again");
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_token_ended_makes_room() {
    let mut world = world(Config { capacity: 1, ..CONFIG }, &[at_once(6 * HOUR)]);
    world.token_end = 1001 * HOUR;
    world.ask("gone").await.unwrap();
    world.pass(HOUR).await;
    world.token_end = 1100 * HOUR;
    world.ask("new").await.unwrap();
    world.pass(Duration::from_secs(6)).await;
    world.ask("new").await.unwrap();
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn caching_can_be_switched_off() {
    for config in [Config { capacity: 0, ..CONFIG }, Config { longest_retention: Some(Duration::ZERO), ..CONFIG }] {
        let world = world(config, &[at_once(6 * HOUR)]);
        world.ask("pod").await.unwrap();
        world.pass(Duration::from_secs(6)).await;
        world.ask("pod").await.unwrap();
        assert_eq!(world.calls(), 2);
        assert!(world.metric("credlet_cache_entries 0"));
    }
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_renewals_due_at_once_all_happen() {
    let world =
        world(Config { capacity: 500, ..CONFIG }, &[Act::Issue { after: Duration::from_millis(100), lifetime: 6 * HOUR }]);
    for pod in 0..500 {
        let _ = tokio::time::timeout(Duration::from_millis(1), world.ask(&format!("pod{pod}"))).await;
    }
    world.pass(HOUR * 34 / 10).await;
    assert_eq!(world.calls(), 1000);
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_no_more_goes_and_the_rest_stays() {
    let world = world(CONFIG, &[at_once(6 * HOUR)]);
    for pod in ["a", "b"] {
        world.ask(pod).await.unwrap();
    }
    let of_a = |subject: &Subject| subject.identity().is_some_and(|identity| identity.pod_uid == "a");
    assert_eq!(world.cache.revoke(|subject, _, held| held.is_some() && !of_a(subject)), 1);
    assert!(world.metric("credlet_cache_evictions_total{cause=\"revoked\"} 1"));
    assert!(world.metric("credlet_cache_entries 1"));
    assert_eq!(world.ask("b").await.unwrap().how, How::Held);
    assert_eq!(world.ask("a").await.unwrap().how, How::Loaded);
    world.pass(4 * HOUR).await;
    assert_eq!(world.calls(), 5, "two pods twice, and the one again: what was dropped is not renewed");
}

#[tokio::test(start_paused = true)]
async fn a_load_of_a_revoked_entry_serves_only_those_who_wait_for_it() {
    let world = Arc::new(world(CONFIG, &[Act::Issue { after: Duration::from_millis(500), lifetime: HOUR }]));
    let asked = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.ask("pod").await }
    });
    world.pass(Duration::from_millis(100)).await;
    assert_eq!(world.cache.revoke(|_, _, _| false), 1);
    let (before, after) = (asked.await.unwrap().unwrap(), world.ask("pod").await.unwrap());
    assert_eq!((before.credential.access_key_id(), after.credential.access_key_id()), ("ASIA0", "ASIA1"));
    world.pass(HOUR * 4 / 10).await;
    assert_eq!(world.ask("pod").await.unwrap().credential.access_key_id(), "ASIA1", "the first load revives nothing");
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_found_a_revoked_entry_already_is_sent_to_a_new_one() {
    let world = world(CONFIG, &[at_once(6 * HOUR)]);
    world.ask("pod").await.unwrap();
    let slots = world.cache.shared.slots.all();
    world.cache.revoke(|_, _, _| false);
    let now = world.clock.now();
    assert!(slots[0].ask(world.caller("pod").presented(), now).is_none());
    assert!(!slots[0].begin_renewal(now) && slots[0].wake(now).is_none(), "and a renewal that waits for its turn is none");
}
