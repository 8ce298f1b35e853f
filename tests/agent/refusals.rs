//! Each way to be refused but for what is wrong with a token (`vectors`), through the real server: the status, the code, the reason
//! that is counted, and no call to AWS.

use std::net::Ipv4Addr;
use std::time::Duration;

use credlet::domain::policy::{POD_IDENTITY_AUDIENCE, WEB_IDENTITY_AUDIENCE};
use credlet::sim::script::{Behaviour, Operation};
use serde_json::json;

use crate::harness::http::{self, Answer};
use crate::laboratory::Laboratory;
use crate::world::{TOKEN_LIFE, World, cloud, pod};

const HOUR: Duration = Duration::from_secs(3600);

/// A request, and what it is refused with.
struct Row {
    path: String,
    headers: Vec<(String, String)>,
    expected: (u16, &'static str, &'static str),
}

impl Row {
    fn new(path: &str, headers: &[(&str, &str)], expected: (u16, &'static str, &'static str)) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { path: path.to_owned(), headers: headers.collect(), expected }
    }

    fn token(token: &str, expected: (u16, &'static str, &'static str)) -> Self {
        Self::new("/v1/credentials", &[("authorization", token)], expected)
    }
}

#[tokio::test]
async fn every_row_of_the_table() {
    let world = World::start().await;
    assert_eq!(world.agent.ask(&world.token(&pod("app-0"))).await.unwrap().status, 200);
    for (number, row) in (1..).zip(of_request(&world)) {
        let Row { path, headers, expected: (status, code, reason) } = row;
        let before = world.agent.refusals(reason).await.unwrap();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        // A source each: none spends the budget of another.
        let source = Ipv4Addr::new(127, 0, 1, number);
        let answer = http::get_from(source, world.agent.address(), &path, &headers).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{reason}, row {number}: {}", answer.body);
        is_error_document(&answer);
        assert_eq!(world.agent.refusals(reason).await.unwrap(), before + 1, "{reason}, row {number}");
    }
    assert_eq!(world.exchanges(), 1, "nothing that is refused here reaches AWS");
}

fn is_error_document(answer: &Answer) {
    assert_eq!(answer.header("content-type"), "application/json");
    let document = answer.json();
    assert_eq!((&document["code"], &document["message"]), (&document["Code"], &document["Message"]));
    assert!(document["message"].as_str().is_some_and(|message| !message.is_empty() && !message.contains('\n')));
    assert_eq!(answer.status == 503, !answer.header("retry-after").is_empty(), "{answer:?}");
}

/// Steps 2 to 5, and 18. What is wrong with the token itself is in `vectors`.
fn of_request(world: &World) -> Vec<Row> {
    const PATH: &str = "/v1/credentials";
    let good = world.token(&pod("app-0"));
    let auth = ("authorization", good.as_str());
    let long = "a".repeat(16_385);
    let without_role = world.cloud.keys().token(&pod("app-0"), WEB_IDENTITY_AUDIENCE, HOUR);
    let mut rows = vec![
        Row::new("/", &[auth], (404, "NotFound", "path")),
        Row::new("/v1/credentials/a/b", &[auth], (404, "NotFound", "path")),
        Row::new("/v1/self/0123456789abcdef0123456789abcdef", &[], (404, "NotFound", "path")),
        Row::new(PATH, &[], (400, "InvalidRequest", "token_missing")),
        Row::new(PATH, &[auth, auth], (400, "InvalidRequest", "token_missing")),
        Row::token("short", (400, "InvalidRequest", "token_malformed")),
        Row::token("Basic dXNlcjpwYXNzd29yZHBhc3N3b3Jk", (400, "InvalidRequest", "token_malformed")),
        Row::token(&long, (431, "InvalidRequest", "token_too_large")),
        Row::new("/v1/credentials/target-env", &[auth], (403, "AccessDenied", "no_target")),
        Row::token(&without_role, (403, "AccessDenied", "no_role")),
    ];
    for host in ["evil.example", "127.0.0.1:1", "127.0.0.1.nip.io", "[::1]"] {
        rows.push(Row::new(PATH, &[("host", host), auth], (403, "AccessDenied", "host")));
    }
    for name in ["x-forwarded-for", "x-forwarded-host", "forwarded", "via", "x-real-ip"] {
        rows.push(Row::new(PATH, &[(name, "10.0.0.1"), auth], (403, "AccessDenied", "proxied")));
    }
    for name in ["origin", "sec-fetch-site", "sec-fetch-mode"] {
        rows.push(Row::new(PATH, &[(name, "x"), auth], (403, "AccessDenied", "browser")));
    }
    rows
}

