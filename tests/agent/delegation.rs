//! Nodes that reach no key source: EKS Auth's answer is the verification.

use std::time::Duration;

use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::{self, Cloud};
use credlet::sim::fault::Fault;
use credlet::sim::script::{Behaviour, Operation};

use crate::chains::{ASSOCIATED, asked_for, put_open};
use crate::harness::config_map::ConfigMap;
use crate::harness::setup::Setup;
use crate::laboratory::{Laboratory, clock};
use crate::world::{World, cloud, config, pod};

/// An agent that leaves every token to EKS Auth.
pub(crate) fn delegated(setup: Setup) -> Setup {
    setup.without_flag("issuer").flag("token-verification", "delegated")
}

#[tokio::test]
async fn delegated_verification_asks_once_a_token() {
    let world = World::with(delegated).await;
    let pod = pod("app-0");
    let (first, second) = (world.token(&pod), world.token(&pod));
    for (token, calls) in [(&first, 1), (&first, 1), (&second, 2), (&first, 2), (&second, 2)] {
        assert_eq!(world.agent.ask(token).await.unwrap().status, 200);
        assert_eq!(world.exchanges(), calls, "a token that nobody has verified is known by its text only");
    }
    let (message, _) = first.rsplit_once('.').unwrap();
    let (_, foreign) = second.rsplit_once('.').unwrap();
    let forged = format!("{message}.{foreign}");
    for _ in 0..3 {
        let answer = world.agent.ask(&forged).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"), "by EKS Auth's word");
    }
    assert_eq!((world.exchanges(), world.agent.refusals("upstream_denied").await.unwrap()), (3, 3));
    let foreign = world.cloud.keys().token(&pod, "sts.amazonaws.com", Duration::from_secs(3600));
    assert_eq!(world.agent.ask(&foreign).await.unwrap().status, 403);
    assert_eq!(world.agent.sample("credlet_verification_delegated").await.unwrap(), 1);
}

const CHAINED: &str = "
rules:
  - match: { namespace: default, serviceAccount: app }
    exchange: pod-identity
    chain: [ { role: 'arn:aws:iam::222222222222:role/middle' }, { role: 'arn:aws:iam::333333333333:role/default' } ]
    targets:
      alpha: { chain: [ { role: 'arn:aws:iam::444444444444:role/alpha' } ] }
      beta: { chain: [ { role: 'arn:aws:iam::555555555555:role/beta' } ] }
";

#[tokio::test]
async fn a_chain_and_targets_are_served_behind_the_one_call_that_verifies_the_token() {
    let map = ConfigMap::new("policy.yaml", CHAINED).unwrap();
    let world = World::with(|setup| delegated(setup).flag("policy", map.path().display())).await;
    let roles = ["222222222222:role/middle", "333333333333:role/default", "444444444444:role/alpha", "555555555555:role/beta"];
    let roles = roles.map(|role| format!("arn:aws:iam::{role}"));
    put_open(&world.cloud, ASSOCIATED, [&roles[0], &roles[2], &roles[3]]);
    put_open(&world.cloud, "222222222222", [&roles[1]]);
    let token = world.token(&pod("app-0"));
    for _ in 0..2 {
        for (path, account) in [("", "333333333333"), ("/alpha", "444444444444"), ("/beta", "555555555555")] {
            let answer = world.agent.get(&format!("/v1/credentials{path}"), &[("authorization", &token)]).await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            assert_eq!(answer.json()["AccountId"], account, "{path}");
        }
    }
    let subject = "system:serviceaccount:default:app".to_owned();
    assert_eq!(asked_for(&world.cloud), [&[subject][..], &roles].concat(), "once each, EKS Auth too");
}

#[tokio::test]
async fn auto_is_delegated_when_nobody_names_the_issuer() {
    let nobody = "http://127.0.0.1:1";
    let world = World::with(|setup| setup.without_flag("issuer").variable("AWS_ENDPOINT_URL_EKS", nobody)).await;
    assert_eq!(world.agent.ask(&world.token(&pod("app-0"))).await.unwrap().status, 200);
    assert_eq!(world.agent.sample("credlet_verification_delegated").await.unwrap(), 1);
    assert_eq!(world.agent.status().await.unwrap()["verification"]["verification"], "delegated");
}

#[tokio::test]
async fn auto_is_delegated_until_a_key_source_answers() {
    let clock = clock();
    let cloud = Cloud::start(cloud::Config { clock: clock.clone(), ..config() }).await.unwrap();
    cloud.script().always(Operation::Jwks, Fault::new(500, "x", "down").into());
    let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
    let laboratory = Laboratory::with(clock, cloud, &[&issuer]);
    laboratory.wait_for(|laboratory| laboratory.shows("credlet_verification_delegated 1")).await;
    let pod = pod("app-0");
    assert_eq!(laboratory.ask_for(&pod).await.status, 200);

    laboratory.cloud.script().clear();
    laboratory.pass(Duration::from_secs(60)).await;
    laboratory.wait_for(|laboratory| laboratory.shows("credlet_verification_delegated 0")).await;
    let before = laboratory.exchanges();
    for _ in 0..3 {
        assert_eq!(laboratory.ask_for(&pod).await.status, 200);
    }
    assert_eq!(laboratory.exchanges(), before + 1, "a verified pod is one entry, whatever its token");
    let foreign = laboratory.cloud.keys().token(&pod, "elsewhere.example", Duration::from_secs(3600));
    assert_eq!(laboratory.ask(&foreign).await.status, 401);
}

#[tokio::test]
async fn requests_that_come_before_the_keys_wait_for_them() {
    let cloud = cloud().await;
    let gate = std::sync::Arc::default();
    cloud.script().next(Operation::Jwks, [Behaviour::held(&gate)]);
    let mut world = World::begin(cloud, |setup| setup).await;
    world.agent.pending("keys").await.unwrap();
    let token = world.cloud.keys().token(&pod("app-0"), POD_IDENTITY_AUDIENCE, Duration::from_secs(3600));
    let asked = world.agent.ask(&token);
    let released = async {
        // The request is on its way, and finds no keys in any case.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.exchanges(), 0);
        gate.notify_one();
    };
    let (answer, ()) = tokio::join!(asked, released);
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(world.agent.sample("credlet_verification_delegated").await.unwrap(), 0);
}
