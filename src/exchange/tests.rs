//! The exchange as a whole, against a server that answers with given bytes: what each answer becomes.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use serde_json::{Value, json};

use crate::domain::mint::{Denial, Failure, Mint};
use crate::egress::aws::NodeIdentity;
use crate::egress::fake::{Answer, Authority, Fake, https};
use crate::exchange::testing::{
    Setup, Source, TOKEN, answered, answered_ok, bug, complete, delegated, error, in_seconds, keys, kind, now, order, verified,
    with, without,
};
use crate::exchange::{Config, Exchanges};
use crate::limits::upstream::Claim;
use crate::observe::Context;

#[tokio::test]
async fn a_complete_answer_becomes_a_credential_in_one_call() {
    let fake = Fake::plain(Answer::http(200, "x-amzn-requestid: r-1\r\n", &complete().to_string())).await;
    let setup = Setup::plain(&fake);
    assert_eq!(setup.aws.node_identity(), None, "nothing is loaded ahead");
    let credential = setup.mint(verified()).await.unwrap();
    let provenance = credential.provenance();
    assert_eq!((&*provenance.namespace, &*provenance.service_account), ("default", "s3-sa"));
    assert_eq!((provenance.association_id.as_deref(), provenance.upstream_request_id.as_deref()), (Some("a-1"), Some("r-1")));
    assert_eq!(provenance.role_arn, "arn:aws:sts::111122223333:assumed-role/s3/eks-myeks-web-1");
    assert_eq!((credential.access_key_id(), credential.expires_at()), ("ASIAPOD", now() + Duration::from_secs(21_600)));
    let document: Value = serde_json::from_slice(&credential.document()).unwrap();
    assert_eq!((&document["SecretAccessKey"], &document["Token"]), (&json!("pod-secret"), &json!("pod-token")));

    let requests = fake.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with("POST /clusters/myeks/assume-role-for-pod-identity HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[0].contains("/eu-central-1/eks-auth/aws4_request") && requests[0].contains(TOKEN));
    let counted = setup.metrics.encode().unwrap();
    assert!(counted.contains(r#"credlet_upstream_requests_total{operation="assume_role_for_pod_identity",result="ok"} 1"#));
    assert_eq!(setup.aws.node_identity(), Some(NodeIdentity { source: "unknown".into(), expires_at: None }));
}

#[tokio::test]
async fn every_modelled_error_is_what_its_documentation_says() {
    for (status, code, expected) in [
        (429, "ThrottlingException", "throttled"),
        (400, "ThrottlingException", "throttled"),
        (400, "TooManyRequestsException", "throttled"),
        (503, "SlowDown", "throttled"),
        (429, "", "throttled"),
        (500, "InternalServerException", "unavailable"),
        (503, "ServiceUnavailableException", "unavailable"),
        (502, "", "unavailable"),
        (504, "", "unavailable"),
        (408, "", "unavailable"),
        (400, "RequestTimeout", "unavailable"),
        (404, "ResourceNotFoundException", "denied"),
        (400, "ResourceNotFoundException", "denied"),
        (400, "InvalidTokenException", "denied"),
        (400, "AccessDeniedException", "denied"),
        (400, "ExpiredTokenException", "misconfigured"),
        (403, "ExpiredTokenException", "misconfigured"),
        (403, "AccessDeniedException", "denied"),
        (403, "UnrecognizedClientException", "misconfigured"),
        (400, "UnrecognizedClientException", "misconfigured"),
        (403, "InvalidSignatureException", "misconfigured"),
        (403, "MissingAuthenticationTokenException", "misconfigured"),
        (401, "", "misconfigured"),
        (403, "SomethingNew", "misconfigured"),
        (404, "UnknownOperationException", "misconfigured"),
        (404, "", "misconfigured"),
        (302, "", "misconfigured"),
        (407, "", "misconfigured"),
        (400, "", "misconfigured"),
        (400, "InvalidRequestException", "bug"),
        (400, "InvalidParameterException", "bug"),
        (400, "SomethingNew", "bug"),
    ] {
        assert_eq!(kind(&error(status, code, verified()).await), expected, "{status} {code}");
    }
}

#[tokio::test]
async fn an_expired_token_is_the_pods_fault_only_while_nobody_here_knows_better() {
    assert_eq!(kind(&error(400, "ExpiredTokenException", delegated()).await), "denied");
    assert_eq!(kind(&error(403, "ExpiredTokenException", delegated()).await), "misconfigured", "that is the node's");
    let fake = Fake::plain(Answer::http(400, "x-amzn-errortype: ExpiredTokenException\r\n", "{}")).await;
    let mut order = order(verified(), Duration::from_secs(5));
    Arc::make_mut(&mut order.presented).expires_at = Some(now());
    assert_eq!(kind(&Setup::plain(&fake).exchanges.mint(order).await.unwrap_err()), "denied");
}

#[tokio::test]
async fn a_node_that_may_not_call_is_not_the_pods_fault() {
    let message = r#"{"message":"User: arn:aws:sts::1:assumed-role/node/i is not authorized to perform: eks-auth:AssumeRoleForPodIdentity on resource: x"}"#;
    for status in [400, 403] {
        let answer = Answer::http(status, "x-amzn-errortype: AccessDeniedException\r\n", message);
        assert_eq!(kind(&answered(answer, verified()).await.unwrap_err()), "misconfigured", "{status}");
    }
}

#[tokio::test]
async fn a_failure_tells_code_and_request_and_no_other_text() {
    let failure = error(400, "AccessDeniedException", verified()).await;
    assert_eq!(failure, Failure::Denied(Denial::new("AccessDeniedException, status 400, request r-1")));
    let long = "x".repeat(65);
    assert_eq!(error(403, &long, verified()).await, Failure::Misconfigured("no known code, status 403, request r-1".into()));
}

#[tokio::test]
async fn retry_after_is_read_from_the_raw_answer() {
    let tenths = |headers: &'static str| async move {
        let setup = Setup::plain(&Fake::plain(Answer::http(429, headers, "{}")).await);
        let Failure::Throttled { retry_after } = setup.mint(verified()).await.unwrap_err() else { panic!("{headers}") };
        assert!(setup.budget.rate() < 5.0, "the budget has been told");
        retry_after.map(|delay| (delay.as_secs_f64() * 10.0).round())
    };
    assert_eq!(tenths("retry-after: 7\r\n").await, Some(70.0));
    assert_eq!(tenths("Retry-After: Fri, 02 Jan 2026 03:04:35 GMT\r\n").await, Some(300.0));
    assert_eq!(tenths("Retry-After: Fri, 02 Jan 2026 03:00:00 GMT\r\n").await, Some(0.0), "a date that has passed");
    assert_eq!(tenths("retry-after: 86400\r\n").await, Some(3000.0), "no longer than 5 minutes");
    assert_eq!(tenths("x-amz-retry-after: 1500\r\n").await, Some(15.0));
    assert_eq!(tenths("retry-after: soon\r\n").await, None);
    assert_eq!(tenths("").await, None);
}

#[tokio::test]
async fn an_answer_that_does_not_come_or_breaks_off_is_unavailable() {
    let half = Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"subject\"".into());
    for answer in [Answer::Reset, half, Answer::Bytes(Vec::new()), Answer::Bytes(b"SSH-2.0-x\r\n".into())] {
        assert_eq!(kind(&answered(answer.clone(), verified()).await.unwrap_err()), "unavailable", "{answer:?}");
    }
    let nobody = Setup::new("http://127.0.0.1:1", https(&[]), keys()).mint(verified()).await.unwrap_err();
    assert!(matches!(&nobody, Failure::Unavailable(text) if text.contains("refused")), "{nobody}");
}

#[tokio::test]
async fn an_answer_that_is_late_is_unavailable_at_the_deadline() {
    for answer in [Answer::Hang, Answer::Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n".into())] {
        let setup = Setup::plain(&Fake::plain(answer).await);
        let failure = setup.exchanges.mint(order(verified(), Duration::from_millis(200))).await.unwrap_err();
        assert_eq!(failure, Failure::Unavailable("timed out".into()));
        assert!(setup.metrics.encode().unwrap().contains(r#"result="unavailable"} 1"#));
    }
}

#[tokio::test]
async fn garbage_with_status_200_is_a_bug() {
    for body in ["", "<html>sign in</html>", "{", "[]", "42", r#"{"credentials":"x"}"#] {
        assert_eq!(kind(&answered(Answer::http(200, "", body), verified()).await.unwrap_err()), "bug", "{body}");
    }
}

#[tokio::test]
async fn an_answer_that_lacks_a_member_is_a_bug() {
    for (parent, name) in [
        ("", "subject"),
        ("", "audience"),
        ("", "podIdentityAssociation"),
        ("", "assumedRoleUser"),
        ("", "credentials"),
        ("/subject", "namespace"),
        ("/subject", "serviceAccount"),
        ("/podIdentityAssociation", "associationId"),
        ("/assumedRoleUser", "arn"),
        ("/credentials", "accessKeyId"),
        ("/credentials", "secretAccessKey"),
        ("/credentials", "sessionToken"),
        ("/credentials", "expiration"),
    ] {
        assert_eq!(kind(&answered_ok(&without(parent, name)).await.unwrap_err()), "bug", "{parent}/{name}");
        let pointer = format!("{parent}/{name}");
        if complete().pointer(&pointer).is_some_and(Value::is_string) {
            assert_eq!(kind(&answered_ok(&with(&pointer, "")).await.unwrap_err()), "bug", "empty {pointer}");
        }
    }
    assert_eq!(answered_ok(&without("/credentials", "sessionToken")).await.unwrap_err(), bug("it lacks SessionToken"));
    for arn in
        ["arn:aws:sts::12:assumed-role/s3/x", "arn:aws:iam::111122223333:role/s3", "arn:aws:sts::111122223333:assumed-role/s3/\n"]
    {
        let failure = answered_ok(&with("/assumedRoleUser/arn", arn)).await.unwrap_err();
        assert_eq!(failure, bug("its assumed role has no ARN of an assumed role"));
    }
}

#[tokio::test]
async fn an_answer_for_somebody_else_is_a_bug() {
    for (pointer, name) in [
        ("/subject/namespace", "subject.namespace"),
        ("/subject/serviceAccount", "subject.serviceAccount"),
        ("/audience", "audience"),
    ] {
        let failure = answered_ok(&with(pointer, "other")).await.unwrap_err();
        assert_eq!(failure, bug(&format!("its {name} is not the token's")));
    }
}

#[tokio::test]
async fn when_verification_is_delegated_the_answer_names_the_subject() {
    let answer = with("/subject/namespace", "elsewhere").to_string();
    let credential = answered(Answer::http(200, "", &answer), delegated()).await.unwrap();
    assert_eq!(credential.provenance().namespace, "elsewhere");
    let wrong = with("/audience", "other").to_string();
    assert_eq!(kind(&answered(Answer::http(200, "", &wrong), delegated()).await.unwrap_err()), "bug");
    let nobody = with("/subject/namespace", "").to_string();
    assert_eq!(kind(&answered(Answer::http(200, "", &nobody), delegated()).await.unwrap_err()), "bug");
}

#[tokio::test]
async fn an_expiry_is_rounded_down_and_within_bounds() {
    let expiring = |at: Value| async move { answered_ok(&with("/credentials/expiration", at)).await.map(|it| it.expires_at()) };
    assert_eq!(expiring(json!(1_767_326_645.999)).await, Ok(now() + Duration::from_secs(3600)));
    for life in [-3600, 60, 44_000] {
        assert_eq!(kind(&expiring(json!(in_seconds(life))).await.unwrap_err()), "bug", "{life}");
    }
}

#[tokio::test]
async fn calls_to_aws_trust_the_bundle_and_nothing_else() {
    let authority = Authority::new();
    let fake = Fake::tls(&authority, "127.0.0.1", Answer::http(200, "", &complete().to_string())).await;
    let (endpoint, bundle) = (format!("https://{}", fake.address), authority.bundle());
    let trusting = https(&[("AWS_CA_BUNDLE", bundle.path().to_str().unwrap())]);
    assert!(Setup::new(&endpoint, trusting, keys()).mint(verified()).await.is_ok());
    let failure = Setup::new(&endpoint, https(&[]), keys()).mint(verified()).await.unwrap_err();
    assert_eq!(failure, Failure::Unavailable("invalid peer certificate: UnknownIssuer".into()));
}

#[tokio::test]
async fn calls_to_aws_go_through_the_proxy() {
    let authority = Authority::new();
    let fake = Fake::tls(&authority, "192.0.2.1", Answer::http(200, "", &complete().to_string())).await;
    let (proxy, bundle) = (Fake::proxy(fake.address).await, authority.bundle());
    let address = format!("http://{}", proxy.address);
    let variables = [("AWS_CA_BUNDLE", bundle.path().to_str().unwrap()), ("HTTPS_PROXY", &address)];
    assert!(Setup::new("https://192.0.2.1", https(&variables), keys()).mint(verified()).await.is_ok());
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn a_node_without_credentials_is_misconfigured_and_calls_nobody() {
    let fake = Fake::plain(Answer::http(200, "", &complete().to_string())).await;
    let failure = |source| {
        let setup = Setup::new(&format!("http://{}", fake.address), https(&[]), SharedCredentialsProvider::new(source));
        async move { setup.exchanges.mint(order(verified(), Duration::from_secs(8))).await.unwrap_err() }
    };
    let text = "no credentials: no providers in chain provided credentials";
    assert_eq!(failure(Source::Empty).await, Failure::Misconfigured(text.into()));
    let text = "no credentials: an error occurred while loading credentials";
    assert_eq!(failure(Source::Failing).await, Failure::Misconfigured(text.into()));
    tokio::time::pause();
    let text = "no credentials: credentials provider timed out after 5 seconds";
    assert_eq!(failure(Source::Hanging).await, Failure::Misconfigured(text.into()));
    assert_eq!(fake.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn without_a_cluster_nobody_is_called() {
    let fake = Fake::plain(Answer::http(200, "", &complete().to_string())).await;
    let setup = Setup::plain(&fake);
    let config = Config { cluster_name: None, endpoint: Some(fake.url().parse().unwrap()) };
    let exchanges = Exchanges::new(config, setup.aws, setup.budget, Context::new(setup.clock));
    assert_eq!(kind(&exchanges.mint(order(verified(), Duration::from_secs(5))).await.unwrap_err()), "misconfigured");
    assert_eq!(fake.requests(), Vec::<String>::new());
}

/// The node's own line is no word of AWS, and must not slow the node down.
#[tokio::test]
async fn who_is_not_served_in_time_by_the_nodes_own_budget_takes_nothing_from_it() {
    let setup = Setup::plain(&Fake::plain(Answer::http(200, "", &complete().to_string())).await);
    let in_a_minute = order(verified(), Duration::from_secs(60)).deadline;
    for _ in 0..10 {
        setup.budget.permit(Claim::of_node(in_a_minute)).await.unwrap();
    }
    let late = setup.exchanges.mint(order(verified(), Duration::ZERO)).await.unwrap_err();
    assert_eq!(kind(&late), "throttled");
    assert_eq!((setup.budget.rate(), setup.budget.closed_for()), (5.0, None));
}
