//! Whatever one pod does, its neighbours are served; whatever panics, the process lives.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use credlet::domain::mint::{Mint, Minting, Order};
use credlet::exchange::Exchanges;
use credlet::observe::logging::{self, Format};
use credlet::observe::panics;
use credlet::sim::cloud::{self, Cloud};
use credlet::sim::script::{Behaviour, Operation};
use futures_util::future::join_all;
use tempfile::TempDir;
use tracing::level_filters::LevelFilter;

use crate::harness::abuse::{Abuse, Place, TARGETS};
use crate::harness::isolation::{policy, prove, tokens};
use crate::harness::owner::Owner;
use crate::laboratory::{Laboratory, clock};
use crate::world::{World, cloud, config, pod, token};

/// The abuser and its neighbour, as pods of `world`.
fn places(world: &World) -> [Place; 2] {
    let mut last = 0;
    tokens(&world.cloud).map(|token| {
        last += 1;
        Place { enter: Arc::new(|| Ok(())), from: Ipv4Addr::new(127, 0, 5, last), agent: world.agent.address(), token }
    })
}

/// With the abuser's targets. The neighbour asks 200 times a second.
async fn world() -> (World, TempDir) {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    let path = policy(&cloud, folder.path()).unwrap();
    let mut world = World::begin(cloud, |setup| setup.flag("policy", path.display()).flag("pod-rate", "400")).await;
    world.agent.become_ready().await.unwrap();
    (world, folder)
}

#[tokio::test]
async fn a_neighbour_notices_no_abuse() {
    let (world, _folder) = world().await;
    let [abuser, neighbour] = places(&world);
    prove(&world.agent, &world.cloud, [&abuser, &neighbour]).await.unwrap_or_else(|error| panic!("{error:#}"));
    for (family, limit) in [("sheds", "verification"), ("sheds", "pod_rate"), ("connections_refused", "source_connections")] {
        let sheds = world.agent.sample(&format!("credlet_{family}_total{{limit=\"{limit}\"}}")).await.unwrap();
        let lines = world.agent.log().lines().filter(|line| line.contains("sheds load") && line.contains(limit)).count();
        assert!(sheds > 100 && (1..=2).contains(&lines), "{limit}: {sheds} sheds, {lines} lines");
    }
}

/// Has newcomers ask behind the misses of an abuser; returns how many of its targets were served meanwhile.
async fn newcomers_are_served_at_their_first_try(world: &World) -> usize {
    let [abuser, _] = places(world);
    let at_work = abuser.begin(Abuse::Misses).unwrap();
    world.reached(Operation::AssumeRole, 9).await;
    for number in 0..5 {
        let token = world.token(&pod(&format!("app-{number}")));
        let answer = world.agent.ask(&token).await.unwrap();
        assert_eq!(answer.status, 200, "{number}: {}", answer.body);
        assert!(Owner::of(&token).unwrap().owns(answer.body.as_bytes()), "{number}: somebody else's");
    }
    at_work.end().unwrap().held
}

/// Fifty calls wait for permits of five a second.
#[tokio::test]
async fn newcomers_do_not_wait_for_the_fifty_targets_of_another_pod() {
    let (world, _folder) = world().await;
    assert!(newcomers_are_served_at_their_first_try(&world).await < TARGETS, "there was still a line");
}

/// A pod to which AWS answers nonsense asks again and again, and each time costs a call.
#[tokio::test]
async fn newcomers_do_not_wait_for_a_pod_that_gets_nonsense() {
    let (world, _folder) = world().await;
    world.cloud.script().always(Operation::AssumeRole, Behaviour::With("/Credentials/AccessKeyId", "".into()));
    assert_eq!(newcomers_are_served_at_their_first_try(&world).await, 0);
}

/// Makes credentials as ever, but for the one time that it panics, with a token in what it says.
struct Panicking {
    exchanges: Exchanges,
    panics_next: Arc<AtomicBool>,
}

impl Mint for Panicking {
    fn mint(&self, order: Order) -> Minting<'_> {
        assert!(!self.panics_next.swap(false, Ordering::SeqCst), "no good token: {}", order.presented.token.expose());
        self.exchanges.mint(order)
    }
}

/// An agent that panics when told to, and does what the binary does about panics.
async fn panicking() -> (Laboratory, Arc<AtomicBool>) {
    let clock = clock();
    let cloud = Cloud::start(cloud::Config { clock: clock.clone(), ..config() }).await.unwrap();
    let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
    let panics_next = Arc::<AtomicBool>::default();
    let wrap = |exchanges| Panicking { exchanges, panics_next: Arc::clone(&panics_next) };
    let laboratory = Laboratory::with_mint(clock, cloud, &[&issuer], wrap);
    laboratory.become_ready().await;
    // The agent's tasks run on this test's thread; what other tests say when they fail is printed as ever.
    let (metrics, others, here) = (Arc::clone(&laboratory.context.metrics), std::panic::take_hook(), std::thread::current().id());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == here {
            panics::report(&metrics, panic);
        }
        others(panic);
    }));
    (laboratory, panics_next)
}

const PANICS: &str = r#"credlet_panics_total{task="cache/flight"}"#;

#[tokio::test]
async fn a_load_that_panics_costs_a_retry() {
    let (laboratory, panics_next) = panicking().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let log = Arc::new(file.reopen().unwrap());
    let told = logging::subscriber(logging::Config { level: LevelFilter::INFO, format: Format::Text }, log);
    let _told = tracing::subscriber::set_default(told);
    let token = token(&laboratory.cloud, &pod("app-0"));

    panics_next.store(true, Ordering::SeqCst);
    let answers = join_all((0..8).map(|_| laboratory.ask(&token))).await;
    let refused = answers.iter().filter(|answer| answer.status != 200).collect::<Vec<_>>();
    assert!(!refused.is_empty());
    for answer in refused {
        assert_eq!((answer.status, answer.code().as_str(), answer.header("retry-after")), (503, "ServiceUnavailable", "1"));
    }
    assert_eq!(laboratory.ask(&token).await.status, 200);
    assert_eq!(laboratory.exchanges(), 1);
    assert!(laboratory.shows(&format!("{PANICS} 1")));

    let log = std::fs::read_to_string(file.path()).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a panic")).collect();
    assert!(lines.len() == 1 && lines[0].contains("cache/flight") && lines[0].contains("isolation.rs"), "{log}");
    assert!(!log.contains("no good token") && !log.contains(&token), "{log}");
}

#[tokio::test]
async fn a_renewal_that_panics_changes_nothing_and_is_made_again() {
    let (laboratory, panics_next) = panicking().await;
    let pod = pod("app-0");
    let asked = async || assert_eq!(laboratory.ask_for(&pod).await.status, 200);
    asked().await;
    panics_next.store(true, Ordering::SeqCst);
    laboratory.pass(Duration::from_secs(3 * 3600 + 40 * 60)).await;
    laboratory.wait_for(|laboratory| laboratory.shows(&format!("{PANICS} 1"))).await;
    asked().await;
    assert_eq!(laboratory.exchanges(), 1, "what is held is served");
    laboratory.pass(Duration::from_secs(60)).await;
    laboratory.wait_for(|laboratory| laboratory.exchanges() == 2).await;
    asked().await;
    assert!(laboratory.context.tasks.ended().is_empty());
}
