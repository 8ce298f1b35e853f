//! The simulated cloud, driven by the AWS SDK and by raw HTTP.

mod behaviour;
mod eks;
mod roles;
mod web_identity;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_eksauth::config::{BehaviorVersion, Region};
use aws_sdk_eksauth::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eksauth::operation::RequestId;
use aws_sdk_eksauth::operation::assume_role_for_pod_identity::AssumeRoleForPodIdentityError as EksAuthError;
use aws_sdk_eksauth::operation::assume_role_for_pod_identity::AssumeRoleForPodIdentityOutput;
use aws_sdk_sts::operation::get_caller_identity::{GetCallerIdentityError, GetCallerIdentityOutput};
use aws_smithy_types::retry::RetryConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::base::clock::Clock;
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::sim::cloud::{Cloud, Config};
use crate::sim::fault::Fault;
use crate::sim::keys::{Algorithm, Keys};
use crate::sim::pod::PodSpec;
use crate::sim::script::{Behaviour, Operation};
use crate::sim::sessions::pod_of;

const HOUR: Duration = Duration::from_secs(3600);
const CLUSTER: &str = "demo";

type EksAuthResult = Result<AssumeRoleForPodIdentityOutput, EksAuthError>;
type StsResult = Result<GetCallerIdentityOutput, GetCallerIdentityError>;

async fn cloud() -> Cloud {
    Cloud::start(config()).await.unwrap()
}

fn config() -> Config {
    Config { algorithm: Algorithm::Es256, ..Config::default() }
}

fn token(cloud: &Cloud) -> String {
    cloud.keys().token(&PodSpec::new("default", "app", "app-0"), POD_IDENTITY_AUDIENCE, HOUR)
}

fn node(cloud: &Cloud) -> Credentials {
    let (id, secret) = cloud.node_credentials();
    Credentials::new(id, secret.expose(), None, None, "test")
}

fn eks_auth(cloud: &Cloud, credentials: Credentials, region: &'static str) -> aws_sdk_eksauth::Client {
    let config = aws_sdk_eksauth::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(cloud.eks_auth_url())
        .region(Region::new(region))
        .retry_config(RetryConfig::disabled())
        .credentials_provider(credentials);
    aws_sdk_eksauth::Client::from_conf(config.build())
}

async fn assume(client: &aws_sdk_eksauth::Client, cluster: &str, token: &str) -> EksAuthResult {
    client.assume_role_for_pod_identity().cluster_name(cluster).token(token).send().await.map_err(SdkError::into_service_error)
}

/// As the node, for the demo cluster.
async fn assume_well(cloud: &Cloud, token: &str) -> EksAuthResult {
    assume(&eks_auth(cloud, node(cloud), "us-east-1"), CLUSTER, token).await
}

async fn refused(cloud: &Cloud, fault: Fault) -> EksAuthError {
    cloud.script().next(Operation::EksAuth, [fault.into()]);
    assume_well(cloud, &token(cloud)).await.unwrap_err()
}

fn sts(cloud: &Cloud, credentials: Option<Credentials>) -> aws_sdk_sts::Client {
    let mut config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(cloud.sts_url())
        .region(Region::new("us-east-1"))
        .retry_config(RetryConfig::disabled());
    config.set_credentials_provider(credentials.map(SharedCredentialsProvider::new));
    aws_sdk_sts::Client::from_conf(config.build())
}

async fn caller_identity(cloud: &Cloud, credentials: Credentials) -> StsResult {
    sts(cloud, Some(credentials)).get_caller_identity().send().await.map_err(SdkError::into_service_error)
}

fn credentials_of(issued: aws_sdk_sts::types::Credentials) -> Credentials {
    Credentials::new(issued.access_key_id, issued.secret_access_key, Some(issued.session_token), None, "test")
}

fn credentials_from_eks(issued: aws_sdk_eksauth::types::Credentials) -> Credentials {
    Credentials::new(issued.access_key_id, issued.secret_access_key, Some(issued.session_token), None, "test")
}

