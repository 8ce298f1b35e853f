//! Names and labels of metrics are an interface: dashboards and alerts of operators name them.

use credlet::domain::mint::Failure;
use credlet::observe::metrics::{CallResult, EvictionCause, Finding, Handover, Limit, Watch};

use crate::laboratory::Laboratory;
use crate::world::{World, pod};

const FAMILIES: &str = include_str!("metrics.txt");

#[tokio::test]
async fn every_family_is_in_the_list() {
    let laboratory = Laboratory::start(&[]).await;
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200);
    assert_eq!(laboratory.ask("").await.status, 400);
    touch_rare_families(&laboratory);
    let seen = families(&laboratory.context.metrics.encode().unwrap());
    let listed: Vec<&str> = FAMILIES.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(seen, listed, "{}", seen.join("\n"));
}

#[tokio::test]
async fn the_metrics_port_serves_them() {
    let world = World::start().await;
    assert_eq!(world.agent.ask(&world.token(&pod("app-0"))).await.unwrap().status, 200);
    let answer = world.agent.scrape().await.unwrap();
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((answer.status, answer.header("content-type")), (200, openmetrics));
    assert!(answer.body.ends_with("# EOF\n"));
    let served = families(&answer.body);
    assert!(served.len() > 20 && served.iter().all(|family| FAMILIES.lines().any(|line| line == family)), "{served:?}");
}

/// Families that have no sample before something rare happens.
fn touch_rare_families(laboratory: &Laboratory) {
    let metrics = &laboratory.context.metrics;
    metrics.panicked("test");
    metrics.cache.evicted(EvictionCause::Lapsed);
    metrics.cache.refreshed(CallResult::from(&Err::<(), _>(Failure::Throttled { retry_after: None })));
    metrics.front.source_observed(Finding::Foreign);
    metrics.handovers.ended(Handover::Given);
    metrics.watch_synced(Watch::Pods, false);
    let shed = |limit| laboratory.context.sheds.shed(limit, None, laboratory.context.clock.now());
    [Limit::Connections, Limit::PodRate].into_iter().for_each(shed);
}

/// `name type label…` of each family, sorted.
fn families(metrics: &str) -> Vec<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let family = |(name, kind)| [&[name, kind], labels(metrics, name).as_slice()].concat().join(" ");
    let mut families: Vec<String> = types.map(family).collect();
    families.sort_unstable();
    families
}

/// The labels of all samples of a family, without those of the format itself.
fn labels<'m>(metrics: &'m str, name: &str) -> Vec<&'m str> {
    const SUFFIXES: [&str; 6] = ["", "_total", "_bucket", "_count", "_sum", "_info"];
    let of_family = |sample: &&str| {
        let full_name = sample.split(['{', ' ']).next().unwrap();
        full_name.strip_prefix(name).is_some_and(|suffix| SUFFIXES.contains(&suffix))
    };
    let mut labels: Vec<&str> = metrics.lines().filter(of_family).flat_map(labels_of).filter(|label| *label != "le").collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

fn labels_of(sample: &str) -> Vec<&str> {
    let labels = sample.split_once('{').and_then(|(_, rest)| Some(rest.split_once('}')?.0)).unwrap_or_default();
    labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect()
}
