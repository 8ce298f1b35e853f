//! What becomes of each kind of credentials, against a fake STS.

use std::time::SystemTime;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{SharedCredentialsProvider, future};

use super::*;
use crate::domain::credential::rfc3339;
use crate::egress::fake::{Answer, Fake, https};
use crate::observe::Context;

const ROLE: &str = "arn:aws:iam::222222222222:role/reader";

struct Bench {
    developer: Developer,
    fake: Fake,
    clock: Clock,
}

impl Bench {
    async fn new(source: impl ProvideCredentials + 'static, role: Option<&str>, sts: fn(&str) -> Answer) -> Self {
        let fake = Fake::answering(sts).await;
        let (http, context) = (https(&[]), Context::new(Clock::System));
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(format!("http://{}", fake.address))
            .http_client(http.aws_http_client())
            .retry_config(RetryConfig::disabled())
            .credentials_provider(SharedCredentialsProvider::new(source))
            .build();
        let aws = Arc::new(Aws::with_config(http, &context.metrics, sdk));
        let developer =
            Developer::new("my profile".into(), role.map(|role| RoleArn::parse(role).unwrap()), aws, context.clock.clone());
        Self { developer, fake, clock: context.clock }
    }

    async fn failure(&self) -> Failure {
        self.developer.session().await.unwrap_err()
    }

    /// The actions that STS was asked for.
    fn actions(&self) -> Vec<String> {
        self.fake.requests().iter().map(|request| parameter(request, "Action").unwrap()).collect()
    }
}

fn parameter(request: &str, name: &str) -> Option<String> {
    let (_, body) = request.split_once("\r\n\r\n")?;
    url::form_urlencoded::parse(body.as_bytes()).find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

/// An STS that does all that it is asked.
fn well(request: &str) -> Answer {
    let action = parameter(request, "Action").unwrap();
    let credentials = format!(
        "<Credentials><AccessKeyId>ASIANEW</AccessKeyId><SecretAccessKey>new-secret</SecretAccessKey><SessionToken>new-token\
         </SessionToken><Expiration>{}</Expiration></Credentials>",
        rfc3339(Clock::System.now().wall + Duration::from_secs(3600)).unwrap()
    );
    let user = "<AssumedRoleUser><AssumedRoleId>A:s</AssumedRoleId><Arn>arn:aws:sts::222222222222:assumed-role/reader/s</Arn></AssumedRoleUser>";
    let result = match action.as_str() {
        "GetCallerIdentity" => "<Arn>arn:aws:iam::111122223333:user/me</Arn>".to_owned(),
        "GetSessionToken" => credentials,
        _ => format!("{credentials}{user}"),
    };
    Answer::http(200, "", &format!("<{action}Response><{action}Result>{result}</{action}Result></{action}Response>"))
}

fn fault(code: &str) -> Answer {
    let error = format!("<ErrorResponse><Error><Code>{code}</Code><Message>upstream text</Message></Error></ErrorResponse>");
    Answer::http(403, "x-amzn-requestid: r-1\r\n", &error)
}

fn keys() -> Credentials {
    Credentials::new("AKIAME", "my-secret", None, None, "test")
}

fn session_until(end: Option<SystemTime>) -> Credentials {
    Credentials::new("ASIAME", "my-secret", Some("my-token".into()), end, "test")
}

fn in_secs(seconds: u64) -> SystemTime {
    Clock::System.now().wall + Duration::from_secs(seconds)
}

#[tokio::test]
async fn long_term_keys_become_a_session() {
    let bench = Bench::new(keys(), None, well).await;
    let session = bench.developer.session().await.unwrap();
    assert_eq!((session.access_key_id.as_str(), session.session_token.expose()), ("ASIANEW", "new-token"));
    assert_eq!(session.assumed_role_arn, "arn:aws:iam::111122223333:user/me");
    assert_eq!(bench.actions(), ["GetCallerIdentity", "GetSessionToken"]);
    assert_eq!(parameter(&bench.fake.requests()[1], "DurationSeconds").as_deref(), Some("43200"));
    assert!(Credential::new(&session, Provenance::default(), bench.clock.now()).is_ok(), "SDKs take it");
}

#[tokio::test]
async fn session_credentials_are_served_as_they_are() {
    let end = in_secs(1800);
    let bench = Bench::new(session_until(Some(end)), None, well).await;
    let session = bench.developer.session().await.unwrap();
    assert_eq!((session.access_key_id.as_str(), session.expires_at), ("ASIAME", end));
    assert_eq!(bench.actions(), ["GetCallerIdentity"]);

    let bench = Bench::new(session_until(None), None, well).await;
    let session = bench.developer.session().await.unwrap();
    let life = bench.clock.now().until(session.expires_at);
    assert!(life > UNKNOWN_LIFE - Duration::from_secs(60) && life <= UNKNOWN_LIFE, "{life:?}");
}

#[tokio::test]
async fn a_role_is_assumed_under_a_name_that_stays() {
    for own in [keys(), session_until(Some(in_secs(1800)))] {
        let bench = Bench::new(own, Some(ROLE), well).await;
        for _ in 0..2 {
            let session = bench.developer.session().await.unwrap();
            assert_eq!(session.assumed_role_arn, "arn:aws:sts::222222222222:assumed-role/reader/s");
        }
        assert_eq!(bench.actions(), ["AssumeRole", "AssumeRole"]);
        for request in bench.fake.requests() {
            assert_eq!(parameter(&request, "RoleArn").as_deref(), Some(ROLE));
            assert_eq!(parameter(&request, "RoleSessionName").as_deref(), Some("credlet-my-profile"));
        }
    }
}

#[tokio::test]
async fn a_role_that_is_refused_is_told_with_what_to_look_at() {
    let bench = Bench::new(keys(), Some(ROLE), |_| fault("AccessDenied")).await;
    let Failure::Denied(denial) = bench.failure().await else { panic!("not denied") };
    let advice = denial.advice.clone().unwrap();
    assert!(advice.contains(ROLE) && advice.contains("my profile") && advice.contains("trust policy"), "{advice}");
    assert!(denial.cause.contains("AccessDenied, status 403, request r-1") && !denial.cause.contains("upstream text"));
}

#[tokio::test]
async fn credentials_that_ended_are_told_with_how_to_get_new_ones() {
    let hint = "aws sso login --profile my profile";
    for role in [None, Some(ROLE)] {
        let bench = Bench::new(session_until(None), role, |_| fault("ExpiredToken")).await;
        assert!(
            matches!(bench.failure().await, Failure::Misconfigured(text) if text.contains(hint) && text.contains("ExpiredToken"))
        );
    }
    let bench = Bench::new(session_until(Some(in_secs(50))), None, well).await;
    assert!(matches!(bench.failure().await, Failure::Misconfigured(text) if text.contains("have ended") && text.contains(hint)));
}

/// As an SSO profile without a login.
#[derive(Debug)]
struct LoggedOut;

impl ProvideCredentials for LoggedOut {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::provider_error("the SSO token has expired")))
    }
}

#[tokio::test]
async fn a_profile_without_credentials_asks_nobody() {
    let bench = Bench::new(LoggedOut, Some(ROLE), well).await;
    let Failure::Misconfigured(text) = bench.failure().await else { panic!("not misconfigured") };
    assert!(text.contains("the SSO token has expired") && text.contains("aws sso login"), "{text}");
    assert!(bench.fake.requests().is_empty());
}

#[test]
fn a_session_name_is_of_what_sts_takes() {
    assert_eq!(session_name("a/b ü@c"), "credlet-a-b--@c");
    assert_eq!(session_name(&"x".repeat(100)).len(), 64);
}
