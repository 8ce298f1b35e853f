//! Web identity on the wire, what answers to it are taken, and what refusals of it mean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;

use crate::base::clock::Clock;
use crate::domain::mint::{Failure, Mint, Order};
use crate::domain::policy::{Exchange, Grant, RoleArn, WEB_IDENTITY_AUDIENCE, WebIdentity};
use crate::egress::fake::{Answer, Fake, https};
use crate::exchange::testing::sts::{CI, Call, Cloud, advice_of, altered, by_web_identity, document, error, order_for};
use crate::exchange::testing::{Setup, Source, TOKEN, bug, delegated, kind, now};

#[tokio::test]
async fn a_token_becomes_a_session_in_one_unsigned_call_of_a_node_without_credentials() {
    let fake = Fake::answering(|request| Answer::http(200, "", &document(&Call::of(request), 1, "2026-01-02T04:04:05Z"))).await;
    let nothing = SharedCredentialsProvider::new(Source::Failing);
    let setup = Setup::at(Some(&fake.url()), https(&[]), nothing, Clock::simulated(now()));
    let asked = WebIdentity {
        role: RoleArn::parse(CI).unwrap(),
        session_name: "ci-ci".into(),
        duration: Duration::from_secs(7200),
        policy_arns: vec!["arn:aws:iam::aws:policy/ReadOnlyAccess".into(), "arn:aws:iam::111111111111:policy/p".into()],
    };
    let grant = Grant::for_tests(WEB_IDENTITY_AUDIENCE, Exchange::WebIdentity(asked), Vec::new());
    let credential = setup.exchanges.mint(order_for(&grant)).await.unwrap();

    assert_eq!((credential.access_key_id(), credential.expires_at()), ("ASIA1", now() + Duration::from_secs(3600)));
    let provenance = credential.provenance();
    assert_eq!((&*provenance.namespace, &*provenance.service_account), ("default", "s3-sa"));
    assert_eq!(provenance.role_arn, "arn:aws:sts::111111111111:assumed-role/ci-account-iam-role/ci-ci");
    assert_eq!((provenance.association_id.as_deref(), provenance.caller_access_key_ids.len()), (None, 0));

    let [request] = &fake.requests()[..] else { panic!("one call") };
    let call = Call::of(request);
    assert!(!call.head.contains("authorization") && !call.head.contains("x-amz-security-token"), "{}", call.head);
    let sent = [
        ("Version", "2011-06-15"),
        ("RoleArn", CI),
        ("RoleSessionName", "ci-ci"),
        ("WebIdentityToken", TOKEN),
        ("DurationSeconds", "7200"),
        ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
        ("PolicyArns.member.2.arn", "arn:aws:iam::111111111111:policy/p"),
    ];
    assert_eq!(call.parameters, BTreeMap::from(sent.map(|(name, value)| (name.to_owned(), value.to_owned()))));
    assert_eq!(setup.aws.node_identity(), None, "no credentials were looked for");
    let counted = setup.metrics.encode().unwrap();
    assert!(counted.contains(r#"credlet_upstream_requests_total{operation="assume_role_with_web_identity",result="ok"} 1"#));
}

#[tokio::test]
async fn the_region_has_an_endpoint_of_its_own() {
    let proxy = Fake::plain(Answer::http(502, "", "")).await;
    let way_out = https(&[("HTTPS_PROXY", &proxy.url())]);
    let nothing = SharedCredentialsProvider::new(Source::Empty);
    let setup = Setup::at(None, way_out, nothing, Clock::simulated(now()));
    let failure = setup.exchanges.mint(order_for(&by_web_identity(Vec::new()))).await.unwrap_err();
    assert_eq!(kind(&failure), "unavailable");
    let requests = proxy.requests();
    assert!(requests[0].starts_with("CONNECT sts.eu-central-1.amazonaws.com:443 "), "{requests:?}");
}

#[tokio::test]
async fn a_token_that_was_not_verified_here_never_reaches_sts() {
    let cloud = Cloud::willing().await;
    let order = Order { subject: Arc::new(delegated()), ..order_for(&by_web_identity(Vec::new())) };
    assert_eq!(kind(&cloud.setup.exchanges.mint(order).await.unwrap_err()), "bug");
    assert_eq!(cloud.briefly(), Vec::<String>::new());
}

async fn answered(from: &'static str, to: &'static str) -> Result<(), Failure> {
    let cloud = Cloud::answering(move |_, well| altered(well, from, to)).await;
    cloud.mint(&by_web_identity(Vec::new())).await.map(drop)
}

#[tokio::test]
async fn an_answer_for_somebody_else_or_of_another_role_is_a_bug() {
    let role = bug("its role and session name are not those that were asked for");
    for (from, to, expected) in [
        ("default:s3-sa", "default:s3-sb", bug("its SubjectFromWebIdentityToken is not the token's")),
        ("serviceaccount:default", "serviceaccount:other", bug("its SubjectFromWebIdentityToken is not the token's")),
        (">sts.amazonaws.com<", ">other<", bug("its Audience is not the token's")),
        ("sts::111111111111", "sts::222222222222", role.clone()),
        ("arn:aws:sts", "arn:aws-cn:sts", role.clone()),
        ("/ci-account-iam-role/", "/admin/", role.clone()),
        ("role/ci<", "role/other<", role.clone()),
    ] {
        assert_eq!(answered(from, to).await, Err(expected), "{to}");
    }
    let unasked = "<Audience>sts.amazonaws.com</Audience>";
    assert_eq!(answered(unasked, "").await, Ok(()), "an answer need not name the audience");
}

#[tokio::test]
async fn an_answer_that_lacks_a_member_is_a_bug() {
    for (from, to, name) in [
        (
            "<SubjectFromWebIdentityToken>system:serviceaccount:default:s3-sa</SubjectFromWebIdentityToken>",
            "",
            "SubjectFromWebIdentityToken",
        ),
        ("AssumedRoleUser>", "X>", "AssumedRoleUser"),
        ("Arn>", "X>", "AssumedRoleUser.Arn"),
        ("Credentials>", "X>", "Credentials"),
        ("AccessKeyId>", "X>", "AccessKeyId"),
        ("SecretAccessKey>", "X>", "SecretAccessKey"),
        ("SessionToken>", "X>", "SessionToken"),
    ] {
        assert_eq!(answered(from, to).await, Err(bug(&format!("it lacks {name}"))));
    }
    for (from, to) in [
        ("Expiration>", "X>"),
        ("2026-01-02T04:", "2026-01-02T03:"),
        ("2026-01", "2027-01"),
        ("</AccessKeyId>", "</"),
        ("2026", "x"),
    ] {
        assert_eq!(kind(&answered(from, to).await.unwrap_err()), "bug", "{to}");
    }
}

async fn refused(status: u16, code: &'static str, order: Order) -> Failure {
    let cloud = Cloud::answering(move |_, _| error(status, code, "upstream text")).await;
    let failure = cloud.setup.exchanges.mint(order).await.unwrap_err();
    assert_eq!(cloud.calls().len(), 1, "one attempt");
    failure
}

#[tokio::test]
async fn every_refusal_has_its_meaning_and_its_advice() {
    let provider = "account 111111111111 needs the IAM OIDC provider arn:aws:iam::111111111111:oidc-provider/issuer with \
                    sts.amazonaws.com among its client ids";
    let trust = "\"sts:AssumeRoleWithWebIdentity\" to Federated principal arn:aws:iam::111111111111:oidc-provider/issuer, with \
                 conditions that hold for sub system:serviceaccount:default:s3-sa and aud sts.amazonaws.com";
    for (status, code, expected, told) in [
        (400, "Throttling", "throttled", ""),
        (400, "IDPCommunicationError", "unavailable", ""),
        (400, "RequestTimeout", "unavailable", ""),
        (500, "InternalFailure", "unavailable", ""),
        (503, "ServiceUnavailable", "unavailable", ""),
        (400, "ExpiredTokenException", "unavailable", ""),
        (400, "InvalidIdentityToken", "denied", provider),
        (403, "IDPRejectedClaim", "denied", provider),
        (403, "AccessDenied", "denied", trust),
        (400, "AccessDenied", "denied", trust),
        (403, "AccessDeniedException", "denied", trust),
        (400, "PackedPolicyTooLarge", "denied", "pass fewer or shorter ones"),
        (400, "MalformedPolicyDocument", "denied", "managed policy of AWS or of account 111111111111"),
        (400, "ValidationError", "denied", "must be at least the 3600 s"),
        (403, "RegionDisabledException", "denied", "switched off for account 111111111111"),
        (403, "InvalidClientTokenId", "unavailable", ""),
        (403, "SignatureDoesNotMatch", "unavailable", ""),
        (403, "MissingAuthenticationToken", "unavailable", ""),
        (400, "MissingAuthenticationToken", "unavailable", ""),
        (403, "SomethingNew", "unavailable", ""),
        (403, "", "unavailable", ""),
        (302, "", "unavailable", ""),
        (400, "InvalidAction", "bug", ""),
    ] {
        let failure = refused(status, code, order_for(&by_web_identity(Vec::new()))).await;
        assert_eq!(kind(&failure), expected, "{status} {code}");
        let advice = advice_of(&failure);
        assert!(advice.contains(told) && advice.is_empty() == told.is_empty(), "{status} {code}: {advice}");
        assert!(!format!("{failure:?}").contains("upstream text"), "{failure:?}");
    }
}

#[tokio::test]
async fn an_expired_token_is_the_pods_fault_once_its_time_is_over() {
    let mut order = order_for(&by_web_identity(Vec::new()));
    Arc::make_mut(&mut order.presented).expires_at = Some(now());
    assert!(advice_of(&refused(400, "ExpiredTokenException", order).await).contains("read it anew from its file"));
}

#[tokio::test]
async fn an_issuer_whose_keys_sts_can_not_read_is_no_refusal() {
    let message = "Couldn't retrieve verification key from your identity provider";
    let cloud = Cloud::answering(move |_, _| error(400, "InvalidIdentityToken", message)).await;
    let text = "STS can't read the keys of the tokens' issuer: InvalidIdentityToken, status 400, request r-1";
    let failure = cloud.mint(&by_web_identity(Vec::new())).await.unwrap_err();
    assert_eq!(failure, Failure::Unavailable(text.into()));
}

#[tokio::test]
async fn what_concerns_this_node_is_told_as_what_it_looks_like_and_never_as_the_nodes_credentials() {
    for (status, code, cause) in [
        (
            400,
            "ExpiredTokenException",
            "STS takes a token that is alive for expired, as it does where this node's clock is wrong",
        ),
        (403, "SignatureDoesNotMatch", "whoever answers does not look like STS, but like a proxy or a wrong endpoint"),
        (407, "ProxyAuthentication", "whoever answers does not look like STS, but like a proxy or a wrong endpoint"),
    ] {
        let expected = Failure::Unavailable(format!("{cause}: {code}, status {status}, request r-1"));
        assert_eq!(refused(status, code, order_for(&by_web_identity(Vec::new()))).await, expected);
    }
}

#[tokio::test]
async fn a_page_in_place_of_xml_is_not_sts() {
    for (status, expected) in [(200, "bug"), (400, "unavailable"), (403, "unavailable"), (502, "unavailable")] {
        let cloud = Cloud::answering(move |_, _| Answer::http(status, "", "<html>sign in</html>")).await;
        assert_eq!(kind(&cloud.mint(&by_web_identity(Vec::new())).await.unwrap_err()), expected, "{status}");
    }
}
