//! Keys that change or can't be had: who is noticed by whom (R5, R6). Polls and bad answers are in `key_sources`.

use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::sim::keys::Algorithm;
use credlet::sim::script::{Behaviour, Operation};

use crate::harness::checker::{Checker, PATIENCE};
use crate::laboratory::Laboratory;
use crate::world::{pod, token};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Less often a source is not asked again for the sake of an unknown key.
const BETWEEN_FETCHES: Duration = Duration::from_secs(31);

/// An agent that ended and started again while nobody gave keys.
async fn restarted_without_keys(verification: &str) -> Laboratory {
    let laboratory = Laboratory::start(&[]).await;
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200);
    let Laboratory { cloud, app, context, .. } = laboratory;
    cloud.script().always(Operation::Jwks, Behaviour::Reset);
    app.stop().await;
    let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
    Laboratory::with(context.clock, cloud, &[&issuer, &format!("--token-verification={verification}")])
}

#[tokio::test]
async fn a_surprise_key_adds_less_than_a_second_and_a_second_one_waits_for_the_next_fetch() {
    let laboratory = Laboratory::start(&[]).await;
    laboratory.pass(BETWEEN_FETCHES).await;
    laboratory.cloud.script().always(Operation::Jwks, Behaviour::delayed(Duration::from_millis(400)));
    laboratory.cloud.keys().rotate(Algorithm::Es256);
    let asked = Clock::System.now().mono;
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200);
    let took = Clock::System.now().mono - asked;
    println!("a surprise key: {took:?}, of which 400 ms were the key source's");
    assert!(took < Duration::from_secs(1), "{took:?}");

    laboratory.cloud.keys().rotate(Algorithm::Es256);
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 401, "the set is young, so the key is taken for a forgery");
    laboratory.pass(BETWEEN_FETCHES).await;
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200);
}

#[tokio::test]
async fn known_keys_verify_for_a_day_without_their_source_and_no_longer() {
    let laboratory = Laboratory::start(&[]).await;
    laboratory.cloud.script().always(Operation::Jwks, Behaviour::Reset);
    for hour in 1..24 {
        laboratory.pass(HOUR).await;
        let answer = laboratory.ask_for(&pod(&format!("app-{hour}"))).await;
        assert_eq!(answer.status, 200, "after {hour} h: {}", answer.body);
    }
    laboratory.pass(59 * MINUTE).await;
    assert_eq!(laboratory.ask_for(&pod("app-24")).await.status, 200, "a minute before the day is over");
    laboratory.pass(2 * MINUTE).await;
    laboratory.wait_for(|laboratory| laboratory.context.readiness.pending().contains_key("keys")).await;
    let answer = laboratory.ask_for(&pod("app-25")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{}", answer.body);
    laboratory.cloud.script().clear();
    laboratory.pass(2 * MINUTE).await;
    laboratory.become_ready().await;
    assert_eq!(laboratory.ask_for(&pod("app-25")).await.status, 200);
}

#[tokio::test]
async fn a_crash_without_keys_answers_503_in_time_where_verification_is_local() {
    let laboratory = restarted_without_keys("local").await;
    let (pod, checker) = (pod("app-0"), Checker::new(Clock::System, PATIENCE));
    let token = token(&laboratory.cloud, &pod);
    let asking = async { laboratory.ask(&token).await.document() };
    let error = checker.ask(&pod, &token, asking).await.unwrap_err();
    assert!(error.starts_with("503 "), "{error}");
    assert!(laboratory.shows(r#"credlet_refusals_total{reason="keys_unavailable"} 1"#));
    println!("{:?}", checker.verdict(&laboratory.cloud.calls()).unwrap());
}

#[tokio::test]
async fn a_crash_without_keys_costs_a_call_a_token_where_verification_is_automatic() {
    let laboratory = restarted_without_keys("auto").await;
    laboratory.wait_for(|laboratory| laboratory.shows("credlet_verification_delegated 1")).await;
    let (pod, before) = (pod("app-0"), laboratory.exchanges());
    for _ in 0..3 {
        assert_eq!(laboratory.ask_for(&pod).await.status, 200);
    }
    assert_eq!(laboratory.exchanges() - before, 3, "EKS Auth verifies each");
    laboratory.cloud.script().clear();
    laboratory.pass(MINUTE).await;
    laboratory.wait_for(|laboratory| laboratory.shows("credlet_verification_delegated 0")).await;
    assert_eq!(laboratory.ask_for(&pod).await.status, 200);
}
