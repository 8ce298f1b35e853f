//! `AssumeRole`: who may, what is refused, and what a chain inherits.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_sts::error::ProvideErrorMetadata;
use aws_sdk_sts::operation::assume_role::AssumeRoleOutput;
use aws_sdk_sts::operation::assume_role::builders::AssumeRoleFluentBuilder;
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use serde_json::{Value, json};

use super::{HOUR, caller_identity, cloud, credentials_of, node, session, sts};
use crate::base::clock::Clock;
use crate::sim::cloud::Cloud;
use crate::sim::iam::role::Role;
use crate::sim::script::{Behaviour, Operation};

/// The role that the session of `default/app` has.
const BASE: &str = "arn:aws:iam::111122223333:role/default-app";
const BASE_ROOT: &str = "arn:aws:iam::111122223333:root";
const TARGET: &str = "arn:aws:iam::222222222222:role/teams/target";
const NEXT: &str = "arn:aws:iam::333333333333:role/next";

const ASSUME: &str = "sts:AssumeRole";
const TAG: &str = "sts:TagSession";
const SOURCE: &str = "sts:SetSourceIdentity";

type Ask = fn(AssumeRoleFluentBuilder) -> AssumeRoleFluentBuilder;

/// Code and message of a refusal.
type Refused = (String, String);

/// Code and part of the message of a refusal, or none.
type Expected = Option<(&'static str, &'static str)>;

#[expect(clippy::needless_pass_by_value, reason = "it gets a literal nearly always")]
pub(super) fn allow(principal: Value, actions: &[&str], condition: Value) -> Value {
    json!({ "Effect": "Allow", "Principal": principal, "Action": actions, "Condition": condition })
}

pub(super) fn role(arn: &str, statements: &[Value]) -> Role {
    Role::new(arn, &json!({ "Version": "2012-10-17", "Statement": statements }).to_string()).unwrap()
}

fn aws(arn: &str) -> Value {
    json!({ "AWS": arn })
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build().unwrap()
}

fn policy(arn: &str) -> PolicyDescriptorType {
    PolicyDescriptorType::builder().arn(arn).build()
}

fn plain(request: AssumeRoleFluentBuilder) -> AssumeRoleFluentBuilder {
    request
}

async fn assume(cloud: &Cloud, caller: &Credentials, role: &str, ask: Ask) -> Result<AssumeRoleOutput, Refused> {
    let request = sts(cloud, Some(caller.clone())).assume_role().role_arn(role).role_session_name("xactarget");
    ask(request).send().await.map_err(|error| {
        let error = error.into_service_error();
        (error.code().unwrap_or_default().to_owned(), error.message().unwrap_or_default().to_owned())
    })
}

async fn assumed(cloud: &Cloud, caller: &Credentials, role: &str, ask: Ask) -> Credentials {
    credentials_of(assume(cloud, caller, role, ask).await.unwrap().credentials.unwrap())
}

fn check(what: &str, outcome: Result<AssumeRoleOutput, Refused>, expected: Expected) {
    match (outcome, expected) {
        (Ok(_), None) => {}
        (Err((code, message)), Some((expected, part))) => {
            assert!(code == expected && message.contains(part), "{what}: {code} {message}");
        }
        (outcome, expected) => panic!("{what}: {outcome:?}, expected {expected:?}"),
    }
}

#[tokio::test]
async fn a_role_session_is_a_principal_of_the_roles_account() {
    let cloud = cloud().await;
    cloud.put_role(role(TARGET, &[allow(aws(BASE_ROOT), &[ASSUME, TAG], json!({}))]));
    let base = session(&cloud).await;
    let output = assume(&cloud, &base, TARGET, plain).await.unwrap();
    let user = output.assumed_role_user.unwrap();
    assert_eq!(user.arn(), "arn:aws:sts::222222222222:assumed-role/target/xactarget");
    assert!(user.assumed_role_id().starts_with("AROA") && user.assumed_role_id().ends_with(":xactarget"));
    let credentials = output.credentials.unwrap();
    let life = SystemTime::try_from(*credentials.expiration()).unwrap().duration_since(Clock::System.now().wall).unwrap();
    assert!(life <= HOUR && life > HOUR - Duration::from_secs(60), "{life:?}");
    let identity = caller_identity(&cloud, credentials_of(credentials)).await.unwrap();
    assert_eq!(identity.account(), Some("222222222222"));
    assert_eq!(identity.arn(), Some(user.arn()));
    assert_eq!(identity.user_id(), Some(user.assumed_role_id()));
}

