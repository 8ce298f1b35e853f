//! What is kept and what is made anew, by its price in calls to AWS; `store_tests` has the rules of the store by themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;
use crate::domain::identity::{BearerToken, Identity};
use crate::domain::mint::Mint;
use crate::domain::policy::{Claimant, POD_IDENTITY_AUDIENCE, Policy, WEB_IDENTITY_AUDIENCE};
use crate::exchange::testing::sts::{
    CI, Cloud, TARGET, THIRD, by_pod_identity, by_web_identity, error, held, hop, order_for, web_identity,
};
use crate::exchange::testing::{delegated, kind, now, verified};

const BASE: &str = "AssumeRoleWithWebIdentity nobody ci-account-iam-role";

fn target(number: usize) -> Hop {
    hop(&format!("arn:aws:iam::222222222222:role/target-{number}"))
}

pub(super) async fn yielding() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ten_targets_cost_one_base_call_and_ten_hops() {
    let gate = Arc::new(Semaphore::new(0));
    let base_gate = Arc::clone(&gate);
    let hold = move |well| held(well, &base_gate);
    let cloud = Cloud::answering(move |call, well| if call.signer.is_none() { hold(well) } else { well }).await;
    let mut mints = JoinSet::new();
    for number in 0..10 {
        let (exchanges, order) = (Arc::clone(&cloud.setup.exchanges), order_for(&by_web_identity(vec![target(number)])));
        mints.spawn(async move { exchanges.mint(order).await });
    }
    while cloud.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    yielding().await;
    assert_eq!(cloud.briefly(), [BASE], "ten wait for one");
    gate.add_permits(1);
    let credentials: Vec<_> = mints.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(credentials.iter().all(|credential| credential.provenance().caller_access_key_ids == ["ASIA1"]));

    let calls = cloud.briefly();
    let hops = calls.iter().filter(|call| call.starts_with("AssumeRole ASIA1 target-")).count();
    assert_eq!((calls.len(), hops), (11, 10));
}

#[tokio::test]
async fn a_base_goes_on_while_more_than_a_minute_of_it_remains() {
    let cloud = Cloud::willing().await;
    let grant = by_web_identity(vec![hop(TARGET)]);
    let from_base = "AssumeRole ASIA1 target-account-iam-role";
    cloud.mint(&grant).await.unwrap();
    cloud.later(3600 - 70);
    let renewed = cloud.mint(&grant).await.unwrap();
    assert_eq!(cloud.briefly(), [BASE, from_base, from_base]);
    assert!(renewed.expires_at() > now() + Duration::from_secs(7000), "it outlives what made it");
    cloud.later(10);
    cloud.mint(&grant).await.unwrap();
    assert_eq!(cloud.briefly()[3..], [BASE, "AssumeRole ASIA4 target-account-iam-role"]);
}

#[tokio::test]
async fn a_hop_in_the_middle_is_kept_even_when_what_made_it_has_ended() {
    let cloud = Cloud::willing().await;
    let (to_target, to_third) = (by_web_identity(vec![hop(TARGET)]), by_web_identity(vec![hop(TARGET), hop(THIRD)]));
    cloud.mint(&to_target).await.unwrap();
    cloud.later(1800);
    cloud.mint(&to_third).await.unwrap();
    cloud.later(1800);
    cloud.mint(&to_third).await.unwrap();
    let calls = cloud.briefly();
    assert_eq!(calls[2..], ["AssumeRole ASIA1 target-account-iam-role", "AssumeRole ASIA3 third", "AssumeRole ASIA3 third"]);
}

#[tokio::test]
async fn what_is_served_is_made_anew_and_takes_the_place_of_what_is_kept() {
    let cloud = Cloud::willing().await;
    let (base, to_target) = (by_web_identity(Vec::new()), by_web_identity(vec![hop(TARGET)]));
    for _ in 0..2 {
        cloud.mint(&base).await.unwrap();
    }
    assert_eq!(cloud.briefly(), [BASE, BASE]);
    for grant in [&to_target, &base, &to_target] {
        cloud.mint(grant).await.unwrap();
    }
    let (third, fourth) = ("AssumeRole ASIA3 target-account-iam-role", "AssumeRole ASIA5 target-account-iam-role");
    assert_eq!(cloud.briefly()[2..], [BASE, third, BASE, fourth]);
}

/// The default grant of a caller with targets.
pub(super) fn leading() -> Grant {
    let text = format!(
        "rules:\n- match: {{namespace: default, serviceAccount: s3-sa}}\n  role: {CI}\n  sessionName: ci\n  \
         targets: {{target: {{chain: [{{role: '{TARGET}'}}]}}}}\n"
    );
    let who = Claimant::hypothetical("default", "s3-sa");
    let grant = Policy::parse(&text, None).unwrap().case(&who).grant(&WEB_IDENTITY_AUDIENCE.into(), None, None).unwrap();
    assert_eq!((grant.exchange(), grant.leads_on()), (&web_identity(3600), true));
    grant
}

