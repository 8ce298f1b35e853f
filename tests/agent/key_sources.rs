//! Where the issuer's keys come from: bad answers, rotation, and the API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use credlet::base::clock::{Clock, Now};
use credlet::domain::identity::RawToken;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::domain::refusal::Reason;
use credlet::egress::aws::{Aws, Source};
use credlet::egress::https::Https;
use credlet::limits::upstream::{self, UpstreamBudget};
use credlet::observe::Context;
use credlet::sim::cloud::{self, Cloud};
use credlet::sim::fault::Fault;
use credlet::sim::keys::Algorithm;
use credlet::sim::script::{Behaviour, Operation};
use credlet::token::{Access, ApiServer, Config, IssuerConfig, KeySource, Mode, Verifier};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::flood::flood;
use crate::harness::relay::{Authority, Relay};
use crate::laboratory::{Laboratory, clock};
use crate::world::{config, pod, token, within};

const MINUTE: Duration = Duration::from_secs(60);
/// The longest time between polls at the simulated issuer's `max-age` of an hour.
const POLL: Duration = Duration::from_secs(3600);

async fn cloud_of(clock: &Clock) -> Cloud {
    Cloud::start(cloud::Config { clock: clock.clone(), ..config() }).await.unwrap()
}

fn body(content_type: &'static str, text: impl Into<bytes::Bytes>) -> Behaviour {
    Behaviour::Body { status: 200, content_type, bytes: text.into() }
}

fn bad_answers() -> Vec<Behaviour> {
    let json = "application/json";
    let weak = json!({ "keys": [
        { "kty": "RSA", "kid": "small", "n": "AQAB", "e": "AQAB" },
        { "kty": "oct", "kid": "shared", "k": "c2VjcmV0" },
        { "kty": "EC", "kid": "off-curve", "crv": "P-256", "x": "AQ", "y": "AQ" },
    ]});
    vec![
        Fault::new(500, "x", "down").into(),
        Fault::new(404, "x", "gone").into(),
        Behaviour::Body { status: 302, content_type: "text/html", bytes: "<html>".into() },
        body("text/html", "<html>captive portal</html>"),
        body(json, vec![b' '; 10 * 1024 * 1024]),
        body(json, ""),
        body(json, "{}"),
        body(json, r#"{"keys":[]}"#),
        body(json, weak.to_string()),
        Behaviour::HalfBody,
        Behaviour::Reset,
    ]
}

#[tokio::test]
async fn no_bad_answer_is_taken_for_keys_and_a_good_one_mends_it() {
    for bad in bad_answers() {
        let clock = clock();
        let cloud = cloud_of(&clock).await;
        cloud.script().always(Operation::Jwks, bad.clone());
        let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
        let laboratory = Laboratory::with(clock, cloud, &[&issuer, "--token-verification=local"]);
        let answer = laboratory.ask_for(&pod("app-0")).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "ServiceUnavailable"), "{bad:?}: {}", answer.body);
        assert!(laboratory.shows(r#"credlet_refusals_total{reason="keys_unavailable"} 1"#), "{bad:?}");
        assert!(laboratory.context.readiness.pending().contains_key("keys"), "{bad:?}");

        laboratory.cloud.script().clear();
        laboratory.pass(MINUTE).await;
        laboratory.become_ready().await;
        assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200, "{bad:?}");
        assert!(laboratory.context.tasks.ended().is_empty(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_source_that_goes_bad_takes_no_keys_away_for_a_day() {
    let laboratory = Laboratory::start(&[]).await;
    for (day, bad) in bad_answers().into_iter().enumerate().take(6) {
        laboratory.cloud.script().always(Operation::Jwks, bad);
        laboratory.pass(POLL + MINUTE).await;
        let seen = laboratory.cloud.count(Operation::Jwks);
        laboratory.wait_for(|laboratory| laboratory.cloud.count(Operation::Jwks) >= seen).await;
        assert_eq!(laboratory.ask_for(&pod(&format!("app-{day}"))).await.status, 200);
    }
}

/// A key set that trickles in a byte each tenth of a second until `well`.
async fn trickling(keys: String, well: watch::Receiver<bool>) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // What is left unread would reset the connection, and with it what was sent.
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", keys.len());
            let _ = stream.write_all(head.as_bytes()).await;
            for byte in keys.as_bytes() {
                if !*well.borrow() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        }
    };
    (address, AbortOnDropHandle::new(tokio::spawn(server)))
}

#[tokio::test]
async fn a_source_that_trickles_is_given_up_and_tried_again() {
    let clock = clock();
    let cloud = cloud_of(&clock).await;
    let (mend, well) = watch::channel(false);
    let (address, _server) = trickling(cloud.keys().jwks().to_string(), well).await;
    let issuer = format!("--issuer={}=http://{address}/keys", cloud.issuer());
    let laboratory = Laboratory::with(clock, cloud, &[&issuer, "--token-verification=local"]);
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 503);
    laboratory.pass(Duration::from_secs(5)).await;
    let failed = r#"credlet_upstream_requests_total{operation="jwks",result="unavailable"} 1"#;
    laboratory.wait_for(|laboratory| laboratory.shows(failed)).await;
    mend.send(true).unwrap();
    laboratory.pass(MINUTE).await;
    laboratory.become_ready().await;
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200);
}

