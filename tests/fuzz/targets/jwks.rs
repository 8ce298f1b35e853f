//! Whatever a key source answers: what is taken from it is within bounds, sound and unambiguous, and a token of the issuer's key is
//! good only if that very key is in there for that use.
//!
//! `@X@` and `@Y@` stand for the coordinates of the issuer's key, which nobody knows beforehand.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use credlet::domain::identity::RawToken;
use credlet_fuzz::{GOOD, KID, public_key, run, verifier};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const BYTES: usize = 256 * 1024;
const KEYS: usize = 64;
const KID_BYTES: usize = 1_024;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return assert!(taken(input).is_none(), "it is no text") };
    let key = public_key();
    let coordinate = |name: &str| key[name].as_str().expect("a coordinate").to_owned();
    let document = text.replace("@X@", &coordinate("x")).replace("@Y@", &coordinate("y"));
    let Some((kids, accepts)) = taken(document.as_bytes()) else { return };
    let document_value: Value = serde_json::from_str(&document).expect("a key set is JSON");
    let keys = document_value["keys"].as_array().expect("and has a list of keys");
    assert!(document.len() <= BYTES && keys.len() <= KEYS && (1..=KEYS).contains(&kids.len()));
    for kid in &kids {
        assert!((1..=KID_BYTES).contains(&kid.len()));
        is_sound(only(keys, kid).expect("one key of that name"));
    }
    let ours = only(keys, KID).filter(|found| ["kty", "crv", "x", "y"].iter().all(|name| found[name] == key[name]));
    assert_eq!(accepts, ours.is_some_and(is_for_signing), "{document}");
});

/// The names of the keys that are taken, if any is, and whether they accept the good token.
fn taken(document: &[u8]) -> Option<(Vec<String>, bool)> {
    run(async |context| {
        let verifier = verifier(document, &context).inspect_err(|error| assert!(error.len() < 80, "{error}")).ok()?;
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let accepts = verifier.verify(RawToken::new(GOOD.as_bytes()), source, context.clock.now()).await.is_ok();
        let status = verifier.status();
        Some((status.issuers.into_iter().flat_map(|issuer| issuer.kids).collect(), accepts))
    })
}

fn only<'a>(keys: &'a [Value], kid: &str) -> Option<&'a Value> {
    let mut named = keys.iter().filter(|key| key["kid"] == kid);
    named.next().filter(|_| named.next().is_none())
}

/// A key that some token could be signed with; that its numbers are those of a key has been checked by whoever took it.
fn is_sound(key: &Value) {
    let algorithm = match (key["kty"].as_str(), key["crv"].as_str()) {
        (Some("RSA"), _) => "RS256",
        (Some("EC"), Some("P-256")) => "ES256",
        (Some("EC"), Some("P-384")) => "ES384",
        _ => panic!("{key}"),
    };
    assert!(key["alg"].is_null() || key["alg"] == algorithm, "{key}");
    assert!(key["use"].is_null() || key["use"] == "sig", "{key}");
    // Base64 has four characters for three bytes, and the least modulus has 2,048 bits.
    assert!(algorithm != "RS256" || key["n"].as_str().is_some_and(|n| n.len() >= 2_048 / 8 * 4 / 3), "{key}");
}

fn is_for_signing(key: &Value) -> bool {
    (key["alg"].is_null() || key["alg"] == "ES256") && (key["use"].is_null() || key["use"] == "sig")
}
