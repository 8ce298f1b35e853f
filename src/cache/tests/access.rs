//! What rests while the node has no access of its own, and what goes on.

use super::*;
use crate::domain::policy::{Exchange, Hop, RoleArn, WebIdentity};

const ROLE: &str = "arn:aws:iam::111122223333:role/r";

fn grant(by_node: bool, chain: &[Hop]) -> Grant {
    let web_identity = WebIdentity {
        role: RoleArn::parse(ROLE).unwrap(),
        session_name: "s".into(),
        duration: 6 * HOUR,
        policy_arns: Vec::new(),
    };
    let exchange = if by_node { Exchange::PodIdentity } else { Exchange::WebIdentity(web_identity) };
    Grant::for_tests("any", exchange, chain.to_vec())
}

fn hop() -> Hop {
    Hop {
        role: RoleArn::parse(ROLE).unwrap(),
        session_name: "s".into(),
        duration: HOUR,
        external_id: None,
        source_identity: None,
        tags: Vec::new(),
        transitive_tags: Vec::new(),
        policy_arns: Vec::new(),
    }
}

/// A world without access for what `concerns` tells, from the first renewals on, with credentials of `pods` by each grant.
async fn without_access(concerns: fn(&Grant) -> bool, pods: usize, grants: &[&Grant]) -> World {
    let issuing = vec![at_once(6 * HOUR); pods * grants.len()];
    let world = world(CONFIG, &[issuing, vec![Act::NoAccess(concerns)]].concat());
    for grant in grants {
        for pod in 0..pods {
            world.ask_for(&format!("pod{pod}"), grant).await.unwrap();
        }
    }
    world
}

#[tokio::test(start_paused = true)]
async fn what_the_node_does_not_sign_is_renewed_while_its_credentials_are_broken() {
    let (signed, web, chained) = (grant(true, &[]), grant(false, &[]), grant(true, &[hop()]));
    let world = without_access(Grant::is_signed_by_node, 10, &[&signed, &web, &chained]).await;
    while world.calls_for(&signed) == 10 {
        world.pass(Duration::from_secs(1)).await;
    }
    for _ in 0..3600 {
        assert!(world.metric("credlet_renewals_paused 1"), "what the others bring says nothing about the node's credentials");
        world.pass(Duration::from_secs(1)).await;
    }
    assert_eq!((world.calls_for(&web), world.calls_for(&chained)), (20, 20), "all are renewed in time");
}

/// Where all bases of chains have ended, the first to fail speaks for all, as with what the node signs itself.
#[tokio::test(start_paused = true)]
async fn chains_without_a_base_rest_while_the_node_has_no_access() {
    let (web, chained) = (grant(false, &[]), grant(true, &[hop()]));
    let world = without_access(|grant| !grant.chain().is_empty(), 10, &[&web, &chained]).await;
    while world.calls_for(&chained) < 20 {
        world.pass(Duration::from_secs(1)).await;
    }
    assert!(world.metric("credlet_renewals_paused 1"));
    let (before, minutes) = (world.calls_for(&chained), 10);
    world.pass(Duration::from_secs(60 * minutes)).await;
    let calls = world.calls_for(&chained) - before;
    assert!((10..=50).contains(&calls), "{calls} calls in {minutes} minutes: one for all in each rest");
    world.pass(HOUR * 2).await;
    assert_eq!(world.calls_for(&web), 20, "all are renewed in time");
}

#[tokio::test(start_paused = true)]
async fn broken_web_identity_rests_nobody_else() {
    let (signed, web) = (grant(true, &[]), grant(false, &[]));
    let world = without_access(|grant| !grant.is_signed_by_node(), 10, &[&signed, &web]).await;
    world.pass(HOUR * 34 / 10).await;
    assert_eq!(world.calls_for(&signed), 20);
    assert!(world.calls_for(&web) > 20 && world.metric("credlet_renewals_paused 0"));
}
