//! Chains on the wire: who calls whom with what, what answers are taken, and what refusals mean.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::mint::Failure;
use crate::domain::policy::Hop;
use crate::exchange::testing::sts::{
    CI, Call, Cloud, TARGET, THIRD, advice_of, altered, by_pod_identity, by_web_identity, error, hop, order_for,
};
use crate::exchange::testing::{bug, kind, now};
use crate::limits::upstream::Claim;

#[tokio::test]
async fn each_hop_is_called_by_the_session_before_it() {
    let cloud = Cloud::willing().await;
    let credential = cloud.mint(&by_web_identity(vec![hop(TARGET), hop(THIRD), hop(CI)])).await.unwrap();
    assert_eq!(
        cloud.briefly(),
        [
            "AssumeRoleWithWebIdentity nobody ci-account-iam-role",
            "AssumeRole ASIA1 target-account-iam-role",
            "AssumeRole ASIA2 third",
            "AssumeRole ASIA3 ci-account-iam-role",
        ]
    );
    let sent: Vec<_> = cloud.calls().iter().map(|call| call.head.contains("x-amz-security-token: token-")).collect();
    assert_eq!(sent, [false, true, true, true]);
    let provenance = credential.provenance();
    assert_eq!(
        (credential.access_key_id(), &provenance.caller_access_key_ids[..]),
        ("ASIA4", &["ASIA1", "ASIA2", "ASIA3"].map(String::from)[..])
    );
    assert_eq!(provenance.role_arn, "arn:aws:sts::111111111111:assumed-role/ci-account-iam-role/xactarget");
    assert_eq!((&*provenance.namespace, provenance.upstream_request_id.as_deref()), ("default", Some("r-4")));
    assert_eq!(cloud.setup.aws.node_identity(), None, "the node's credentials were never loaded");
}

#[tokio::test]
async fn behind_pod_identity_only_the_exchange_is_called_by_the_node() {
    let cloud = Cloud::willing().await;
    let credential = cloud.mint(&by_pod_identity(vec![hop(TARGET)])).await.unwrap();
    assert_eq!(cloud.briefly(), ["AssumeRoleForPodIdentity AKIDNODE", "AssumeRole ASIA1 target-account-iam-role"]);
    assert_eq!(credential.expires_at(), now() + Duration::from_secs(3600), "the last hop's, not the exchange's");
    assert_eq!(credential.provenance().association_id.as_deref(), Some("a-1"));
    let counted = cloud.setup.metrics.encode().unwrap();
    for operation in ["assume_role_for_pod_identity", "assume_role"] {
        assert!(counted.contains(&format!("credlet_upstream_requests_total{{operation=\"{operation}\",result=\"ok\"}} 1")));
    }
}

#[tokio::test]
async fn each_call_takes_a_permit_of_its_own() {
    let cloud = Cloud::willing().await;
    let began = cloud.setup.clock.now().mono;
    for _ in 0..9 {
        cloud.setup.budget.permit(Claim::of_node(began)).await.unwrap();
    }
    cloud.mint(&by_web_identity(vec![hop(TARGET)])).await.unwrap();
    let took = cloud.setup.clock.now().mono - began;
    assert!(took > Duration::from_millis(190), "the burst of ten was over, and the next permit comes after 200 ms: {took:?}");
}

#[tokio::test]
async fn a_hop_passes_on_all_that_the_policy_says_and_nothing_else() {
    let cloud = Cloud::willing().await;
    let full = Hop {
        session_name: "ci-ci".into(),
        duration: Duration::from_secs(2700),
        external_id: Some("c/default/s3-sa".into()),
        source_identity: Some("s3-sa".into()),
        tags: vec![("team".into(), "ci & co".into()), ("app".into(), String::new())],
        transitive_tags: vec!["team".into()],
        policy_arns: vec!["arn:aws:iam::aws:policy/ReadOnlyAccess".into()],
        ..hop(TARGET)
    };
    cloud.mint(&by_web_identity(vec![full])).await.unwrap();
    cloud.mint(&by_web_identity(vec![hop(TARGET)])).await.unwrap();
    let plain = [("Version", "2011-06-15"), ("RoleArn", TARGET), ("RoleSessionName", "xactarget"), ("DurationSeconds", "3600")];
    let full = [
        ("Version", "2011-06-15"),
        ("RoleArn", TARGET),
        ("RoleSessionName", "ci-ci"),
        ("DurationSeconds", "2700"),
        ("ExternalId", "c/default/s3-sa"),
        ("SourceIdentity", "s3-sa"),
        ("Tags.member.1.Key", "team"),
        ("Tags.member.1.Value", "ci & co"),
        ("Tags.member.2.Key", "app"),
        ("Tags.member.2.Value", ""),
        ("TransitiveTagKeys.member.1", "team"),
        ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
    ];
    let owned =
        |sent: &[(&str, &str)]| sent.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>();
    let calls = cloud.calls();
    assert_eq!((&calls[1].parameters, &calls[2].parameters), (&owned(&full), &owned(&plain)));
}