#[tokio::test]
async fn a_default_role_and_a_target_asked_at_once_cost_one_base_call() {
    let (default, target) = (leading(), by_web_identity(vec![hop(TARGET)]));
    for [first, second] in [[&default, &target], [&target, &default], [&default, &default]] {
        let gate = Arc::new(Semaphore::new(0));
        let base_gate = Arc::clone(&gate);
        let hold = move |well| held(well, &base_gate);
        let cloud = Cloud::answering(move |call, well| if call.signer.is_none() { hold(well) } else { well }).await;
        let mut mints = JoinSet::new();
        for grant in [first, second] {
            let (exchanges, order) = (Arc::clone(&cloud.setup.exchanges), order_for(grant));
            mints.spawn(async move { exchanges.mint(order).await });
            yielding().await;
        }
        while cloud.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        yielding().await;
        gate.add_permits(2);
        assert!(mints.join_all().await.iter().all(Result::is_ok));
        assert_eq!(cloud.briefly().iter().filter(|call| *call == BASE).count(), 1);
    }
}

#[tokio::test]
async fn a_session_that_aws_knows_no_more_is_made_anew_by_the_next_attempt() {
    for code in ["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId"] {
        let old = move |signer: Option<&str>| signer == Some("ASIA1");
        let refuse = move || error(403, code, "");
        let cloud = Cloud::answering(move |call, well| if old(call.signer.as_deref()) { refuse() } else { well }).await;
        let grant = by_web_identity(vec![hop(TARGET)]);
        assert_eq!(kind(&cloud.mint(&grant).await.unwrap_err()), "unavailable");
        assert_eq!(cloud.briefly().len(), 2, "one attempt");
        cloud.mint(&grant).await.unwrap();
        assert_eq!(cloud.briefly()[2..], [BASE, "AssumeRole ASIA3 target-account-iam-role"]);
    }
}

#[tokio::test]
async fn any_other_failure_of_a_hop_leaves_the_base_alone() {
    let refuse = || error(403, "AccessDenied", "");
    let cloud = Cloud::answering(move |call, well| if call.signer.is_some() { refuse() } else { well }).await;
    for _ in 0..2 {
        assert_eq!(kind(&cloud.mint(&by_web_identity(vec![hop(TARGET)])).await.unwrap_err()), "denied");
    }
    assert_eq!(cloud.briefly().iter().filter(|call| *call == BASE).count(), 1);
}

#[tokio::test]
async fn a_new_base_shows_the_newest_token() {
    let cloud = Cloud::willing().await;
    let grant = by_web_identity(vec![hop(TARGET)]);
    cloud.mint(&grant).await.unwrap();
    let mut order = order_for(&grant);
    let rotated = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ5In0.c2lnbmF0dXJl";
    Arc::make_mut(&mut order.presented).token = BearerToken::parse(rotated.as_bytes()).unwrap();
    cloud.setup.exchanges.mint(order.clone()).await.unwrap();
    assert_eq!(cloud.calls().len(), 3, "a rotated token is no reason for a new base");
    cloud.later(3600);
    cloud.setup.exchanges.mint(order).await.unwrap();
    assert_eq!(cloud.calls()[3].get("WebIdentityToken"), rotated);
}

#[tokio::test]
async fn nothing_prints_what_is_kept() {
    let cloud = Cloud::willing().await;
    cloud.mint(&by_web_identity(vec![hop(TARGET)])).await.unwrap();
    let shown = format!("{:?}", cloud.setup.exchanges);
    assert!(shown.contains("ASIA1") && !shown.contains("secret-1") && !shown.contains("token-1"));
}

#[test]
fn a_key_is_all_that_makes_a_session_what_it_is() {
    let key = |grant: &Grant, hops| SessionKey::new(&order_for(grant), hops);
    let chain = vec![hop(TARGET), hop(THIRD)];
    let whole = by_web_identity(chain.clone());
    assert_eq!(key(&whole, 0), key(&by_web_identity(Vec::new()), 0), "all targets of a subject share a base");
    assert_eq!(key(&whole, 1), key(&by_web_identity(vec![hop(TARGET), hop(CI)]), 1));
    assert_ne!(key(&whole, 1), key(&whole, 0));
    let external = Hop { external_id: Some("x".into()), ..hop(TARGET) };
    let tagged = Hop { tags: vec![("a".into(), "b".into())], ..hop(TARGET) };
    for other in [
        by_web_identity(vec![external]),
        by_web_identity(vec![tagged]),
        by_web_identity(vec![hop(THIRD)]),
        by_pod_identity(chain.clone()),
        Grant::for_tests(WEB_IDENTITY_AUDIENCE, web_identity(7200), chain.clone()),
        Grant::for_tests(POD_IDENTITY_AUDIENCE, web_identity(3600), chain),
    ] {
        assert_ne!(key(&whole, 1), key(&other, 1));
    }
    let of = |subject: Subject| SessionKey { subject: Arc::new(subject), ..key(&whole, 1) };
    let Subject::Verified(identity) = verified() else { panic!() };
    assert_eq!(of(verified()), key(&whole, 1));
    for other in [
        delegated(),
        Subject::Verified(Identity { pod_uid: "other".into(), ..identity.clone() }),
        Subject::Verified(Identity { service_account: "other".into(), ..identity.clone() }),
        Subject::Verified(Identity { issuer: "https://other".into(), ..identity }),
    ] {
        assert_ne!(of(other), key(&whole, 1));
    }
}
