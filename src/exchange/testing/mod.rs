//! An exchange against a fake EKS Auth, orders for it, and answers of any shape.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use serde_json::{Value, json};

use crate::base::clock::{Clock, unix_seconds};
use crate::domain::credential::Credential;
use crate::domain::identity::{BearerToken, Identity, Presented, Subject, TokenDigest};
use crate::domain::mint::{Failure, Mint, Order, Urgency};
use crate::domain::policy::{Claimant, POD_IDENTITY_AUDIENCE, Policy};
use crate::egress::aws::Aws;
use crate::egress::fake::{Answer, Fake, https};
use crate::egress::https::Https;
use crate::exchange::{Config, Exchanges};
use crate::limits::upstream::{self as limits, UpstreamBudget};
use crate::observe::Context;
use crate::observe::metrics::Metrics;

pub(in crate::exchange) mod sts;

pub(in crate::exchange) const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";

/// 2026-01-02T03:04:05Z by the exchange's clock in all tests.
pub(in crate::exchange) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

pub(in crate::exchange) struct Setup {
    pub(in crate::exchange) exchanges: Arc<Exchanges>,
    pub(in crate::exchange) clock: Clock,
    pub(in crate::exchange) metrics: Arc<Metrics>,
    pub(in crate::exchange) aws: Arc<Aws>,
    pub(in crate::exchange) budget: UpstreamBudget,
}

impl Setup {
    pub(in crate::exchange) fn new(endpoint: &str, https: Https, credentials: SharedCredentialsProvider) -> Self {
        Self::at(Some(endpoint), https, credentials, Clock::simulated(now()))
    }

    /// Exchanges that call `endpoint` for every service, or AWS's own.
    pub(in crate::exchange) fn at(
        endpoint: Option<&str>,
        https: Https,
        credentials: SharedCredentialsProvider,
        clock: Clock,
    ) -> Self {
        let mut sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .http_client(https.aws_http_client())
            .retry_config(RetryConfig::disabled())
            .credentials_provider(credentials);
        sdk.set_endpoint_url(endpoint.map(str::to_owned));
        let sdk = sdk.build();
        let context = Context::new(clock.clone());
        let metrics = Arc::clone(&context.metrics);
        let aws = Arc::new(Aws::with_config(https, &metrics, sdk));
        let config = Config { cluster_name: Some("myeks".into()), endpoint: endpoint.map(|url| url.parse().unwrap()) };
        let rate = limits::Config { per_second: 5.0 };
        let budget = UpstreamBudget::new(rate, context.clone());
        let exchanges = Arc::new(Exchanges::new(config, Arc::clone(&aws), budget.clone(), context));
        Self { exchanges, clock, metrics, aws, budget }
    }

    pub(in crate::exchange) fn plain(fake: &Fake) -> Self {
        Self::new(&fake.url(), https(&[]), keys())
    }

    pub(in crate::exchange) async fn mint(&self, subject: Subject) -> Result<Credential, Failure> {
        self.exchanges.mint(order(subject, Duration::from_secs(5))).await
    }
}

pub(in crate::exchange) fn keys() -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::new("AKIDNODE", "node-secret", None, None, "test"))
}

pub(in crate::exchange) fn verified() -> Subject {
    Subject::Verified(Identity {
        issuer: "https://issuer".into(),
        namespace: "default".into(),
        service_account: "s3-sa".into(),
        service_account_uid: "sa-uid".into(),
        pod: "web-1".into(),
        pod_uid: "pod-uid".into(),
        node: None,
    })
}

pub(in crate::exchange) fn delegated() -> Subject {
    Subject::Delegated(TokenDigest::of(TOKEN.as_bytes()))
}

pub(in crate::exchange) fn order(subject: Subject, patience: Duration) -> Order {
    let expires_at = subject.identity().map(|_| now() + Duration::from_secs(3600));
    let presented = Presented { token: BearerToken::parse(TOKEN.as_bytes()).unwrap(), expires_at, token_id: "jti".into() };
    Order {
        subject: Arc::new(subject),
        presented: Arc::new(presented),
        grant: Policy::without_rules(Some("demo".into()))
            .case(&Claimant::hypothetical("default", "s"))
            .grant(&POD_IDENTITY_AUDIENCE.into(), None, None)
            .unwrap(),
        urgency: Urgency::Foreground,
        deadline: Clock::System.now().mono + patience,
    }
}

pub(in crate::exchange) fn in_seconds(life: i64) -> i64 {
    unix_seconds(now()) + life
}

pub(in crate::exchange) fn complete() -> Value {
    json!({
        "subject": { "namespace": "default", "serviceAccount": "s3-sa" },
        "audience": "pods.eks.amazonaws.com",
        "podIdentityAssociation": { "associationArn": "arn:aws:eks:x:1:podidentityassociation/myeks/a-1", "associationId": "a-1" },
        "assumedRoleUser": { "arn": "arn:aws:sts::111122223333:assumed-role/s3/eks-myeks-web-1", "assumeRoleId": "AROA:eks" },
        "credentials": { "accessKeyId": "ASIAPOD", "secretAccessKey": "pod-secret", "sessionToken": "pod-token", "expiration": in_seconds(21_600) },
    })
}

/// `complete()` with the member at `pointer` (RFC 6901) replaced.
pub(in crate::exchange) fn with(pointer: &str, value: impl Into<Value>) -> Value {
    let mut answer = complete();
    *answer.pointer_mut(pointer).unwrap() = value.into();
    answer
}

/// `complete()` without the member at `parent` and `name`.
pub(in crate::exchange) fn without(parent: &str, name: &str) -> Value {
    let mut answer = complete();
    answer.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    answer
}

pub(in crate::exchange) async fn answered(answer: Answer, subject: Subject) -> Result<Credential, Failure> {
    Setup::plain(&Fake::plain(answer).await).mint(subject).await
}

pub(in crate::exchange) async fn answered_ok(body: &Value) -> Result<Credential, Failure> {
    answered(Answer::http(200, "x-amzn-requestid: r-1\r\n", &body.to_string()), verified()).await
}

pub(in crate::exchange) async fn error(status: u16, code: &str, subject: Subject) -> Failure {
    let headers = format!("x-amzn-errortype: {code}\r\nx-amzn-requestid: r-1\r\n");
    answered(Answer::http(status, &headers, r#"{"message":"upstream text"}"#), subject).await.unwrap_err()
}

/// The failure's kind, as its metric calls it.
pub(in crate::exchange) fn kind(failure: &Failure) -> &'static str {
    match failure {
        Failure::Denied(_) => "denied",
        Failure::Throttled { .. } => "throttled",
        Failure::Unavailable(_) => "unavailable",
        Failure::Misconfigured(_) => "misconfigured",
        Failure::Bug(_) => "bug",
    }
}

pub(in crate::exchange) fn bug(text: &str) -> Failure {
    Failure::Bug(text.into())
}

/// A source of node credentials that fails, or never answers.
#[derive(Debug)]
pub(in crate::exchange) enum Source {
    Empty,
    Failing,
    Hanging,
}

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            match self {
                Self::Empty => Err(CredentialsError::not_loaded("no providers in chain provided credentials")),
                Self::Failing => Err(CredentialsError::provider_error("upstream text")),
                Self::Hanging => std::future::pending::<provider::Result>().await,
            }
        })
    }
}
