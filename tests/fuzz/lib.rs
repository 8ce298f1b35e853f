//! What the targets share: an issuer with one key, a good token of it, and a moment at which the world stands.
//!
//! Each input begins in a world of its own, so that what it does depends on nothing that came before it. No target is content
//! with "it does not panic": each holds what the agent made of the input against a reading of its own.

pub mod mint;

use std::sync::LazyLock;

use credlet::base::clock::{Clock, from_unix_seconds};
use credlet::observe::Context;
use credlet::sim::keys::{Algorithm, Keys};
use credlet::token::{Config, Keyring, Mode, Verifier};
use serde_json::{Value, json};

/// The issuer that is configured.
pub const ISSUER: &str = "https://oidc.example/id/A";
/// The audience that is configured.
pub const AUDIENCE: &str = "pods.eks.amazonaws.com";
/// This node.
pub const NODE: &str = "node-1";
/// What the issuer calls its key.
pub const KID: &str = "k";
/// When the good token was issued, Unix seconds; the world stands 10 s later.
pub const ISSUED_AT: i64 = 1_800_000_000;
/// The moment of every input.
pub const NOW: i64 = ISSUED_AT + 10;

/// The header of good tokens.
const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;
/// The claims of the good token.
const PAYLOAD: &str = concat!(
    r#"{"aud":["pods.eks.amazonaws.com"],"exp":1800086400,"iat":1800000000,"iss":"https://oidc.example/id/A","jti":"d1c5","#,
    r#""kubernetes.io":{"namespace":"default","node":{"name":"node-1","uid":"n-1"},"pod":{"name":"app-0","uid":"p-1"},"#,
    r#""serviceaccount":{"name":"app","uid":"s-1"}},"nbf":1800000000,"sub":"system:serviceaccount:default:app"}"#,
);

/// The issuer's keys.
pub static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(ISSUER, Algorithm::Es256, Clock::System));
/// A token that is good at [`NOW`].
pub static GOOD: LazyLock<String> = LazyLock::new(|| KEYS.sign(HEADER, PAYLOAD));

/// Does `work` in a new world, whose time passes only while nobody can do anything but wait.
pub fn run<T>(work: impl AsyncFnOnce(Context) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let clock = Clock::simulated(from_unix_seconds(NOW).expect("a time after 1970"));
        work(Context::new(clock)).await
    })
}

/// The issuer's public key, as [`KID`].
pub fn public_key() -> Value {
    let mut key = KEYS.jwks()["keys"][0].take();
    key["kid"] = json!(KID);
    key
}

/// The key set of the issuer.
pub fn key_set() -> Vec<u8> {
    json!({ "keys": [public_key()] }).to_string().into_bytes()
}

/// The agent's verifier with the keys of `document` for [`ISSUER`], or why it takes none from there.
pub fn verifier(document: &[u8], context: &Context) -> Result<Verifier, String> {
    let keyring = Keyring::new(Mode::Local, context);
    keyring.add_fixed(ISSUER.into(), document)?;
    let config = Config {
        audiences: vec![AUDIENCE.into()],
        node_name: Some(NODE.to_owned()),
        mode: Mode::Local,
        issuers: Vec::new(),
        api_server: None,
        cluster: None,
        memo_capacity: 4,
    };
    Ok(Verifier::new(&config, keyring, context.clock.clone(), &context.metrics))
}