async fn session(cloud: &Cloud) -> Credentials {
    credentials_from_eks(assume_well(cloud, &token(cloud)).await.unwrap().credentials.unwrap())
}

/// One request on a connection of its own: everything that came back until the server closed, and how it ended.
async fn raw(cloud: &Cloud, head: &str) -> (String, std::io::Result<usize>) {
    raw_with(cloud, head, "").await
}

async fn raw_with(cloud: &Cloud, head: &str, body: &str) -> (String, std::io::Result<usize>) {
    let mut stream = TcpStream::connect(cloud.issuer().trim_start_matches("http://")).await.unwrap();
    stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).await;
    (String::from_utf8(bytes).unwrap(), end)
}

async fn jwks(cloud: &Cloud) -> Value {
    let (text, _) = raw(cloud, "GET /openid/v1/jwks HTTP/1.1").await;
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn eks_auth_answers_as_the_model_says() {
    let cloud = cloud().await;
    let output = assume_well(&cloud, &token(&cloud)).await.unwrap();
    assert!(output.request_id().is_some());
    assert_eq!(output.audience(), POD_IDENTITY_AUDIENCE);
    let subject = output.subject().unwrap();
    assert_eq!((subject.namespace(), subject.service_account()), ("default", "app"));
    let association = output.pod_identity_association().unwrap();
    assert!(association.association_arn().ends_with(&format!("podidentityassociation/demo/{}", association.association_id())));
    let arn = output.assumed_role_user().unwrap().arn();
    assert!(arn.starts_with("arn:aws:sts::111122223333:assumed-role/default-app/eks-demo-app-0-"), "{arn}");
    let credentials = output.credentials().unwrap();
    assert!(credentials.access_key_id().starts_with("ASIA") && credentials.access_key_id().len() == 20);
    assert_eq!(credentials.secret_access_key().len(), 40);
    assert!((900..1500).contains(&credentials.session_token().len()), "{}", credentials.session_token().len());
    let life = SystemTime::try_from(*credentials.expiration()).unwrap().duration_since(Clock::System.now().wall).unwrap();
    assert!(life <= 6 * HOUR && life > 6 * HOUR - Duration::from_secs(60), "{life:?}");
}

#[tokio::test]
async fn each_session_is_another() {
    let cloud = cloud().await;
    let mut keys = HashSet::new();
    for _ in 0..3 {
        assert!(keys.insert(session(&cloud).await.access_key_id().to_owned()));
    }
}

#[tokio::test]
async fn a_session_tells_its_pod() {
    let (cloud, pod) = (cloud().await, PodSpec::new("default", "app", "app-0"));
    let output = assume_well(&cloud, &cloud.keys().token(&pod, POD_IDENTITY_AUDIENCE, HOUR)).await.unwrap();
    let session = output.credentials().unwrap();
    let (id, token) = (session.access_key_id(), session.session_token());
    assert_eq!(pod_of(id, token).as_ref(), Some(&pod.pod_uid));
    assert_eq!([pod_of("ASIAOTHER", token), pod_of(id, "junk"), pod_of(id, "")], [None, None, None]);
}

#[tokio::test]
async fn every_modelled_error_is_parsed_to_its_variant() {
    let cloud = cloud().await;
    assert!(refused(&cloud, Fault::throttling()).await.is_throttling_exception());
    assert!(refused(&cloud, Fault::internal_server()).await.is_internal_server_exception());
    assert!(refused(&cloud, Fault::service_unavailable()).await.is_service_unavailable_exception());
    assert!(refused(&cloud, Fault::access_denied()).await.is_access_denied_exception());
    assert!(refused(&cloud, Fault::invalid_request()).await.is_invalid_request_exception());
    assert!(refused(&cloud, Fault::invalid_parameter()).await.is_invalid_parameter_exception());
    assert!(refused(&cloud, Fault::invalid_token("x")).await.is_invalid_token_exception());
    assert!(refused(&cloud, Fault::expired_token()).await.is_expired_token_exception());
    assert!(refused(&cloud, Fault::resource_not_found("x")).await.is_resource_not_found_exception());
    let unmodelled = refused(&cloud, Fault::unrecognized_client()).await;
    assert_eq!(unmodelled.code(), Some("UnrecognizedClientException"));
    let statuses: Vec<_> = cloud.calls().iter().map(|call| call.status().unwrap()).collect();
    assert_eq!(statuses, [429, 500, 503, 400, 400, 400, 400, 400, 404, 403]);
}

#[tokio::test]
async fn eks_auth_knows_its_node_by_signature() {
    let cloud = cloud().await;
    let token = token(&cloud);
    let code = async |credentials, region| {
        let error = assume(&eks_auth(&cloud, credentials, region), CLUSTER, &token).await.unwrap_err();
        error.code().unwrap().to_owned()
    };
    let (id, secret) = cloud.node_credentials();
    let other_secret = Credentials::new(id, "x".repeat(40), None, None, "test");
    assert_eq!(code(other_secret, "us-east-1").await, "InvalidSignatureException");
    assert_eq!(code(node(&cloud), "eu-west-1").await, "InvalidSignatureException");
    let other_key = Credentials::new("AKIAUNKNOWN", secret.expose(), None, None, "test");
    assert_eq!(code(other_key, "us-east-1").await, "UnrecognizedClientException");
    let with_token = Credentials::new(id, secret.expose(), Some("made up".into()), None, "test");
    assert_eq!(code(with_token, "us-east-1").await, "UnrecognizedClientException");
    assert_eq!(code(session(&cloud).await, "us-east-1").await, "AccessDeniedException");
    let (unsigned, _) = raw(&cloud, "POST /clusters/demo/assume-role-for-pod-identity HTTP/1.1").await;
    assert!(unsigned.contains("x-amzn-errortype: MissingAuthenticationTokenException"), "{unsigned}");
}

#[tokio::test]
async fn a_request_signed_long_ago_is_refused() {
    let clock = Clock::simulated(Clock::System.now().wall);
    let cloud = Cloud::start(Config { clock: clock.clone(), ..config() }).await.unwrap();
    assert!(assume_well(&cloud, &token(&cloud)).await.is_ok());
    clock.step(301 + 1);
    let error = assume_well(&cloud, &token(&cloud)).await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidSignatureException"));
}

#[tokio::test]
async fn eks_auth_judges_token_cluster_and_association() {
    let cloud = cloud().await;
    let pod = PodSpec::new("default", "app", "app-0");
    let client = eks_auth(&cloud, node(&cloud), "us-east-1");
    let refused = async |token: &str| assume(&client, CLUSTER, token).await.unwrap_err();
    let keys = cloud.keys();
    assert!(refused(&keys.token(&pod, "sts.amazonaws.com", HOUR)).await.is_invalid_token_exception());
    assert!(refused(&keys.token(&pod, POD_IDENTITY_AUDIENCE, Duration::ZERO)).await.is_expired_token_exception());
    let mut claims = keys.claims(&pod, POD_IDENTITY_AUDIENCE, HOUR);
    claims.iss = "https://elsewhere.example.com".into();
    assert!(refused(&keys.sign(&keys.header(), &json!(claims).to_string())).await.is_invalid_token_exception());
    assert!(refused(&format!("{}x", token(&cloud))).await.is_invalid_token_exception());

    let token = token(&cloud);
    assert!(assume(&client, "other", &token).await.unwrap_err().is_resource_not_found_exception());
    cloud.dissociate("default", "app");
    assert!(refused(&token).await.is_resource_not_found_exception());
    cloud.associate("default", "app");
    assert!(assume(&client, CLUSTER, &token).await.is_ok());
}

#[tokio::test]
async fn tokens_of_a_trusted_issuer_are_accepted_too() {
    let cloud = cloud().await;
    let client = eks_auth(&cloud, node(&cloud), "us-east-1");
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384] {
        let real = Keys::new("https://kubernetes.default.svc", algorithm, Clock::System);
        let token = real.token(&PodSpec::new("default", "app", "app-0"), POD_IDENTITY_AUDIENCE, HOUR);
        assert!(assume(&client, CLUSTER, &token).await.unwrap_err().is_invalid_token_exception(), "{algorithm:?}");
        cloud.trust_issuer("https://kubernetes.default.svc", real.jwks().to_string().as_bytes()).unwrap();
        assert!(assume(&client, CLUSTER, &token).await.is_ok(), "{algorithm:?}");
    }
    assert!(assume_well(&cloud, &token(&cloud)).await.is_ok(), "its own are as good as before");
    for junk in ["", "{}", r#"{"keys":[{"kid":"a","kty":"OKP","alg":"EdDSA"}]}"#] {
        assert!(cloud.trust_issuer("https://junk.example", junk.as_bytes()).is_err(), "{junk}");
    }
}

