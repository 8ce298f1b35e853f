//! Tokens that are not what they should be, and what each is refused with: a table of RFC 7515, 7518, 7519 and 8725, through the
//! verifier alone and through the running agent. No row costs a call to AWS, and none makes anybody fetch anything.

mod forge;
mod table;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener};

use credlet::base::clock::Clock;
use credlet::domain::identity::RawToken;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::observe::Context;
use credlet::sim::keys::{Algorithm, Keys};
use credlet::sim::pod::NODE;
use credlet::sim::script::Operation;
use credlet::token::{Config, Keyring, Mode, Verifier};

use crate::harness::http;
use crate::vectors::forge::Forger;
use crate::vectors::table::{Vector, table};
use crate::world::{World, cloud};

/// The second issuer that is accepted.
const OTHER: &str = "https://oidc.other.example/id/B";

#[tokio::test]
async fn the_verifier_refuses_every_row_for_its_reason() {
    let (own, other) = (Keys::new("https://oidc.example/id/A", Algorithm::Es256, Clock::System), other_keys());
    let forger = Forger::new(&own, &other, "http://127.0.0.1:9");
    let verifier = verifier(&[("https://oidc.example/id/A", &own), (OTHER, &other)]);
    let verify = async |token: &str, source| verifier.verify(RawToken::new(token.as_bytes()), source, Clock::System.now()).await;
    for token in forger.good() {
        assert!(verify(&token, IpAddr::V4(Ipv4Addr::LOCALHOST)).await.is_ok(), "{token}");
    }
    for (number, Vector { rule, what, token, reason }) in (0..).zip(table(&forger)) {
        // A source each: none spends the budget of another.
        let refusal = verify(&token, IpAddr::V4(source(number))).await.expect_err(what);
        assert_eq!(refusal.reason.label(), reason, "{rule}: {what}");
        assert!(refusal.cause.is_ascii() && refusal.cause.len() < 120, "{what}: the cause quotes the token");
    }
}

#[tokio::test]
async fn the_agent_refuses_every_row_for_its_reason_and_calls_nobody() {
    let canary = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    canary.set_nonblocking(true).unwrap();
    let (cloud, other, folder) = (cloud().await, other_keys(), tempfile::tempdir().unwrap());
    let (own_keys, file) = (format!("{}={}", cloud.issuer(), cloud.jwks_url()), folder.path().join("keys.json"));
    std::fs::write(&file, other.jwks().to_string()).unwrap();
    let forger = Forger::new(cloud.keys(), &other, &format!("http://{}", canary.local_addr().unwrap()));
    let mut world = World::begin(cloud, |setup| setup.flag("issuer", format!("{own_keys},{OTHER}={}", file.display()))).await;
    world.agent.become_ready().await.unwrap();
    world.cloud.trust_issuer(OTHER, other.jwks().to_string().as_bytes()).unwrap();
    for token in forger.good() {
        assert_eq!(world.agent.ask(&token).await.unwrap().status, 200);
    }
    let before = world.cloud.calls().iter().filter(|call| call.operation != Operation::Jwks).count();
    for (number, Vector { rule, what, token, reason }) in (0..).zip(table(&forger)) {
        let counted = world.agent.refusals(reason).await.unwrap();
        let headers = [("authorization", &*token)];
        let answer = http::get_from(source(number), world.agent.address(), "/v1/credentials", &headers).await.unwrap();
        assert_eq!((answer.status, &*answer.code()), verdict(reason), "{rule}: {what}: {}", answer.body);
        assert_eq!(world.agent.refusals(reason).await.unwrap(), counted + 1, "{rule}: {what}");
    }
    let calls = world.cloud.calls();
    assert_eq!(calls.iter().filter(|call| call.operation != Operation::Jwks).count(), before, "a token was taken to AWS");
    assert_eq!(canary.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody followed a URL of a token");
}

/// What a pod is told.
fn verdict(reason: &str) -> (u16, &'static str) {
    match reason {
        "token_malformed" => (400, "InvalidRequest"),
        "wrong_node" => (403, "AccessDenied"),
        _ => (401, "InvalidToken"),
    }
}

fn source(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 0, 1 + high, low)
}

fn other_keys() -> Keys {
    Keys::new(OTHER, Algorithm::Es256, Clock::System)
}

fn verifier(issuers: &[(&str, &Keys)]) -> Verifier {
    let context = Context::new(Clock::System);
    let keyring = Keyring::new(Mode::Local, &context);
    for (issuer, keys) in issuers {
        keyring.add_fixed((*issuer).into(), keys.jwks().to_string().as_bytes()).unwrap();
    }
    let config = Config {
        audiences: vec![POD_IDENTITY_AUDIENCE.into(), "sts.amazonaws.com".into()],
        node_name: Some(NODE.to_owned()),
        mode: Mode::Local,
        issuers: Vec::new(),
        api_server: None,
        cluster: None,
        memo_capacity: 16,
    };
    Verifier::new(&config, keyring, context.clock, &context.metrics)
}
