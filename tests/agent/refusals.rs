//! Each way to be refused, through the real server: the status, the code, the reason that is counted, and no call to AWS.

use std::net::Ipv4Addr;
use std::time::Duration;

use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::keys::Algorithm;
use credlet::sim::script::{Behaviour, Operation};
use serde_json::{Value, json};

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
    let rows = [of_request(&world), of_token(&world), of_claims(&world)].into_iter().flatten();
    let with_node = world.token(&pod("app-0"));
    assert_eq!(world.agent.ask(&with_node).await.unwrap().status, 200);
    for (number, row) in (1..).zip(rows) {
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

/// Steps 2 to 5, and 18.
fn of_request(world: &World) -> Vec<Row> {
    const PATH: &str = "/v1/credentials";
    let good = world.token(&pod("app-0"));
    let auth = ("authorization", good.as_str());
    let long = "a".repeat(16_385);
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

/// Steps 8 to 11: the token as a JWS.
fn of_token(world: &World) -> Vec<Row> {
    let keys = world.cloud.keys();
    let (good, claims) = (world.token(&pod("app-0")), json!(keys.claims(&pod("app-0"), POD_IDENTITY_AUDIENCE, HOUR)).to_string());
    let signed = |header: Value| keys.sign(&header.to_string(), &claims);
    let (kid, other) = (keys.kid(), keys.generate(Algorithm::Es256));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let altered = format!("{}{}", if signature.starts_with('A') { "B" } else { "A" }, &signature[1..]);
    let mut rows = vec![
        Row::token(message, (400, "InvalidRequest", "token_malformed")),
        Row::token(&format!("{good}.x"), (400, "InvalidRequest", "token_malformed")),
        Row::token(&format!("{message}."), (400, "InvalidRequest", "token_malformed")),
        Row::token(&signed(json!({ "alg": "ES256" })), (401, "InvalidToken", "header")),
        Row::token(&signed(json!(["ES256", kid])), (401, "InvalidToken", "header")),
        Row::token(
            &keys.sign(&format!(r#"{{"alg":"ES256","alg":"none","kid":"{kid}"}}"#), &claims),
            (401, "InvalidToken", "header"),
        ),
        Row::token(&signed(json!({ "alg": "ES256", "kid": other })), (401, "InvalidToken", "unknown_kid")),
        Row::token(&signed(json!({ "alg": "ES256", "kid": "../../etc/passwd" })), (401, "InvalidToken", "unknown_kid")),
        Row::token(&format!("{message}.{altered}"), (401, "InvalidToken", "signature")),
    ];
    for alg in ["none", "HS256", "RS512", "PS256", "EdDSA", "RS256"] {
        rows.push(Row::token(&signed(json!({ "alg": alg, "kid": kid })), (401, "InvalidToken", "alg")));
    }
    for name in ["jku", "x5u", "jwk", "x5c", "crit", "b64"] {
        let header = json!({ "alg": "ES256", "kid": kid, name: "https://evil.example/keys" });
        rows.push(Row::token(&signed(header), (401, "InvalidToken", "header")));
    }
    rows
}

/// Steps 12 to 14, and 18: well signed, wrongly claimed.
fn of_claims(world: &World) -> Vec<Row> {
    const INVALID: &str = "InvalidToken";
    let keys = world.cloud.keys();
    let claims = json!(keys.claims(&pod("app-0"), POD_IDENTITY_AUDIENCE, HOUR));
    let now = claims["iat"].as_i64().unwrap();
    let with = |changes: &[(&str, Value)]| {
        let mut claims = claims.clone();
        for (pointer, value) in changes {
            *claims.pointer_mut(pointer).unwrap() = value.clone();
        }
        keys.sign(&keys.header(), &claims.to_string())
    };
    let without = |parent: &str, name: &str| {
        let mut claims = claims.clone();
        claims.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        keys.sign(&keys.header(), &claims.to_string())
    };
    let mut nodeless = claims.clone();
    nodeless["kubernetes.io"].as_object_mut().unwrap().remove("node");
    nodeless["iat"] = json!(now + 30);
    let nodeless = keys.sign(&keys.header(), &nodeless.to_string());
    let row = |token: String, status, code, reason| Row::token(&token, (status, code, reason));
    vec![
        row(keys.sign(&keys.header(), "[]"), 401, INVALID, "claims"),
        row(without("", "exp"), 401, INVALID, "claims"),
        row(with(&[("/exp", json!(format!("{}", now + 60)))]), 401, INVALID, "claims"),
        row(with(&[("/exp", json!(9e20))]), 401, INVALID, "claims"),
        row(with(&[("/nbf", json!(1.5))]), 401, INVALID, "claims"),
        row(keys.sign(&keys.header(), &claims.to_string().replacen('{', r#"{"exp":1,"#, 1)), 401, INVALID, "claims"),
        row(with(&[("/iss", json!("https://elsewhere.example"))]), 401, INVALID, "issuer"),
        row(with(&[("/aud", json!(["https://kubernetes.default.svc"]))]), 401, INVALID, "audience"),
        row(with(&[("/aud", json!([POD_IDENTITY_AUDIENCE, "sts.amazonaws.com"]))]), 401, INVALID, "audience"),
        row(with(&[("/aud", json!([POD_IDENTITY_AUDIENCE, "x"]))]), 401, INVALID, "audience"),
        row(with(&[("/aud", json!([]))]), 401, INVALID, "audience"),
        row(with(&[("/nbf", json!(now + 90))]), 401, INVALID, "not_yet_valid"),
        row(with(&[("/iat", json!(now + 90))]), 401, INVALID, "not_yet_valid"),
        row(with(&[("/iat", json!(now - 3600)), ("/exp", json!(now - 1))]), 401, INVALID, "expired"),
        row(with(&[("/exp", json!(now + 50 * 3600))]), 401, INVALID, "lifetime"),
        row(with(&[("/sub", json!("system:serviceaccount:default:admin"))]), 401, INVALID, "subject"),
        row(with(&[("/kubernetes.io/namespace", json!("kube-system"))]), 401, INVALID, "subject"),
        row(with(&[("/kubernetes.io/pod/name", json!("A/../b"))]), 401, INVALID, "subject"),
        row(without("/kubernetes.io", "pod"), 401, INVALID, "not_pod_bound"),
        row(without("", "kubernetes.io"), 401, INVALID, "not_pod_bound"),
        row(with(&[("/kubernetes.io/node/name", json!("node-2"))]), 403, "AccessDenied", "wrong_node"),
        row(nodeless, 403, "AccessDenied", "wrong_node"),
        row(with(&[("/aud", json!(["sts.amazonaws.com"]))]), 403, "AccessDenied", "no_role"),
    ]
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