#[tokio::test]
async fn sts_names_who_signed() {
    let cloud = cloud().await;
    let session = session(&cloud).await;
    let output = caller_identity(&cloud, session.clone()).await.unwrap();
    assert_eq!(output.account(), Some("111122223333"));
    let arn = output.arn().unwrap();
    assert!(arn.starts_with("arn:aws:sts::111122223333:assumed-role/default-app/eks-demo-app-0-"), "{arn}");
    assert!(output.user_id().unwrap().ends_with(arn.rsplit('/').next().unwrap()));
    assert_eq!(cloud.calls().last().unwrap().signer.as_deref(), Some(session.access_key_id()));
    let node = caller_identity(&cloud, node(&cloud)).await.unwrap();
    assert_eq!(node.arn(), Some("arn:aws:iam::111122223333:user/node"));
}

#[tokio::test]
async fn sts_refuses_what_is_not_a_session() {
    let cloud = cloud().await;
    let code = async |credentials| caller_identity(&cloud, credentials).await.unwrap_err().code().unwrap().to_owned();
    let (good, other) = (session(&cloud).await, session(&cloud).await);
    let (id, secret) = (good.access_key_id(), good.secret_access_key());
    let mixed = |secret: &str, token: Option<&str>| Credentials::new(id, secret, token.map(str::to_owned), None, "test");
    assert_eq!(code(mixed("x", good.session_token())).await, "SignatureDoesNotMatch");
    assert_eq!(code(mixed(secret, other.session_token())).await, "InvalidClientTokenId");
    assert_eq!(code(mixed(secret, None)).await, "InvalidClientTokenId");
    cloud.script().next(Operation::EksAuth, [Behaviour::ExpiresIn(-1)]);
    assert_eq!(code(session(&cloud).await).await, "ExpiredToken");
    cloud.script().next(Operation::GetCallerIdentity, [Fault::sts_throttling().into()]);
    assert_eq!(code(good.clone()).await, "Throttling");
    assert_eq!(cloud.calls().last().unwrap().status(), Some(400), "STS throttles with 400");
}

#[tokio::test]
async fn the_issuer_publishes_its_keys() {
    let cloud = cloud().await;
    let (head, _) = raw(&cloud, "GET /.well-known/openid-configuration HTTP/1.1").await;
    assert!(head.contains("cache-control: public, max-age=3600"), "{head}");
    assert!(head.contains(&format!("\"issuer\":\"{}\"", cloud.issuer())), "{head}");
    assert!(head.contains(&format!("\"jwks_uri\":\"{}\"", cloud.jwks_url())), "{head}");
    assert_eq!(jwks(&cloud).await, cloud.keys().jwks());
    cloud.keys().rotate(Algorithm::Es384);
    assert_eq!(jwks(&cloud).await["keys"].as_array().unwrap().len(), 2);
    assert!(raw(&cloud, "GET /keys HTTP/1.1").await.0.starts_with("HTTP/1.1 404"));
}
