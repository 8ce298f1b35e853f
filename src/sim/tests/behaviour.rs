//! What the cloud does as it is told: it misbehaves as scripted, keeps to its conditions, and records what it was asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_eksauth::error::ProvideErrorMetadata;
use aws_sdk_eksauth::operation::RequestId;
use strum::IntoEnumIterator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::{HOUR, assume_well, caller_identity, cloud, config, node, raw, token};
use crate::base::clock::Clock;
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::sim::cloud::{Cloud, Conditions, Config, Quota};
use crate::sim::fault::Fault;
use crate::sim::script::{Behaviour, Operation};

#[tokio::test]
async fn answers_are_altered_as_scripted() {
    let cloud = cloud().await;
    let script = |behaviour: Behaviour| cloud.script().next(Operation::EksAuth, [behaviour]);
    let token = token(&cloud);
    script(Behaviour::wrong_subject());
    assert_eq!(assume_well(&cloud, &token).await.unwrap().subject().unwrap().service_account(), "somebody-else");
    script(Behaviour::wrong_audience());
    assert_ne!(assume_well(&cloud, &token).await.unwrap().audience(), POD_IDENTITY_AUDIENCE);
    script(Behaviour::Without("/credentials/sessionToken"));
    let incomplete = assume_well(&cloud, &token).await.unwrap();
    assert_eq!(incomplete.credentials().unwrap().session_token(), "", "the SDK makes up what is missing");
    script(Behaviour::ExpiresIn(-3600));
    let expiration = *assume_well(&cloud, &token).await.unwrap().credentials().unwrap().expiration();
    assert!(SystemTime::try_from(expiration).unwrap() < Clock::System.now().wall);
    assert!(assume_well(&cloud, &token).await.is_ok(), "a script ends");
}

#[tokio::test]
async fn connections_break_as_scripted() {
    let cloud = cloud().await;
    let get = "GET /openid/v1/jwks HTTP/1.1";
    cloud.script().next(Operation::Jwks, [Behaviour::Reset, Behaviour::HalfBody]);
    let (nothing, end) = raw(&cloud, get).await;
    assert_eq!((nothing.as_str(), end.unwrap_err().kind()), ("", std::io::ErrorKind::ConnectionReset));
    let (half, _) = raw(&cloud, get).await;
    let (head, body) = half.split_once("\r\n\r\n").unwrap();
    let whole = cloud.keys().jwks().to_string().len();
    assert!(head.contains(&format!("content-length: {whole}")), "{head}");
    assert_eq!(body.len(), whole / 2);
    cloud.script().next(Operation::Jwks, [Fault::new(503, "x", "later").retry_after(Duration::from_secs(7)).into()]);
    assert!(raw(&cloud, get).await.0.contains("retry-after: 7"));
    let garbage = Behaviour::Body { status: 200, content_type: "text/html", bytes: "<html>".into() };
    cloud.script().next(Operation::Jwks, [garbage]);
    assert!(raw(&cloud, get).await.0.ends_with("<html>"));
}

#[tokio::test]
async fn a_call_that_hangs_ends_with_the_cloud() {
    let cloud = Arc::new(cloud().await);
    cloud.script().always(Operation::Jwks, Behaviour::Hang);
    let call: JoinHandle<_> = tokio::spawn({
        let address = cloud.issuer().trim_start_matches("http://").to_owned();
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /openid/v1/jwks HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            stream.read(&mut [0; 1]).await
        }
    });
    cloud.reached(Operation::Jwks, 1).await;
    assert_eq!(cloud.calls()[0].status(), None);
    drop(cloud);
    assert!(matches!(call.await.unwrap(), Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_held_call_waits_for_the_test() {
    let cloud = Arc::new(cloud().await);
    let gate = Arc::new(Notify::new());
    cloud.script().next(Operation::EksAuth, [Behaviour::held(&gate)]);
    let call = tokio::spawn({
        let cloud = cloud.clone();
        async move { assume_well(&cloud, &token(&cloud)).await }
    });
    cloud.reached(Operation::EksAuth, 1).await;
    assert!(!call.is_finished());
    gate.notify_one();
    assert!(call.await.unwrap().is_ok());
}

#[tokio::test]
async fn calls_are_recorded_and_logged_without_tokens() {
    let (log, mut lines) = mpsc::unbounded_channel();
    let cloud = Cloud::start(Config { log: Some(log), ..config() }).await.unwrap();
    let token = token(&cloud);
    let output = assume_well(&cloud, &token).await.unwrap();
    let call = lines.recv().await.unwrap();
    assert_eq!((call.operation, call.status()), (Operation::EksAuth, Some(200)));
    assert_eq!(call.subject.as_deref(), Some("system:serviceaccount:default:app"));
    assert_eq!(Some(call.request_id.as_str()), output.request_id());
    assert!(!format!("{:?}{cloud:?}", cloud.calls()).contains(&token));
    let counts: Vec<_> = Operation::iter().map(|operation| cloud.count(operation)).collect();
    assert_eq!(counts, [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn conditions_change_at_run_time() {
    let cloud = cloud().await;
    let token = token(&cloud);
    cloud.set_conditions(Conditions { fail_rate: 1.0, ..cloud.conditions() });
    assert!(assume_well(&cloud, &token).await.unwrap_err().is_internal_server_exception());
    assert_eq!(caller_identity(&cloud, node(&cloud)).await.unwrap_err().code(), Some("InternalFailure"));
    assert!(raw(&cloud, "GET /openid/v1/jwks HTTP/1.1").await.0.starts_with("HTTP/1.1 200"), "the cluster is not AWS");
    cloud.set_conditions(Conditions { lifetime: HOUR, latency: Duration::from_millis(30), ..Conditions::default() });
    let start = Clock::System.now();
    let output = assume_well(&cloud, &token).await.unwrap();
    assert!(Clock::System.now().mono - start.mono >= Duration::from_millis(30));
    let expiry = SystemTime::try_from(*output.credentials().unwrap().expiration()).unwrap();
    assert!(expiry < start.wall + HOUR + Duration::from_secs(60));
}

#[tokio::test]
async fn calls_beyond_the_quota_are_throttled_and_take_nothing_of_it() {
    let cloud = cloud().await;
    let token = token(&cloud);
    let quota = |per_second| Some(Quota { per_second, burst: 2.0, retry_after: Some(Duration::from_secs(7)) });
    cloud.set_conditions(Conditions { quota: quota(f64::MIN_POSITIVE), ..cloud.conditions() });
    assume_well(&cloud, &token).await.unwrap();
    caller_identity(&cloud, node(&cloud)).await.unwrap();
    assert!(assume_well(&cloud, &token).await.unwrap_err().is_throttling_exception());
    assert_eq!(caller_identity(&cloud, node(&cloud)).await.unwrap_err().code(), Some("Throttling"));
    assert!(raw(&cloud, "GET /openid/v1/jwks HTTP/1.1").await.0.starts_with("HTTP/1.1 200"), "the cluster is not AWS");
    let calls = cloud.calls();
    assert_eq!(calls[0].issued().unwrap().access_key_id.get(..4), Some("ASIA"));
    let last = calls[2].answer.clone().unwrap();
    assert_eq!((last.status, last.retry_after, last.issued), (429, Some(Duration::from_secs(7)), None));
}
