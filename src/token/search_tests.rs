//! Who is asked for the issuer, in which order, and what failures lead to; EKS, issuer and API server are one fake.

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use serde_json::json;
use url::Url;

use super::*;
use crate::base::clock::Clock;
use crate::base::duty::Duty;
use crate::domain::refusal::Reason;
use crate::egress::aws::Aws;
use crate::egress::fake::{Answer, Fake};
use crate::observe::Context;
use crate::token::Access;
use crate::token::config::{ApiServer, Config, Mode, Standing};
use crate::token::testing::{access, config, document, rsa};

/// A keyring that searches, and its world.
struct Bench {
    keyring: Keyring,
    context: Context,
    access: Access,
    fake: Fake,
}

impl Bench {
    /// EKS answers as `eks` says, by default that the fake is the issuer, which has key `a`. `api_server` is of a token that is mounted but in vain.
    async fn new(mode: Mode, eks: impl Fn() -> Option<Answer> + Clone + Send + Sync + 'static, api_server: bool) -> Self {
        let fake = Fake::answering(move |request| answer(request, &eks)).await;
        let context = Context::new(Clock::System);
        let access = Access { aws: Arc::new(aws(&fake, &context)), ..access(&context) };
        let keyring = Keyring::new(mode, &context);
        let config = Config { cluster: Some("demo".into()), api_server: api_server.then(nobody), ..config(mode) };
        keyring.start(&config, access.clone());
        Self { keyring, context, access, fake }
    }

    async fn standing(&self) -> Standing {
        self.keyring.standing(self.deadline()).await.unwrap()
    }

    async fn find(&self, kid: &str) -> Option<Reason> {
        self.keyring.find(kid, self.deadline()).await.err().map(|refusal| refusal.reason)
    }

    fn deadline(&self) -> tokio::time::Instant {
        self.context.clock.now().mono + Duration::from_secs(10)
    }

    fn status(&self) -> serde_json::Value {
        json!(self.keyring.status())
    }

    /// The first error of the search, once it has failed.
    async fn error(&self) -> String {
        self.error_with("").await
    }

