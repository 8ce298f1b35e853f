//! `AssumeRoleWithWebIdentity`: tokens, providers and trust.

use std::time::{Duration, SystemTime};

use aws_sdk_sts::error::SdkError;
use aws_sdk_sts::operation::assume_role_with_web_identity::{
    AssumeRoleWithWebIdentityError as WebIdentityError, AssumeRoleWithWebIdentityOutput,
};
use serde_json::{Value, json};

use super::roles::{allow, role};
use super::{HOUR, caller_identity, cloud, config, credentials_of, sts};
use crate::base::clock::Clock;
use crate::sim::cloud::Cloud;
use crate::sim::fault::Fault;
use crate::sim::keys::{Algorithm, Keys};
use crate::sim::pod::PodSpec;
use crate::sim::script::{Behaviour, Operation};

const ACCOUNT: &str = "111111111111";
const ROLE: &str = "arn:aws:iam::111111111111:role/ci-account-iam-role";
const AUDIENCE: &str = "sts.amazonaws.com";
const SUBJECT: &str = "system:serviceaccount:ci-namespace:ci-serviceaccount";

fn pod() -> PodSpec {
    PodSpec::new("ci-namespace", "ci-serviceaccount", "ci-0")
}

/// The cloud's issuer as IAM names it in the account of [`ROLE`], and in condition keys.
fn provider(cloud: &Cloud) -> (Value, String) {
    let name = cloud.issuer().trim_start_matches("http://");
    (json!({ "Federated": format!("arn:aws:iam::{ACCOUNT}:oidc-provider/{name}") }), name.to_owned())
}

/// As the pages for IRSA have it.
fn trust(cloud: &Cloud) -> Value {
    let (principal, name) = provider(cloud);
    let condition = json!({ "StringEquals": { format!("{name}:sub"): SUBJECT, format!("{name}:aud"): AUDIENCE } });
    allow(principal, &["sts:AssumeRoleWithWebIdentity"], condition)
}

async fn prepared() -> Cloud {
    let cloud = cloud().await;
    cloud.put_provider(ACCOUNT, cloud.issuer(), &[AUDIENCE]);
    cloud.put_role(role(ROLE, &[trust(&cloud)]));
    cloud
}

async fn assume(cloud: &Cloud, token: &str, seconds: Option<i32>) -> Result<AssumeRoleWithWebIdentityOutput, WebIdentityError> {
    let request = sts(cloud, None).assume_role_with_web_identity().role_arn(ROLE).role_session_name("ci");
    let request = request.web_identity_token(token).set_duration_seconds(seconds);
    request.send().await.map_err(SdkError::into_service_error)
}

