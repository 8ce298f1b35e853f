//! The cache under schedules that nobody thought of: pods that ask together, hang up and come again, while AWS is quick, slow, away
//! or mad.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const PODS: [&str; 3] = ["one", "two", "three"];

#[derive(Debug, Clone)]
enum Step {
    Ask { pod: &'static str, hangs_up: bool },
    Pass(Duration),
}

/// The made-up AWS, and who has seen what of it.
struct Watched {
    aws: Arc<FakeMint>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Loads under way.
    flying: HashMap<String, usize>,
    /// When the newest credential of each pod ends.
    newest: HashMap<String, SystemTime>,
    crowded: bool,
}

impl Mint for Watched {
    fn mint(&self, order: Order) -> Minting<'_> {
        let pod = order.subject.identity().unwrap().pod_uid.clone();
        Box::pin(async move {
            let flight = Flight::of(self, &pod);
            let result = self.aws.mint(order).await;
            if let Ok(credential) = &result {
                self.seen.lock().newest.insert(pod.clone(), credential.expires_at());
            }
            drop(flight);
            result
        })
    }
}

/// One load, counted for as long as it lasts, a panic included.
struct Flight<'a>(&'a Watched, &'a str);

impl<'a> Flight<'a> {
    fn of(watched: &'a Watched, pod: &'a str) -> Self {
        let mut seen = watched.seen.lock();
        let flying = seen.flying.entry(pod.to_owned()).or_default();
        *flying += 1;
        seen.crowded |= *flying > 1;
        Self(watched, pod)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        *self.0.seen.lock().flying.get_mut(self.1).unwrap() -= 1;
    }
}

fn act() -> impl Strategy<Value = Act> {
    let after = select(vec![0, 30, 700, 900, 2_500, 9_000]).prop_map(Duration::from_millis);
    let lifetime = select(vec![3, 30, 59, 360]).prop_map(|minutes| Duration::from_secs(minutes * 60));
    prop_oneof![
        4 => (after, lifetime).prop_map(|(after, lifetime)| Act::Issue { after, lifetime }),
        2 => Just(Act::Fail(unavailable())),
        1 => Just(Act::Fail(Failure::Throttled { retry_after: Some(Duration::from_secs(7)) })),
        1 => Just(Act::Fail(Failure::Bug("empty".into()))),
        1 => Just(Act::Panic),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let pass = select(vec![0, 1, 50, 500, 1_000, 10_000, 60_000, 600_000, 3_600_000]).prop_map(Duration::from_millis);
    prop_oneof![
        3 => (select(PODS.to_vec()), any::<bool>()).prop_map(|(pod, hangs_up)| Step::Ask { pod, hangs_up }),
        2 => pass.prop_map(Step::Pass),
    ]
}

/// What every asker may count on: an answer in time, and credentials whenever a load has brought any that are still good.
async fn ask(world: Arc<World>, watched: Arc<Watched>, pod: &'static str) {
    let (asked, newest) = (world.clock.now(), watched.seen.lock().newest.get(pod).copied());
    let found = world.ask(pod).await;
    let now = world.clock.now();
    assert!(now.mono - asked.mono <= Duration::from_millis(850), "an answer after {:?}", now.mono - asked.mono);
    let good = newest.filter(|newest| now.until(*newest) > crate::domain::credential::LEAST_SERVED_LIFE);
    match (found, good) {
        (Ok(found), good) => {
            assert!(found.credential.is_servable(now));
            assert!(good.is_none_or(|good| found.credential.expires_at() >= good), "an older one than has landed");
        }
        (Err(missing), Some(_)) => panic!("{missing:?}, though a load has landed"),
        (Err(_), None) => (),
    }
}

async fn run(acts: Vec<Act>, steps: Vec<Step>) {
    let watched = Arc::new(Watched { aws: fake(acts), seen: Mutex::default() });
    let world = Arc::new(world_of(CONFIG, Arc::clone(&watched.aws), Arc::<Watched>::clone(&watched)));
    let mut askers = tokio::task::JoinSet::new();
    for step in steps {
        match step {
            Step::Ask { pod, hangs_up: false } => {
                askers.spawn(ask(Arc::clone(&world), Arc::clone(&watched), pod));
            }
            Step::Ask { pod, hangs_up: true } => {
                let world = Arc::clone(&world);
                askers.spawn(async move { drop(tokio::time::timeout(Duration::from_millis(20), world.ask(pod)).await) });
            }
            Step::Pass(time) => world.pass(time).await,
        }
    }
    askers.join_all().await;
    assert!(!watched.seen.lock().crowded, "two loads of one pod at once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn one_load_at_a_time_and_none_is_lost(acts in prop::collection::vec(act(), 1..20), steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(acts, steps));
    }
}