/// A trust policy, a request and what comes of them.
type Case = (&'static str, Vec<Value>, Ask, Expected);

const DENIED: Expected = Some(("AccessDenied", "is not authorized to perform: sts:AssumeRole on resource: "));

/// The caller is a pod's session, with the six tags of EKS to inherit.
async fn judge(table: &[Case]) {
    let cloud = cloud().await;
    let base = session(&cloud).await;
    for (what, statements, ask, expected) in table {
        cloud.put_role(role(TARGET, statements).maximum(12 * HOUR));
        check(what, assume(&cloud, &base, TARGET, *ask).await, *expected);
        let status = expected.map_or(200, |(code, _)| if code == "AccessDenied" { 403 } else { 400 });
        assert_eq!(cloud.calls().last().unwrap().status(), Some(status), "{what}");
    }
    check("no such role", assume(&cloud, &base, NEXT, plain).await, DENIED);
}

#[tokio::test]
async fn a_principal_is_trusted_with_the_actions_that_its_request_takes() {
    let both = [ASSUME, TAG];
    let of = |principal: Value, actions: &[&str]| vec![allow(principal, actions, json!({}))];
    let deny = json!({ "Effect": "Deny", "Principal": aws(BASE), "Action": ASSUME });
    let provider = json!({ "Federated": "arn:aws:iam::222222222222:oidc-provider/oidc.test" });
    let no = |action: &'static str| Some(("AccessDenied", action));
    judge(&[
        ("the account", of(aws(BASE_ROOT), &both), plain, None),
        ("the role", of(aws(BASE), &both), plain, None),
        ("in two statements", [of(aws(BASE), &[ASSUME]), of(aws(BASE), &[TAG])].concat(), plain, None),
        ("one of several", of(json!({ "AWS": [NEXT, BASE] }), &both), plain, None),
        ("nobody", vec![], plain, DENIED),
        ("another account", of(aws("arn:aws:iam::444444444444:root"), &both), plain, DENIED),
        ("another role", of(aws(NEXT), &both), plain, DENIED),
        ("another kind", of(provider, &both), plain, DENIED),
        ("another action", of(aws(BASE), &["sts:AssumeRoleWithWebIdentity", TAG]), plain, DENIED),
        ("a deny", vec![allow(aws(BASE), &both, json!({})), deny], plain, DENIED),
        ("inherited tags without TagSession", of(aws(BASE), &[ASSUME]), plain, no("to perform: sts:TagSession on resource")),
        ("no SetSourceIdentity", of(aws(BASE), &both), |r| r.source_identity("alice"), no("to perform: sts:SetSourceIdentity")),
        ("a source identity", of(aws(BASE), &[ASSUME, TAG, SOURCE]), |r| r.source_identity("alice"), None),
    ])
    .await;
}

#[tokio::test]
async fn conditions_have_to_hold() {
    let when = |condition: Value| vec![allow(aws(BASE_ROOT), &[ASSUME, TAG, SOURCE], condition)];
    let external = json!({ "StringEquals": { "sts:ExternalId": "cluster/ns/sa" } });
    let name = |pattern: &str| json!({ "StringLike": { "sts:RoleSessionName": pattern } });
    let of_pod = |namespace: &str| json!({ "StringEquals": { "aws:PrincipalTag/kubernetes-namespace": namespace } });
    let team = json!({ "StringEquals": { "aws:RequestTag/Team": ["ci", "cd"] } });
    let keys = |keys: &[&str]| json!({ "ForAllValues:StringEquals": { "aws:TagKeys": keys } });
    let source = json!({ "StringEquals": { "sts:SourceIdentity": "alice" } });
    let with_team: Ask = |request| request.tags(tag("team", "ci")).transitive_tag_keys("TEAM");
    judge(&[
        ("the external id", when(external.clone()), |request| request.external_id("cluster/ns/sa"), None),
        ("a wrong external id", when(external.clone()), |request| request.external_id("cluster/ns/sb"), DENIED),
        ("no external id", when(external), plain, DENIED),
        ("a session name", when(name("xac*")), plain, None),
        ("a wrong session name", when(name("xac?")), plain, DENIED),
        ("the pod's namespace", when(of_pod("default")), plain, None),
        ("another pod's namespace", when(of_pod("Default")), plain, DENIED),
        ("a passed tag", when(team.clone()), with_team, None),
        ("a missing tag", when(team), plain, DENIED),
        ("allowed tag keys", when(keys(&["team"])), with_team, None),
        ("more than the allowed tag keys", when(keys(&["unit"])), with_team, DENIED),
        ("a source identity", when(source.clone()), |request| request.source_identity("alice"), None),
        ("another source identity", when(source), |request| request.source_identity("mallory"), DENIED),
    ])
    .await;
}

#[tokio::test]
async fn a_chain_has_limits_whatever_trust_says() {
    let trusting = || vec![allow(aws(BASE_ROOT), &[ASSUME, TAG], json!({}))];
    let conflict = Some(("InvalidParameterValue", "conflicts with a transitive tag key from the calling session"));
    let hour = Some(("ValidationError", "exceeds the 1 hour session limit for roles assumed by role chaining"));
    judge(&[
        ("an hour", trusting(), |request| request.duration_seconds(3600), None),
        ("longer than an hour", trusting(), |request| request.duration_seconds(3601), hour),
        ("a tag of EKS again", trusting(), |request| request.tags(tag("Kubernetes-Namespace", "other")), conflict),
    ])
    .await;
}

#[tokio::test]
async fn one_session_may_be_trusted_by_name() {
    let cloud = cloud().await;
    let (one, other) = (session(&cloud).await, session(&cloud).await);
    let arn = caller_identity(&cloud, one.clone()).await.unwrap().arn.unwrap();
    cloud.put_role(role(TARGET, &[allow(aws(&arn), &[ASSUME, TAG], json!({}))]));
    check("the session", assume(&cloud, &one, TARGET, plain).await, None);
    check("another session of its role", assume(&cloud, &other, TARGET, plain).await, Some(("AccessDenied", ASSUME)));
}

/// The caller is a user, whom no limit of chains concerns.
#[tokio::test]
async fn parameters_are_checked_as_the_model_says() {
    const INVALID: &str = "ValidationError";
    const VALUE: &str = "InvalidParameterValue";
    let table: [(&str, Ask, Expected); 21] = [
        ("all there is", |r| r.duration_seconds(7200).external_id("a:b/c").tags(tag("Équipe", "à b")).policy("{}"), None),
        ("too short", |r| r.duration_seconds(899), Some((INVALID, "'899' at 'durationSeconds'"))),
        ("too long for any role", |r| r.duration_seconds(43_201), Some((INVALID, "less than or equal to 43200"))),
        ("too long for this role", |r| r.duration_seconds(7201), Some((INVALID, "exceeds the MaxSessionDuration set"))),
        ("a short name", |r| r.role_session_name("a"), Some((INVALID, "length greater than or equal to 2"))),
        ("a long name", |r| r.role_session_name("a".repeat(65)), Some((INVALID, "length less than or equal to 64"))),
        ("a name with a space", |r| r.role_session_name("a b"), Some((INVALID, r"pattern: [\w+=,.@-]*"))),
        ("a name with a slash", |r| r.role_session_name("a/b"), Some((INVALID, "'roleSessionName'"))),
        ("no role", |r| r.role_arn("short"), Some((INVALID, "'roleArn'"))),
        ("an ARN of no role", |r| r.role_arn("arn:aws:iam::222222222222:user/x"), Some((INVALID, "Request ARN is invalid"))),
        ("an external id with a space", |r| r.external_id("a b"), Some((INVALID, "'externalId'"))),
        ("a short source identity", |r| r.source_identity("a"), Some((INVALID, "'sourceIdentity'"))),
        ("a long tag key", |r| r.tags(tag(&"k".repeat(129), "v")), Some((INVALID, "tags.1.member.key"))),
        ("a long tag value", |r| r.tags(tag("k", &"v".repeat(257))), Some((INVALID, "tags.1.member.value"))),
        ("a tag with a star", |r| r.tags(tag("k", "*")), Some((INVALID, "tags.1.member.value"))),
        ("a tag twice", |r| r.tags(tag("Team", "a")).tags(tag("team", "b")), Some((VALUE, "Duplicate tag keys found"))),
        ("a transitive key of no tag", |r| r.transitive_tag_keys("a"), Some((VALUE, "must be included in the requested tags"))),
        ("51 tags", |r| (0..51).fold(r, |r, i| r.tags(tag(&format!("k{i}"), "v"))), Some((INVALID, "'tags'"))),
        (
            "11 policies",
            |r| (0..11).fold(r, |r, _| r.policy_arns(policy("arn:aws:iam::aws:policy/X"))),
            Some((INVALID, "'policyArns'")),
        ),
        ("a policy that is no JSON", |r| r.policy("{"), Some(("MalformedPolicyDocument", "Syntax"))),
        (
            "tags beyond what is allotted",
            |r| (0..40).fold(r, |r, i| r.tags(tag(&format!("k{i}"), &"v".repeat(256)))),
            Some(("PackedPolicyTooLarge", "% of allotted space")),
        ),
    ];
    let cloud = cloud().await;
    cloud.put_role(role(TARGET, &[allow(aws(BASE_ROOT), &[ASSUME, TAG, SOURCE], json!({}))]).maximum(2 * HOUR));
    for (what, ask, expected) in table {
        check(what, assume(&cloud, &node(&cloud), TARGET, ask).await, expected);
    }
}

#[tokio::test]
#[expect(deprecated, reason = "AWS still sends it, and its limit still refuses")]
async fn an_answer_tells_source_identity_and_packed_size() {
    let cloud = cloud().await;
    cloud.put_role(role(TARGET, &[allow(aws(BASE_ROOT), &[ASSUME, TAG, SOURCE], json!({}))]));
    let (node, told) = (node(&cloud), |output: AssumeRoleOutput| (output.source_identity, output.packed_policy_size));
    assert_eq!(told(assume(&cloud, &node, TARGET, plain).await.unwrap()), (None, Some(0)));
    let output = assume(&cloud, &node, TARGET, |r| r.tags(tag("team", "ci")).source_identity("alice")).await.unwrap();
    assert_eq!(told(output), (Some("alice".to_owned()), Some(1)));
}

#[tokio::test]
async fn another_account_needs_the_callers_own_policies_too() {
    const NEIGHBOUR: &str = "arn:aws:iam::111122223333:role/neighbour";
    let cloud = cloud().await;
    let base = || role(BASE, &[allow(json!({ "Service": "pods.eks.amazonaws.com" }), &[ASSUME, TAG], json!({}))]);
    cloud.put_role(base().may_assume(&["arn:aws:iam::333333333333:role/*"]));
    let pod = session(&cloud).await;
    for arn in [TARGET, NEXT, NEIGHBOUR] {
        cloud.put_role(role(arn, &[allow(aws(BASE), &[ASSUME, TAG], json!({}))]));
    }
    check("not on its list", assume(&cloud, &pod, TARGET, plain).await, Some(("AccessDenied", ASSUME)));
    check("on its list", assume(&cloud, &pod, NEXT, plain).await, None);
    check("by name within its account", assume(&cloud, &pod, NEIGHBOUR, plain).await, None);
    cloud.put_role(role(NEIGHBOUR, &[allow(aws(BASE_ROOT), &[ASSUME, TAG], json!({}))]));
    check("by account only", assume(&cloud, &pod, NEIGHBOUR, plain).await, Some(("AccessDenied", ASSUME)));
}

#[tokio::test]
async fn transitive_tags_and_source_identity_stay_over_a_chain() {
    let cloud = cloud().await;
    let all = [ASSUME, TAG, SOURCE];
    cloud.put_role(role(TARGET, &[allow(aws(BASE_ROOT), &all, json!({}))]));
    let carried = json!({ "StringEquals": { "aws:PrincipalTag/team": "ci", "aws:PrincipalTag/unit": "x" } });
    cloud.put_role(role(NEXT, &[allow(aws(TARGET), &all, carried)]));
    let first: Ask = |r| r.tags(tag("team", "ci")).tags(tag("unit", "x")).transitive_tag_keys("Team").source_identity("alice");
    let hop = assumed(&cloud, &node(&cloud), TARGET, first).await;
    check("tags of the caller's session", assume(&cloud, &hop, NEXT, plain).await, None);
    let other: Ask = |r| r.source_identity("mallory");
    let set = Some(("ValidationError", "The source identity is already set for this assume role session"));
    check("another source identity", assume(&cloud, &hop, NEXT, other).await, set);
    check("the same source identity", assume(&cloud, &hop, NEXT, |r| r.source_identity("alice")).await, None);
    let conflict = Some(("InvalidParameterValue", "conflicts with a transitive tag key"));
    check("a transitive tag again", assume(&cloud, &hop, NEXT, |r| r.tags(tag("team", "cd"))).await, conflict);

    let last = assumed(&cloud, &hop, NEXT, |r| r.tags(tag("unit", "y"))).await;
    let end = "arn:aws:iam::444444444444:role/end";
    let inherited = json!({ "StringEquals": { "aws:PrincipalTag/team": "ci", "aws:PrincipalTag/unit": "y" } });
    cloud.put_role(role(end, &[allow(aws(NEXT), &all, inherited)]));
    check("the first hop's tag and the second's own", assume(&cloud, &last, end, plain).await, None);
    cloud.put_role(role(end, &[allow(aws(NEXT), &[ASSUME, TAG], json!({}))]));
    check("an inherited source identity", assume(&cloud, &last, end, plain).await, Some(("AccessDenied", SOURCE)));
}

#[tokio::test]
async fn a_caller_must_prove_itself() {
    let cloud = cloud().await;
    cloud.put_role(role(TARGET, &[allow(aws(BASE_ROOT), &[ASSUME, TAG], json!({}))]));
    cloud.script().next(Operation::AssumeRole, [Behaviour::ExpiresIn(-1)]);
    let expired = assumed(&cloud, &node(&cloud), TARGET, plain).await;
    check("an expired session", assume(&cloud, &expired, TARGET, plain).await, Some(("ExpiredToken", "expired")));
    let (id, _) = cloud.node_credentials();
    let wrong = Credentials::new(id, "x".repeat(40), None, None, "test");
    check("another secret", assume(&cloud, &wrong, TARGET, plain).await, Some(("SignatureDoesNotMatch", "")));
    let body = "Action=AssumeRole&Version=2011-06-15";
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}", body.len());
    let (unsigned, _) = super::raw_with(&cloud, &head, body).await;
    assert!(unsigned.contains("<Code>MissingAuthenticationToken</Code>"), "{unsigned}");
}

