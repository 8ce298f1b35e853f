//! Each answer of EKS Auth: what the pod is told, and how often AWS was called for it.

use std::time::Duration;

use credlet::sim::fault::Fault;
use credlet::sim::script::{Behaviour, Operation};

use crate::laboratory::Laboratory;
use crate::world::{World, pod, within};

/// A foreground load tries so often.
const ATTEMPTS: usize = 4;

const DENIED: (u16, &str) = (403, "upstream_denied");
const MISCONFIGURED: (u16, &str) = (503, "upstream_misconfigured");
const UNAVAILABLE: (u16, &str) = (503, "upstream_unavailable");
const THROTTLED: (u16, &str) = (503, "upstream_throttled");
const MISMATCH: (u16, &str) = (503, "upstream_mismatch");

/// What EKS Auth answers for ever, what the pod is told, and how many calls that takes.
fn answers() -> Vec<(Behaviour, (u16, &'static str), usize)> {
    let body = |status, content_type, text: &'static str| Behaviour::Body { status, content_type, bytes: text.into() };
    let not_allowed = Fault {
        message: "User: arn:aws:sts::1:assumed-role/node is not authorized to perform: eks-auth:AssumeRoleForPodIdentity".into(),
        ..Fault::access_denied()
    };
    vec![
        (Fault::access_denied().into(), DENIED, 1),
        (Fault::invalid_token("signature mismatch").into(), DENIED, 1),
        (Fault::resource_not_found("No association").into(), DENIED, 1),
        (not_allowed.into(), MISCONFIGURED, 1),
        (Fault::expired_token().into(), MISCONFIGURED, 1),
        (Fault::expired_caller().into(), MISCONFIGURED, 1),
        (Fault::unrecognized_client().into(), MISCONFIGURED, 1),
        (Fault::invalid_signature("Signature expired").into(), MISCONFIGURED, 1),
        (body(407, "text/html", "<html>proxy authentication</html>"), MISCONFIGURED, 1),
        (body(302, "text/html", "<html>captive portal</html>"), MISCONFIGURED, 1),
        (Fault::internal_server().into(), UNAVAILABLE, ATTEMPTS),
        (Fault::service_unavailable().into(), UNAVAILABLE, ATTEMPTS),
        (body(502, "text/html", "<html>bad gateway</html>"), UNAVAILABLE, ATTEMPTS),
        (Behaviour::Reset, UNAVAILABLE, ATTEMPTS),
        (Behaviour::HalfBody, UNAVAILABLE, ATTEMPTS),
        (Fault::throttling().retry_after(Duration::from_secs(60)).into(), THROTTLED, 1),
        (Behaviour::Hang, (503, "upstream_timeout"), 1),
        (Fault::invalid_request().into(), MISMATCH, 1),
        (Fault::invalid_parameter().into(), MISMATCH, 1),
        (body(200, "application/json", "{"), MISMATCH, 1),
        (body(200, "application/json", "[]"), MISMATCH, 1),
        (body(200, "text/html", "<html>hello</html>"), MISMATCH, 1),
        (body(200, "application/json", "{}"), MISMATCH, 1),
        (Behaviour::wrong_subject(), MISMATCH, 1),
        (Behaviour::With("/subject/namespace", "kube-system".into()), MISMATCH, 1),
        (Behaviour::wrong_audience(), MISMATCH, 1),
        (Behaviour::ExpiresIn(-1), MISMATCH, 1),
        (Behaviour::ExpiresIn(59), MISMATCH, 1),
        (Behaviour::ExpiresIn(13 * 3600), MISMATCH, 1),
        (Behaviour::With("/credentials/secretAccessKey", "".into()), MISMATCH, 1),
        (Behaviour::With("/assumedRoleUser/arn", "no arn".into()), MISMATCH, 1),
    ]
}

#[tokio::test]
async fn each_answer_is_told_and_costs_so_many_calls() {
    for (behaviour, told, calls) in answers() {
        check(behaviour, told, calls).await;
    }
}

#[tokio::test]
async fn each_member_of_an_answer_is_needed() {
    for pointer in [
        "/subject",
        "/subject/namespace",
        "/subject/serviceAccount",
        "/audience",
        "/podIdentityAssociation",
        "/podIdentityAssociation/associationId",
        "/assumedRoleUser",
        "/assumedRoleUser/arn",
        "/credentials",
        "/credentials/accessKeyId",
        "/credentials/secretAccessKey",
        "/credentials/sessionToken",
        "/credentials/expiration",
    ] {
        check(Behaviour::Without(pointer), MISMATCH, 1).await;
    }
}

async fn check(behaviour: Behaviour, (status, reason): (u16, &str), calls: usize) {
    let world = World::start().await;
    world.cloud.script().always(Operation::EksAuth, behaviour.clone());
    let answer = world.agent.ask(&world.token(&pod("app-0"))).await.unwrap();
    assert_eq!(answer.status, status, "{behaviour:?}: {}", answer.body);
    assert_eq!(answer.code(), if status == 403 { "AccessDenied" } else { "ServiceUnavailable" }, "{behaviour:?}");
    assert_eq!(answer.header("retry-after").is_empty(), status == 403, "{behaviour:?}");
    assert_eq!(world.agent.refusals(reason).await.unwrap(), 1, "{behaviour:?}: {}", world.agent.log());
    // The load goes on after the answer.
    world.reached(Operation::EksAuth, calls).await;
    let inflight = async { while world.agent.sample("credlet_upstream_inflight").await.unwrap() > 0 {} };
    if !matches!(behaviour, Behaviour::Hang) {
        within(Duration::from_secs(12), inflight).await;
    }
    assert_eq!(world.exchanges(), calls, "{behaviour:?}");
    assert!(!answer.body.contains("arn:") && !answer.body.contains("html"), "{behaviour:?}: {}", answer.body);
}

#[tokio::test]
async fn a_refusal_is_remembered_and_asked_again_ever_more_rarely() {
    let laboratory = Laboratory::start(&[]).await;
    let pod = pod("app-0");
    laboratory.cloud.dissociate("default", "app");
    for (pause, calls) in [(0, 1), (4, 1), (2, 2), (9, 2), (2, 3), (19, 3), (2, 4)] {
        laboratory.pass(Duration::from_secs(pause)).await;
        assert_eq!(laboratory.ask_for(&pod).await.status, 403);
        assert_eq!(laboratory.exchanges(), calls, "after {pause} s more");
    }
    laboratory.cloud.associate("default", "app");
    laboratory.pass(Duration::from_secs(61)).await;
    assert_eq!(laboratory.ask_for(&pod).await.status, 200, "an association that was made is found");
}

#[tokio::test]
async fn a_refusal_of_what_is_held_counts_when_it_is_confirmed() {
    let laboratory = Laboratory::start(&[]).await;
    let pod = pod("app-0");
    assert_eq!(laboratory.ask_for(&pod).await.status, 200);
    laboratory.cloud.dissociate("default", "app");
    laboratory.pass(Duration::from_secs(6 * 3600 * 55 / 100 + 1)).await;
    laboratory.wait_for(|laboratory| laboratory.shows("credlet_denials_unconfirmed_total 1")).await;
    assert_eq!(laboratory.ask_for(&pod).await.status, 200, "one refusal may be a mistake of AWS");
    laboratory.pass(Duration::from_secs(6)).await;
    laboratory.wait_for(|laboratory| laboratory.exchanges() == 3).await;
    laboratory.wait_for(|laboratory| laboratory.shows("credlet_upstream_inflight 0")).await;
    assert_eq!(laboratory.ask_for(&pod).await.status, 403);
}
