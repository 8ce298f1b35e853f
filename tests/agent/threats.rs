//! The page of threats names tests that exist; and those threats whose tests belong to nobody else.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use serde_json::json;

use crate::harness::setup::Setup;
use crate::world::{World, pod};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each `file`, `name` of the page, written as `file::name` in backquotes.
fn named(page: &str) -> Vec<(&str, &str)> {
    page.split('`').skip(1).step_by(2).filter_map(|words| words.split_once(".rs::")).collect()
}

#[test]
fn every_test_that_the_table_names_exists() {
    let page = read("docs/threats.md");
    let tests = named(&page);
    assert!(tests.len() > 30, "{}", tests.len());
    let missing: Vec<_> = tests.iter().filter(|(file, name)| !is_test(&read(&format!("{file}.rs")), name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| threat"));
    for row in rows {
        assert!(!named(row).is_empty() || row.contains("nothing prevents it"), "a threat without a test: {row}");
    }
}

/// Whether the function of that name stands under a test's attribute.
fn is_test(source: &str, name: &str) -> bool {
    let function = source.split_once(&format!("fn {name}("));
    function.is_some_and(|(before, _)| before.rsplit("\n\n").next().is_some_and(|paragraph| paragraph.contains("test")))
}

#[test]
fn no_unsafe_code() {
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("unsafe_code = \"forbid\""), "which no attribute below can lift");
}

#[test]
fn the_least_version_of_rust_is_told() {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    for page in ["README.md", "SECURITY.md"] {
        assert!(read(page).contains(&format!("Rust {version} or newer")), "{page}");
    }
}

#[tokio::test]
async fn a_token_is_worth_nothing_at_another_node() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    let elsewhere = Setup::on_loopback(folder.path()).unwrap().of(&world.cloud).flag("node-name", "node-2");
    let elsewhere = elsewhere.start().await.unwrap();
    let token = world.token(&pod("app-0"));
    assert_eq!(world.agent.ask(&token).await.unwrap().status, 200);
    let answer = elsewhere.ask(&token).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"), "{}", answer.body);
    assert_eq!((elsewhere.refusals("wrong_node").await.unwrap(), world.exchanges()), (1, 1));
}

#[tokio::test]
async fn no_address_in_a_token_is_asked() {
    let (world, canary) = (World::start().await, TcpListener::bind("127.0.0.1:0").unwrap());
    canary.set_nonblocking(true).unwrap();
    let (url, keys) = (format!("http://{}/keys", canary.local_addr().unwrap()), world.cloud.keys());
    let mut claims = json!(keys.claims(&pod("app-0"), POD_IDENTITY_AUDIENCE, Duration::from_secs(3600)));
    let with = |name: &str| {
        let mut header = json!({ "alg": "ES256", "kid": keys.kid() });
        header[name] = json!(url);
        keys.sign(&header.to_string(), &claims.to_string())
    };
    let mut tokens = ["jku", "x5u", "jwk", "kid"].map(with).to_vec();
    claims["iss"] = json!(url);
    tokens.push(keys.sign(&keys.header(), &claims.to_string()));
    for token in &tokens {
        assert_eq!(world.agent.ask(token).await.unwrap().status, 401);
    }
    assert_eq!(canary.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody has connected");
    assert_eq!(world.exchanges(), 0);
}