#[tokio::test]
async fn calls_tell_what_was_asked_and_who_signed() {
    let cloud = cloud().await;
    cloud.put_role(role(TARGET, &[allow(aws(BASE_ROOT), &[ASSUME, TAG, SOURCE], json!({}))]));
    let base = session(&cloud).await;
    let ask: Ask = |request| {
        let request = request.external_id("an/id").tags(tag("team", "ci")).transitive_tag_keys("team").source_identity("alice");
        request.duration_seconds(900).policy("{}").policy_arns(policy("arn:aws:iam::aws:policy/A"))
    };
    assume(&cloud, &base, TARGET, ask).await.unwrap();
    let call = cloud.calls().pop().unwrap();
    assert_eq!((call.operation, call.signer.as_deref()), (Operation::AssumeRole, Some(base.access_key_id())));
    let asked = call.role.unwrap();
    assert_eq!((asked.role_arn.as_str(), asked.session_name.as_str()), (TARGET, "xactarget"));
    assert_eq!((asked.external_id.as_deref(), asked.source_identity.as_deref()), (Some("an/id"), Some("alice")));
    assert_eq!(asked.tags, [("team".to_owned(), "ci".to_owned())]);
    assert_eq!((asked.transitive_tag_keys, asked.duration), (vec!["team".to_owned()], Some(Duration::from_secs(900))));
    assert_eq!((asked.policy.as_deref(), asked.policy_arns), (Some("{}"), vec!["arn:aws:iam::aws:policy/A".to_owned()]));
}