#[tokio::test]
async fn a_kid_that_comes_twice_counts_for_nothing() {
    let clock = clock();
    let cloud = cloud_of(&clock).await;
    let doubled = cloud.keys().kid();
    cloud.keys().rotate(Algorithm::Es384);
    cloud.keys().publish(&doubled);
    let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
    let laboratory = Laboratory::with(clock, cloud, &[&issuer]);
    laboratory.become_ready().await;
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200, "the other key is good");
    laboratory.cloud.keys().sign_with(&doubled);
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 401);
    assert!(laboratory.shows(r#"credlet_refusals_total{reason="unknown_kid"} 1"#));
}

#[tokio::test]
async fn nobody_notices_a_rotation_that_was_published_before() {
    let laboratory = Laboratory::start(&[]).await;
    let (keys, pod) = (laboratory.cloud.keys(), pod("app-0"));
    let (old, new) = (keys.kid(), keys.generate(Algorithm::Rs256));
    keys.publish(&new);
    laboratory.pass(POLL + MINUTE).await;
    laboratory.wait_for(|laboratory| laboratory.cloud.count(Operation::Jwks) == 2).await;
    let of_old = token(&laboratory.cloud, &pod);
    keys.sign_with(&new);
    for token in [&token(&laboratory.cloud, &pod), &of_old] {
        assert_eq!(laboratory.ask(token).await.status, 200);
    }
    assert_eq!((laboratory.cloud.count(Operation::Jwks), laboratory.exchanges()), (2, 1), "no key was searched for");

    keys.unpublish(&old);
    laboratory.pass(POLL + MINUTE).await;
    laboratory.wait_for(|laboratory| laboratory.cloud.count(Operation::Jwks) == 3).await;
    let refused = async { while laboratory.ask(&of_old).await.status != 401 {} };
    within(Duration::from_secs(5), refused).await;
    assert_eq!(laboratory.ask_for(&pod).await.status, 200);
}

#[tokio::test]
async fn a_surprise_key_costs_one_fetch_and_no_failure() {
    let laboratory = Laboratory::start(&[]).await;
    laboratory.pass(Duration::from_secs(31)).await;
    laboratory.cloud.keys().rotate(Algorithm::Es256);
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200);
    assert_eq!(laboratory.cloud.count(Operation::Jwks), 2);
}

#[tokio::test]
async fn a_storm_of_unknown_kids_is_one_fetch_in_half_a_minute() {
    let laboratory = Laboratory::start(&[]).await;
    laboratory.pass(Duration::from_secs(31)).await;
    let keys = laboratory.cloud.keys();
    let payload = json!(keys.claims(&pod("app-0"), POD_IDENTITY_AUDIENCE, POLL)).to_string();
    let made_up = |number: u32| keys.sign(&json!({ "alg": "ES256", "kid": format!("k{number}") }).to_string(), &payload);
    for connection in 0..50_u8 {
        let first = u32::from(connection) * 200;
        let tokens: Vec<String> = (first..first + 200).map(made_up).collect();
        let source = Ipv4Addr::new(127, 0, 5, connection + 1);
        let statuses = flood(source, laboratory.app.addresses()[0], tokens.into_iter()).await;
        assert!(statuses.len() == 200 && statuses.iter().all(|status| [401, 503].contains(status)));
    }
    assert_eq!((laboratory.cloud.count(Operation::Jwks), laboratory.exchanges()), (2, 0));
    // So many sources have spent the whole node's budget, which is back in two seconds.
    laboratory.pass(Duration::from_secs(2)).await;
    assert_eq!(laboratory.ask_for(&pod("app-0")).await.status, 200);
}

/// A verifier whose only source is an API server behind `front`.
struct ViaApiServer {
    clock: Clock,
    cloud: Cloud,
    front: Relay,
    folder: tempfile::TempDir,
    verifier: Verifier,
}

impl ViaApiServer {
    /// It trusts `trusted`, and the server is of `authority`. Without `issuers` it searches for one.
    async fn start(
        authority: &Authority,
        trusted: &Authority,
        issuers: impl Fn(&Cloud, &Arc<ApiServer>) -> Vec<IssuerConfig>,
    ) -> Self {
        let (clock, folder) = (clock(), tempfile::tempdir().unwrap());
        let cloud = cloud_of(&clock).await;
        let target = cloud.issuer().trim_start_matches("http://").parse().unwrap();
        let front = Relay::tls(authority, IpAddr::V4(Ipv4Addr::LOCALHOST), target).await.unwrap();
        let [token_file, ca_file] = ["token", "ca.crt"].map(|name| folder.path().join(name));
        std::fs::write(&token_file, "first-token").unwrap();
        std::fs::copy(trusted.bundle().unwrap().path(), &ca_file).unwrap();
        let url = Url::parse(&format!("https://{}", front.address)).unwrap();
        let server = Arc::new(ApiServer { url, token_file, ca_file });
        let context = Context::new(clock.clone());
        let config = Config {
            audiences: vec![POD_IDENTITY_AUDIENCE.into()],
            node_name: None,
            mode: Mode::Local,
            issuers: issuers(&cloud, &server),
            api_server: Some(server),
            cluster: None,
            memo_capacity: 16,
        };
        let verifier = Verifier::start(&config, access(&context), &context);
        Self { clock, cloud, front, folder, verifier }
    }