#[tokio::test]
async fn a_call_without_credentials_of_its_own_fails_before_it_leaves() {
    let cloud = Cloud::willing().await;
    let order = order_for(&by_web_identity(Vec::new()));
    let client = cloud.setup.exchanges.sts.client(order.deadline).await.unwrap();
    let request = client.assume_role().role_arn(TARGET).role_session_name("x");
    request.send().await.unwrap_err();
    assert_eq!(cloud.calls().len(), 0);
    assert_eq!(cloud.setup.aws.node_identity(), None);
}

#[tokio::test]
async fn an_answer_of_another_role_or_without_a_member_is_a_bug() {
    let role = bug("its role and session name are not those that were asked for");
    for (from, to, expected) in [
        ("sts::222222222222", "sts::111111111111", role.clone()),
        ("/target-account-iam-role/", "/admin/", role.clone()),
        ("role/xactarget<", "role/other<", role.clone()),
        ("Arn>", "X>", bug("it lacks AssumedRoleUser.Arn")),
        ("Credentials>", "X>", bug("it lacks Credentials")),
        ("SessionToken>", "X>", bug("it lacks SessionToken")),
        ("04:04:05Z", "03:05:05Z", bug("its expiration is not after the next 60 s and within 12 h 5 min")),
    ] {
        let cloud = Cloud::answering(move |call, well| if call.action == "AssumeRole" { altered(well, from, to) } else { well });
        assert_eq!(cloud.await.mint(&by_web_identity(vec![hop(TARGET)])).await.unwrap_err(), expected, "{to}");
    }
}

#[tokio::test]
async fn a_signature_that_is_refused_is_the_clocks_or_a_proxys() {
    let cause =
        "the signature by the session before is refused, as it is where this node's clock is wrong or a proxy alters requests";
    for (status, code) in [(403, "SignatureDoesNotMatch"), (400, "RequestExpired"), (400, "IncompleteSignature")] {
        let expected = Failure::Unavailable(format!("{cause}: {code}, status {status}, request r-1"));
        assert_eq!(refused(status, code, "").await, expected);
    }
    let Failure::Unavailable(cause) = refused(403, "", "").await else { panic!() };
    assert!(cause.contains("a proxy or a wrong endpoint"), "{cause}");
}

/// What becomes of a refusal of the second of two hops.
async fn refused(status: u16, code: &'static str, message: &'static str) -> Failure {
    let second = move |call: &Call| call.get("RoleArn") == THIRD;
    let cloud = Cloud::answering(move |call, well| if second(call) { error(status, code, message) } else { well }).await;
    let mut last = hop(THIRD);
    last.external_id = message.contains("sts:AssumeRole").then(|| "x".into());
    let failure = cloud.mint(&by_web_identity(vec![hop(TARGET), last])).await.unwrap_err();
    assert_eq!(cloud.briefly().len(), 3, "one attempt");
    failure
}

#[tokio::test]
async fn every_refusal_has_its_meaning_and_its_advice() {
    let hop = "Hop 2 of the chain, from arn:aws:sts::222222222222:assumed-role/target-account-iam-role/xactarget to \
               arn:aws:iam::333333333333:role/third, is refused: ";
    let not = "User: arn:aws:sts::1:assumed-role/secret/x is not authorized to perform: ";
    let tag: &'static str = format!("{not}sts:TagSession on resource: x").leak();
    let source: &'static str = format!("{not}sts:SetSourceIdentity on resource: x").leak();
    let assume: &'static str = format!("{not}sts:AssumeRole on resource: x").leak();
    let missing = |action: &str| format!("{hop}\"{action}\" is missing beside \"sts:AssumeRole\" in the trust policy of {THIRD}");
    for (status, code, message, expected, told) in [
        (403, "AccessDenied", tag, "denied", missing("sts:TagSession")),
        (403, "AccessDenied", source, "denied", missing("sts:SetSourceIdentity")),
        (403, "AccessDenied", assume, "denied", "(an external id is passed)".into()),
        (403, "AccessDenied", "", "denied", "(no external id is passed)".into()),
        (403, "AccessDenied", "", "denied", hop.into()),
        (400, "PackedPolicyTooLarge", "", "denied", "the six of EKS Pod Identity".into()),
        (400, "MalformedPolicyDocument", "", "denied", "account 333333333333".into()),
        (400, "ValidationError", "", "denied", "must be at least the 3600 s".into()),
        (400, "InvalidParameterValue", "", "denied", "no tag may be passed".into()),
        (403, "RegionDisabledException", "", "denied", "account 333333333333".into()),
        (403, "ExpiredToken", "", "unavailable", String::new()),
        (400, "ExpiredTokenException", "", "unavailable", String::new()),
        (403, "InvalidClientTokenId", "", "unavailable", String::new()),
        (400, "Throttling", "Rate exceeded", "throttled", String::new()),
        (500, "InternalFailure", "", "unavailable", String::new()),
        (403, "SignatureDoesNotMatch", "", "unavailable", String::new()),
        (403, "", "", "unavailable", String::new()),
        (400, "MissingParameter", "", "bug", String::new()),
    ] {
        let failure = refused(status, code, message).await;
        assert_eq!(kind(&failure), expected, "{status} {code}");
        let advice = advice_of(&failure);
        assert!(advice.contains(&told) && advice.is_empty() == told.is_empty(), "{status} {code}: {advice}");
        assert!(!format!("{failure:?}").contains("assumed-role/secret"), "{failure:?}");
    }
}
