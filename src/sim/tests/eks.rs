//! EKS: associations that name roles, and `DescribeCluster`.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::{Value, json};

use super::roles::{allow, role};
use super::{HOUR, assume_well, caller_identity, cloud, credentials_from_eks, node, raw, session, token};
use crate::base::clock::Clock;
use crate::sim::association::Association;
use crate::sim::cloud::Cloud;
use crate::sim::fault::Fault;
use crate::sim::script::Operation;

const BASE: &str = "arn:aws:iam::111122223333:role/base";
const TARGET: &str = "arn:aws:iam::222222222222:role/target";
const EXTERNAL_ID: &str = "us-east-1/111122223333/demo/default/app";

fn service() -> Value {
    json!({ "Service": "pods.eks.amazonaws.com" })
}

async fn role_of(cloud: &Cloud, association: Association) -> Option<String> {
    cloud.associate_with("default", "app", association);
    match assume_well(cloud, &token(cloud)).await {
        Ok(output) => Some(output.assumed_role_user().unwrap().arn().rsplit_once('/').unwrap().0.to_owned()),
        Err(error) if error.is_access_denied_exception() => None,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn an_associations_role_has_to_trust_the_service() {
    let cloud = cloud().await;
    let base = Some("arn:aws:sts::111122223333:assumed-role/base".to_owned());
    assert_eq!(role_of(&cloud, Association::new(BASE)).await, None, "there is no such role");
    cloud.put_role(role(BASE, &[allow(service(), &["sts:AssumeRole"], json!({}))]));
    assert_eq!(role_of(&cloud, Association::new(BASE)).await, None, "it does not allow session tags");
    assert_eq!(role_of(&cloud, Association::new(BASE).without_session_tags()).await, base);
    let condition = json!({ "StringEquals": { "aws:RequestTag/kubernetes-service-account": "app" } });
    cloud.put_role(role(BASE, &[allow(service(), &["sts:AssumeRole", "sts:TagSession"], condition)]));
    assert_eq!(role_of(&cloud, Association::new(BASE)).await, base);
    cloud.associate("default", "app");
    assert!(caller_identity(&cloud, session(&cloud).await).await.unwrap().arn().unwrap().contains("/default-app/"));
}

#[tokio::test]
async fn a_target_role_is_chained_with_its_external_id() {
    let cloud = cloud().await;
    let both = ["sts:AssumeRole", "sts:TagSession"];
    cloud.put_role(role(BASE, &[allow(service(), &both, json!({}))]));
    let condition =
        json!({ "StringEquals": { "sts:ExternalId": EXTERNAL_ID, "aws:PrincipalTag/kubernetes-namespace": "default" } });
    cloud.put_role(role(TARGET, &[allow(json!({ "AWS": BASE }), &both, condition)]));
    let to_target = |external_id| Association::new(BASE).target(TARGET, external_id);
    assert_eq!(role_of(&cloud, to_target(None)).await, None);
    assert_eq!(role_of(&cloud, to_target(Some("other"))).await, None);
    let target = Some("arn:aws:sts::222222222222:assumed-role/target".to_owned());
    assert_eq!(role_of(&cloud, to_target(Some(EXTERNAL_ID))).await, target);
    assert_eq!(role_of(&cloud, to_target(Some(EXTERNAL_ID)).without_session_tags()).await, None, "the tag is missing");

    cloud.associate_with("default", "app", to_target(Some(EXTERNAL_ID)));
    let issued = assume_well(&cloud, &token(&cloud)).await.unwrap().credentials.unwrap();
    let expiry = SystemTime::try_from(*issued.expiration()).unwrap();
    assert!(expiry < Clock::System.now().wall + HOUR - Duration::from_secs(30), "59 minutes");
    let identity = caller_identity(&cloud, credentials_from_eks(issued)).await.unwrap();
    assert_eq!(identity.account(), Some("222222222222"));
}

/// The answer to a signed GET, whole.
async fn get(cloud: &Cloud, credentials: &Credentials, region: &str, path: &str) -> String {
    let host = "x";
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder().identity(&identity).region(region).name("eks").time(Clock::System.now().wall);
    let params = params.settings(SigningSettings::default()).build().unwrap().into();
    let signable = SignableRequest::new("GET", path, [("host", host)].into_iter(), SignableBody::Bytes(b"")).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    let headers: String = instructions.headers().map(|(name, value)| format!("\r\n{name}: {value}")).collect();
    raw(cloud, &format!("GET {path} HTTP/1.1{headers}")).await.0
}

#[tokio::test]
async fn a_cluster_is_described_to_its_node() {
    let cloud = cloud().await;
    let answer = get(&cloud, &node(&cloud), "us-east-1", "/clusters/demo").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    let document: Value = serde_json::from_str(body).unwrap();
    let cluster = &document["cluster"];
    assert_eq!(cluster["identity"]["oidc"]["issuer"], cloud.issuer());
    assert_eq!(cluster["arn"], "arn:aws:eks:us-east-1:111122223333:cluster/demo");
    assert_eq!((&cluster["name"], &cluster["status"]), (&json!("demo"), &json!("ACTIVE")));
    assert_eq!(cloud.count(Operation::DescribeCluster), 1);
    assert_eq!(cloud.calls()[0].signer.as_deref(), Some(cloud.node_credentials().0));
}

#[tokio::test]
async fn describe_cluster_refuses_as_eks_does() {
    let cloud = cloud().await;
    let code = async |credentials: &Credentials, region: &str, path: &str| {
        let answer = get(&cloud, credentials, region, path).await;
        let code = answer.lines().find_map(|line| line.strip_prefix("x-amzn-errortype: ")).unwrap_or_default().to_owned();
        (answer[9..12].to_owned(), code)
    };
    let is = |status: &str, code: &str| (status.to_owned(), code.to_owned());
    let node = node(&cloud);
    assert_eq!(code(&node, "us-east-1", "/clusters/other").await, is("404", "ResourceNotFoundException"));
    assert_eq!(code(&node, "eu-west-1", "/clusters/demo").await, is("403", "InvalidSignatureException"));
    assert_eq!(code(&session(&cloud).await, "us-east-1", "/clusters/demo").await, is("403", "AccessDeniedException"));
    let (unsigned, _) = raw(&cloud, "GET /clusters/demo HTTP/1.1").await;
    assert!(unsigned.contains("x-amzn-errortype: MissingAuthenticationTokenException"), "{unsigned}");
    cloud.script().next(Operation::DescribeCluster, [Fault::service_unavailable().into()]);
    assert_eq!(code(&node, "us-east-1", "/clusters/demo").await, is("503", "ServiceUnavailableException"));
}