    async fn verify(&self) -> Result<(), Reason> {
        let now = self.clock.now();
        // A slow machine's keys may take longer than a client has patience.
        let asked = Now { mono: now.mono + Duration::from_secs(5), ..now };
        let token = token(&self.cloud, &pod("app-0"));
        let token = RawToken::new(token.as_bytes());
        let proof = self.verifier.verify(token, IpAddr::V4(Ipv4Addr::LOCALHOST), asked).await;
        proof.map(|_| ()).map_err(|refusal| refusal.reason)
    }
}

/// Of AWS nothing is asked.
fn access(context: &Context) -> Access {
    let http = Https::new(&|_| None).unwrap();
    let aws = Arc::new(Aws::new(http.clone(), Source::Standard, context));
    Access { http, aws, budget: UpstreamBudget::new(upstream::Config { per_second: 5.0 }, context.clone()) }
}

fn known(cloud: &Cloud, server: &Arc<ApiServer>) -> Vec<IssuerConfig> {
    vec![IssuerConfig { issuer: cloud.issuer().into(), sources: vec![KeySource::ApiServer(Arc::clone(server))] }]
}

fn discovered(issuer: &str) -> Vec<IssuerConfig> {
    vec![IssuerConfig { issuer: issuer.into(), sources: vec![KeySource::Discovery] }]
}

#[tokio::test]
async fn the_api_server_adds_its_keys_to_the_issuer_that_it_names() {
    let authority = Authority::new().unwrap();
    let server = ViaApiServer::start(&authority, &authority, |cloud, _| discovered(cloud.issuer())).await;
    assert_eq!(server.verify().await, Ok(()));
    let keys = |source: usize| json!(server.verifier.status())["issuers"][0]["sources"][source]["keys"] == 1;
    within(Duration::from_secs(5), async {
        while !(keys(0) && keys(1)) {
            tokio::task::yield_now().await
        }
    })
    .await;
}

#[tokio::test]
async fn the_api_server_adds_nothing_to_an_issuer_that_it_does_not_name() {
    let authority = Authority::new().unwrap();
    let server = ViaApiServer::start(&authority, &authority, |_, _| discovered("http://127.0.0.1:1")).await;
    assert_eq!(server.verify().await, Err(Reason::KeysUnavailable));
    let status = json!(server.verifier.status());
    let api_server = &status["issuers"][0]["sources"][1];
    assert!(
        api_server["keys"] == 0 && api_server["error"].as_str().is_some_and(|error| error.contains("another issuer")),
        "{status}"
    );
    assert!(server.front.heads().iter().all(|head| head.to_ascii_lowercase().starts_with("get /.well-known/")));
}

#[tokio::test]
async fn the_api_server_is_asked_with_the_token_of_the_moment() {
    let authority = Authority::new().unwrap();
    let server = ViaApiServer::start(&authority, &authority, known).await;
    assert_eq!(server.verify().await, Ok(()));
    let asked = |number: usize| server.front.heads().get(number).cloned().unwrap_or_default().to_ascii_lowercase();
    assert!(asked(1).starts_with("get /openid/v1/jwks ") && asked(1).contains("authorization: bearer first-token\r\n"));
    std::fs::write(server.folder.path().join("token"), "second-token\n").unwrap();
    tokio::time::pause();
    tokio::time::advance(POLL + MINUTE).await;
    tokio::time::resume();
    within(Duration::from_secs(10), server.cloud.reached(Operation::Jwks, 2)).await;
    assert!(asked(3).contains("authorization: bearer second-token\r\n"), "{}", asked(3));
}

#[tokio::test]
async fn an_api_server_of_another_authority_is_told_nothing() {
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = ViaApiServer::start(&authority, &other, known).await;
    assert_eq!(server.verify().await, Err(Reason::KeysUnavailable));
    assert!(server.front.heads().is_empty());
    let status = json!(server.verifier.status());
    assert!(status["issuers"][0]["error"].as_str().is_some_and(|error| error.contains("certificate")), "{status}");
}

#[tokio::test]
async fn the_api_server_names_the_issuer() {
    let authority = Authority::new().unwrap();
    let server = ViaApiServer::start(&authority, &authority, |_, _| Vec::new()).await;
    assert_eq!(server.verify().await, Ok(()));
    let status = json!(server.verifier.status());
    assert_eq!(status["issuers"][0]["issuer"], server.cloud.issuer());
    assert_eq!(status["issuers"][0]["sources"].as_array().unwrap().len(), 2, "it, and the public document: {status}");
}