#[tokio::test]
async fn a_known_token_expires_too() {
    let laboratory = Laboratory::start(&[]).await;
    let token = laboratory.cloud.keys().token(&pod("app-0"), POD_IDENTITY_AUDIENCE, HOUR);
    assert_eq!(laboratory.ask(&token).await.status, 200);
    laboratory.pass(HOUR - Duration::from_secs(5)).await;
    assert_eq!(laboratory.ask(&token).await.status, 200);
    laboratory.pass(Duration::from_secs(6)).await;
    let answer = laboratory.ask(&token).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "InvalidToken"));
    assert!(laboratory.shows(r#"credlet_refusals_total{reason="expired"} 1"#));
}

#[tokio::test]
async fn one_pod_is_limited_and_not_its_neighbour() {
    let world = World::with(|setup| setup.flag("pod-rate", "0.01")).await;
    let token = world.token(&pod("app-0"));
    assert_eq!(world.agent.ask(&token).await.unwrap().status, 200, "the slowest rate lets one through");
    let answer = world.agent.ask(&token).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (503, "ServiceUnavailable"), "and the next in 100 s");
    is_error_document(&answer);
    assert_eq!(world.agent.refusals("pod_rate").await.unwrap(), 1);

    let world = World::with(|setup| setup.flag("pod-rate", "1")).await;
    let (noisy, quiet) = (world.token(&pod("app-0")), world.token(&pod("app-1")));
    for _ in 0..20 {
        world.agent.ask(&noisy).await.unwrap();
    }
    assert!(world.agent.refusals("pod_rate").await.unwrap() >= 15);
    assert_eq!(world.agent.ask(&quiet).await.unwrap().status, 200);
}

#[tokio::test]
async fn failed_verifications_are_charged_to_their_source_only() {
    let world = World::start().await;
    let forged = |number: u64| {
        let claims = json!({ "iss": number }).to_string();
        world.cloud.keys().sign(&world.cloud.keys().header(), &claims)
    };
    let [noisy, quiet] = [2, 3].map(|last| Ipv4Addr::new(127, 0, 2, last));
    let ask = async |source, token: &str| {
        http::get_from(source, world.agent.address(), "/v1/credentials", &[("authorization", token)]).await.unwrap()
    };
    let mut last = ask(noisy, &forged(0)).await;
    for number in 1..200 {
        last = ask(noisy, &forged(number)).await;
    }
    is_error_document(&last);
    assert!(world.agent.refusals("verify_budget").await.unwrap() > 100);
    assert!(world.agent.sample("credlet_sheds_total{limit=\"verification\"}").await.unwrap() > 100);
    let good = world.token(&pod("app-0"));
    assert_eq!(ask(quiet, &good).await.status, 200);
    assert_eq!(ask(noisy, &good).await.status, 200, "what is known is served to whoever shares the address");
}

#[tokio::test]
async fn without_keys_a_token_is_neither_accepted_nor_refused() {
    let cloud = cloud().await;
    cloud.script().always(Operation::Jwks, Behaviour::Hang);
    let mut world = World::begin(cloud, |setup| setup.flag("token-verification", "local")).await;
    world.agent.pending("keys").await.unwrap();
    let token = world.cloud.keys().token(&pod("app-0"), POD_IDENTITY_AUDIENCE, TOKEN_LIFE);
    let answer = world.agent.ask(&token).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (503, "ServiceUnavailable"));
    is_error_document(&answer);
    assert_eq!(world.agent.refusals("keys_unavailable").await.unwrap(), 1);
    assert_eq!(world.exchanges(), 0);
}