async fn refused(cloud: &Cloud, token: &str) -> (String, String) {
    let error = assume(cloud, token, None).await.unwrap_err();
    (error.meta().code().unwrap_or_default().to_owned(), error.meta().message().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_token_gives_its_subject_the_role() {
    let cloud = prepared().await;
    let token = cloud.keys().token(&pod(), AUDIENCE, HOUR);
    let output = assume(&cloud, &token, None).await.unwrap();
    assert_eq!(output.subject_from_web_identity_token(), Some(SUBJECT));
    assert_eq!(output.audience(), Some(AUDIENCE));
    assert_eq!(output.provider(), provider(&cloud).0["Federated"].as_str());
    let arn = "arn:aws:sts::111111111111:assumed-role/ci-account-iam-role/ci";
    assert_eq!(output.assumed_role_user().unwrap().arn(), arn);
    let call = cloud.calls().pop().unwrap();
    assert_eq!((call.operation, call.signer), (Operation::AssumeRoleWithWebIdentity, None), "it is unsigned");
    assert_eq!((call.subject.as_deref(), call.role.unwrap().role_arn.as_str()), (Some(SUBJECT), ROLE));
    assert!(!format!("{:?}", cloud.calls()).contains(&token));
    let credentials = output.credentials.unwrap();
    let life = SystemTime::try_from(*credentials.expiration()).unwrap().duration_since(Clock::System.now().wall).unwrap();
    assert!(life <= HOUR && life > HOUR - Duration::from_secs(60), "{life:?}");
    let identity = caller_identity(&cloud, credentials_of(credentials)).await.unwrap();
    assert_eq!((identity.account(), identity.arn()), (Some(ACCOUNT), Some(arn)));
}

#[tokio::test]
async fn trust_policies_decide() {
    let cloud = prepared().await;
    let ((principal, name), web) = (provider(&cloud), ["sts:AssumeRoleWithWebIdentity"]);
    let key = |claim: &str| format!("{name}:{claim}");
    let like = |pattern: &str| json!({ "StringLike": { key("sub"): pattern } });
    let other = |account: &str, issuer: &str| json!({ "Federated": format!("arn:aws:iam::{account}:oidc-provider/{issuer}") });
    let table = [
        ("the subject and audience", trust(&cloud), true),
        ("any of a namespace", allow(principal.clone(), &web, like("system:serviceaccount:ci-namespace:*")), true),
        ("any of a provider", allow(principal.clone(), &web, json!({})), true),
        (
            "any audience",
            allow(principal.clone(), &web, json!({ "ForAnyValue:StringEquals": { key("aud"): [AUDIENCE, "x"] } })),
            true,
        ),
        ("another namespace", allow(principal.clone(), &web, like("system:serviceaccount:other:*")), false),
        ("a wildcard that is text", allow(principal.clone(), &web, json!({ "StringEquals": { key("sub"): "*" } })), false),
        ("another audience", allow(principal.clone(), &web, json!({ "StringEquals": { key("aud"): "other" } })), false),
        ("another issuer's key", allow(principal.clone(), &web, json!({ "StringEquals": { "oidc.test:sub": SUBJECT } })), false),
        ("another issuer", allow(other(ACCOUNT, "oidc.test"), &web, json!({})), false),
        ("another account's provider", allow(other("222222222222", &name), &web, json!({})), false),
        ("another action", allow(principal, &["sts:AssumeRole"], json!({})), false),
        ("another kind", allow(json!({ "AWS": "arn:aws:iam::111111111111:root" }), &web, json!({})), false),
    ];
    let token = cloud.keys().token(&pod(), AUDIENCE, HOUR);
    for (what, statement, is_allowed) in table {
        cloud.put_role(role(ROLE, &[statement]));
        if is_allowed {
            assert!(assume(&cloud, &token, None).await.is_ok(), "{what}");
        } else {
            let refusal = ("AccessDenied".to_owned(), "Not authorized to perform sts:AssumeRoleWithWebIdentity".to_owned());
            assert_eq!(refused(&cloud, &token).await, refusal, "{what}");
            assert_eq!(cloud.calls().last().unwrap().status(), Some(403));
        }
    }
}

#[tokio::test]
async fn tokens_are_judged_as_sts_does() {
    let clock = Clock::simulated(Clock::System.now().wall);
    let cloud = Cloud::start(crate::sim::cloud::Config { clock: clock.clone(), ..config() }).await.unwrap();
    let keys = cloud.keys().clone();
    let good = keys.token(&pod(), AUDIENCE, HOUR);
    let code = async |token: &str| refused(&cloud, token).await;
    let (unknown, message) = code(&good).await;
    assert_eq!(
        (unknown.as_str(), message),
        ("InvalidIdentityToken", format!("No OpenIDConnect provider found in your account for {}", cloud.issuer()))
    );
    cloud.put_provider("222222222222", cloud.issuer(), &[AUDIENCE]);
    assert_eq!(code(&good).await.0, "InvalidIdentityToken", "of another account");
    cloud.put_provider(ACCOUNT, cloud.issuer(), &[AUDIENCE]);
    assert_eq!(code(&good).await.0, "AccessDenied", "there is no such role");
    cloud.put_role(role(ROLE, &[trust(&cloud)]));
    assert!(assume(&cloud, &good, None).await.is_ok());

    assert!(code("no.token.x").await.1.contains("not a valid JWT"));
    assert!(code(&keys.token(&pod(), "pods.eks.amazonaws.com", HOUR)).await.1.contains("Incorrect token audience"));
    let (message, _) = good.rsplit_once('.').unwrap();
    let forged = keys.sign(&keys.header(), "{}");
    assert!(code(&format!("{message}.{}", forged.rsplit_once('.').unwrap().1)).await.1.contains("signature"));
    let expired = assume(&cloud, &keys.token(&pod(), AUDIENCE, Duration::ZERO), None).await.unwrap_err();
    assert!(expired.is_expired_token_exception());
    clock.step(-60);
    assert!(assume(&cloud, &good, None).await.unwrap_err().is_idp_rejected_claim_exception(), "not valid yet");
    clock.step(60);
    keys.unpublish(&keys.kid());
    let unpublished = assume(&cloud, &good, None).await.unwrap_err();
    assert!(unpublished.is_invalid_identity_token_exception(), "STS sees published keys only: {unpublished:?}");
    assert!(unpublished.meta().message().unwrap().starts_with("Couldn't retrieve verification key"));
}

#[tokio::test]
async fn a_trusted_issuers_token_is_good_where_it_is_a_provider() {
    let cloud = prepared().await;
    let real = Keys::new("https://oidc.test/id/A", Algorithm::Rs256, Clock::System);
    let principal = json!({ "Federated": format!("arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.test/id/A") });
    let condition = json!({ "StringEquals": { "oidc.test/id/A:sub": SUBJECT } });
    cloud.put_role(role(ROLE, &[allow(principal, &["sts:AssumeRoleWithWebIdentity"], condition)]));
    cloud.put_provider(ACCOUNT, "https://oidc.test/id/A", &[AUDIENCE]);
    let token = real.token(&pod(), AUDIENCE, HOUR);
    assert_eq!(refused(&cloud, &token).await.0, "InvalidIdentityToken");
    cloud.trust_issuer("https://oidc.test/id/A", real.jwks().to_string().as_bytes()).unwrap();
    assert!(assume(&cloud, &token, None).await.is_ok());
}

#[tokio::test]
async fn a_session_is_as_long_as_the_role_allows_and_its_use_is_a_chain() {
    const TARGET: &str = "arn:aws:iam::222222222222:role/target-account-iam-role";
    let cloud = prepared().await;
    let token = cloud.keys().token(&pod(), AUDIENCE, HOUR);
    let error = assume(&cloud, &token, Some(7200)).await.unwrap_err();
    assert!(error.meta().message().unwrap().contains("exceeds the MaxSessionDuration"));
    cloud.put_role(role(ROLE, &[trust(&cloud)]).maximum(2 * HOUR));
    let base = credentials_of(assume(&cloud, &token, Some(7200)).await.unwrap().credentials.unwrap());
    cloud.put_role(role(TARGET, &[allow(json!({ "AWS": ROLE }), &["sts:AssumeRole"], json!({}))]).maximum(2 * HOUR));
    let chain = sts(&cloud, Some(base)).assume_role().role_arn(TARGET).role_session_name("xactarget");
    let error = chain.clone().duration_seconds(7200).send().await.unwrap_err().into_service_error();
    assert!(error.meta().message().unwrap().contains("1 hour session limit"));
    let output = chain.send().await.unwrap();
    let arn = "arn:aws:sts::222222222222:assumed-role/target-account-iam-role/xactarget";
    assert_eq!(output.assumed_role_user().unwrap().arn(), arn, "no tag is inherited, so that TagSession is not needed");
}

#[tokio::test]
async fn faults_are_scripted_in_stss_own_words() {
    let cloud = prepared().await;
    let token = cloud.keys().token(&pod(), AUDIENCE, HOUR);
    let scripted = async |fault: Fault| {
        cloud.script().next(Operation::AssumeRoleWithWebIdentity, [fault.into()]);
        assume(&cloud, &token, None).await.unwrap_err()
    };
    assert!(scripted(Fault::sts_idp_communication_error()).await.is_idp_communication_error_exception());
    assert!(scripted(Fault::sts_idp_rejected_claim()).await.is_idp_rejected_claim_exception());
    assert!(scripted(Fault::sts_invalid_identity_token("x")).await.is_invalid_identity_token_exception());
    assert!(scripted(Fault::sts_expired_web_identity(2, 1)).await.is_expired_token_exception());
    assert!(scripted(Fault::sts_malformed_policy_document()).await.is_malformed_policy_document_exception());
    assert!(scripted(Fault::sts_packed_policy_too_large(101)).await.is_packed_policy_too_large_exception());
    assert!(scripted(Fault::sts_region_disabled()).await.is_region_disabled_exception());
    for fault in [Fault::sts_throttling(), Fault::sts_internal_failure(), Fault::sts_service_unavailable()] {
        assert_eq!(scripted(fault.clone()).await.meta().code(), Some(fault.code.as_str()));
    }
    let statuses: Vec<_> = cloud.calls().iter().map(|call| call.status().unwrap()).collect();
    assert_eq!(statuses, [400, 403, 400, 400, 400, 400, 403, 400, 500, 503]);
    cloud.script().next(Operation::AssumeRoleWithWebIdentity, [Behaviour::Without("/Credentials/SessionToken")]);
    let incomplete = assume(&cloud, &token, None).await;
    assert!(incomplete.is_err() || incomplete.unwrap().credentials.unwrap().session_token().is_empty());
    cloud.script().next(Operation::AssumeRoleWithWebIdentity, [Behaviour::ExpiresIn(120)]);
    let expiry = *assume(&cloud, &token, None).await.unwrap().credentials.unwrap().expiration();
    assert!(SystemTime::try_from(expiry).unwrap() < Clock::System.now().wall + Duration::from_secs(121));
}