    /// The first error of the search that contains `text`.
    async fn error_with(&self, text: &str) -> String {
        let error = async {
            loop {
                if let Some(error) = self.status()["issuers"][0]["error"].as_str().filter(|error| error.contains(text)) {
                    return error.to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout_at(self.deadline(), error).await.unwrap()
    }

    fn counted(&self, result: &str) -> bool {
        let line = format!(r#"credlet_upstream_requests_total{{operation="describe_cluster",result="{result}"}} 1"#);
        self.context.metrics.encode().unwrap().contains(&line)
    }
}

fn answer(request: &str, eks: &impl Fn() -> Option<Answer>) -> Answer {
    let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let issuer = format!("http://{host}");
    match path {
        "/clusters/demo" => eks().unwrap_or_else(|| {
            Answer::http(200, "", &json!({"cluster": {"identity": {"oidc": {"issuer": issuer}}}}).to_string())
        }),
        "/.well-known/openid-configuration" => {
            Answer::http(200, "", &json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}).to_string())
        }
        _ => Answer::http(200, "", &String::from_utf8(document(&[rsa().jwk("a")])).unwrap()),
    }
}

fn well() -> Option<Answer> {
    None
}

fn fault(status: u16, code: &str) -> Answer {
    Answer::http(status, &format!("x-amzn-errortype: {code}\r\nx-amzn-requestid: r-1\r\n"), r#"{"message":"upstream text"}"#)
}

fn aws(fake: &Fake, context: &Context) -> Aws {
    let http = crate::egress::fake::https(&[]);
    let credentials = Credentials::new("AKIDNODE", "node-secret", None, None, "test");
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(format!("http://{}", fake.address))
        .http_client(http.aws_http_client())
        .retry_config(RetryConfig::disabled())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    Aws::with_config(http, &context.metrics, sdk)
}

/// An API server that can't be reached; its token is not even there.
fn nobody() -> Arc<ApiServer> {
    let url = Url::parse("https://127.0.0.1:1").unwrap();
    Arc::new(ApiServer { url, token_file: "/nowhere/token".into(), ca_file: "/nowhere/ca.crt".into() })
}

#[tokio::test]
async fn eks_names_the_issuer_and_its_public_keys_count() {
    let bench = Bench::new(Mode::Local, well, false).await;
    assert_eq!((bench.standing().await, bench.find("a").await), (Standing::Local, None));
    assert!(bench.context.readiness.pending().is_empty());
    let requests = bench.fake.requests();
    assert!(requests[0].starts_with("GET /clusters/demo ") && requests[0].contains("/eu-central-1/eks/aws4_request"));
    assert!(bench.counted("ok"));
    assert_eq!(bench.status()["issuers"][0]["issuer"], format!("http://{}", bench.fake.address));
    assert_eq!(bench.find("b").await, Some(Reason::UnknownKid));
}

#[tokio::test]
async fn an_api_server_that_can_not_be_reached_takes_nothing_away() {
    let bench = Bench::new(Mode::Local, well, true).await;
    assert_eq!((bench.standing().await, bench.find("a").await), (Standing::Local, None));
    assert!(bench.context.readiness.pending().is_empty());
    let status = bench.status();
    let keys = |source: usize| status["issuers"][0]["sources"][source]["keys"].clone();
    assert_eq!((keys(0), keys(1)), (json!(0), json!(1)), "{status}");
    assert_eq!(bench.find("b").await, Some(Reason::UnknownKid), "not unavailable");
}

#[tokio::test]
async fn a_search_in_vain_delegates_or_holds_readiness_up_as_the_mode_says() {
    for (mode, standing) in [(Mode::Auto, Standing::Delegated), (Mode::Local, Standing::Waiting)] {
        let bench = Bench::new(mode, || Some(fault(403, "AccessDeniedException")), true).await;
        let error = bench.error().await;
        assert!(error.contains("/nowhere/token") && error.contains("permission eks:DescribeCluster"), "{error}");
        assert!(!error.contains("upstream text"));
        assert_eq!(bench.keyring.keys().standing(), standing);
        assert_eq!(bench.context.readiness.pending().contains_key("keys"), mode == Mode::Local);
        assert!(bench.counted("misconfigured"));
    }
}

#[tokio::test]
async fn what_eks_answers_is_told_as_what_to_do() {
    for (answer, result, text) in [
        (fault(404, "ResourceNotFoundException"), "misconfigured", "no cluster demo: compare --cluster-name"),
        (fault(403, "UnrecognizedClientException"), "misconfigured", "UnrecognizedClientException, status 403, request r-1"),
        (fault(500, "ServerException"), "unavailable", "ServerException"),
        (fault(429, "TooManyRequestsException"), "throttled", "throttles"),
        (fault(400, "ThrottlingException"), "throttled", "throttles"),
        (Answer::http(200, "", r#"{"cluster":{"name":"demo"}}"#), "bug", "it names no OIDC issuer"),
        (Answer::Reset, "unavailable", "AWS is not available"),
    ] {
        let bench = Bench::new(
            Mode::Auto,
            {
                let answer = answer.clone();
                move || Some(answer.clone())
            },
            false,
        )
        .await;
        let error = bench.error().await;
        assert!(error.starts_with("eks:DescribeCluster: ") && error.contains(text), "{error}");
        assert!(bench.counted(result), "{answer:?}");
        assert_eq!(bench.access.budget.closed_for(), None, "what holds for this look-up is nothing to pods: {answer:?}");
    }
}

#[tokio::test]
async fn a_search_in_vain_is_logged_once_and_status_has_the_newest_error() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = Arc::new(log.reopen().unwrap());
    // While there are two subscribers, tracing asks both what they want; one alone is not asked on other tests' threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logged = tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(writer).finish());
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let another_request = move || {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(Answer::http(500, &format!("x-amzn-requestid: r-{call}\r\n"), "{}"))
    };
    let bench = Bench::new(Mode::Auto, another_request, false).await;
    bench.error_with("request r-0").await;
    bench.error_with("request r-1").await;
    let lines = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(lines.matches("the search for it goes on").count(), 1, "{lines}");
}

#[test]
fn each_place_is_asked_at_its_own_pace() {
    let now = Clock::System.now().mono;
    let wait = |place: &Place| {
        let mut attempts = Attempts { place, failures: 0, due: now, error: String::new() };
        (0..20).for_each(|_| attempts.failed("no".into(), now));
        attempts.due - now
    };
    assert!(wait(&Place::ApiServer(nobody())) <= LONGEST_BACKOFF);
    assert!(wait(&Place::Eks("demo".into())) >= LONGEST_BACKOFF_OF_EKS / 2);
}

#[tokio::test]
async fn the_search_goes_on_until_eks_answers() {
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let second_time = move || match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Some(fault(500, "ServerException")),
        _ => well(),
    };
    let bench = Bench::new(Mode::Local, second_time, false).await;
    assert_eq!(bench.standing().await, Standing::Local);
    assert_eq!(bench.context.tasks.ended(), Vec::<&str>::new());
    bench.context.tasks.shutdown();
    bench.context.tasks.drained().await;
}

#[tokio::test]
async fn nobody_is_asked_for_an_issuer_that_is_configured_or_not_wanted() {
    let issuer = || IssuerConfig { issuer: "A".into(), sources: Vec::new() };
    for config in [config(Mode::Delegated), Config { issuers: vec![issuer()], ..config(Mode::Auto) }] {
        let config = Config { cluster: Some("demo".into()), api_server: Some(nobody()), ..config };
        assert!(config.places().is_empty());
    }
}

#[tokio::test]
async fn eks_is_not_asked_for_what_another_agent_has_found() {
    let old = Bench::new(Mode::Auto, || None, false).await;
    assert_eq!(old.standing().await, Standing::Local);
    let parcel = old.keyring.export();

    let context = Context { duty: Duty::standby(), ..Context::new(Clock::System) };
    let keyring = Keyring::new(Mode::Auto, &context);
    let config = Config { cluster: Some("demo".into()), ..config(Mode::Auto) };
    keyring.start(&config, old.access.clone());
    tokio::task::yield_now().await;
    keyring.import(&parcel).unwrap();
    let deadline = old.deadline();
    assert_eq!(keyring.standing(deadline).await.unwrap(), Standing::Local);
    keyring.find("a", deadline).await.unwrap();
    assert!(old.counted("ok"), "one call for both");
}

#[tokio::test]
async fn an_agent_that_serves_waits_for_nobody() {
    let bench = Bench::new(Mode::Auto, || None, false).await;
    let begun = bench.context.clock.now().mono;
    bench.standing().await;
    assert!(bench.context.clock.now().mono - begun < PREDECESSOR);
}
