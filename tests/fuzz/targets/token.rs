//! Whatever comes as a token: a caller comes of it only if the issuer has signed just that, and is the one whom it names.
//!
//! The first byte says what the rest is: `S` a header and, after a line feed, claims, which the issuer signs whatever they say; `E`
//! changes of the good token, three bytes each (place, place, byte); anything else, a token as it stands.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use credlet::domain::identity::RawToken;
use credlet::domain::refusal::{Reason, Refusal};
use credlet::token::Caller;
use credlet_fuzz::{AUDIENCE, GOOD, ISSUER, KEYS, KID, NODE, NOW, key_set, run, verifier};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What the clocks of issuer and node may differ by, and the longest life of a token, seconds.
const LEEWAY: i64 = 60;
const LIFETIME: i64 = 49 * 3600;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind {
        b'S' => signed(rest),
        b'E' => altered(rest),
        _ => assert!(proof(rest).is_err(), "nobody has signed this"),
    }
});

fn signed(input: &[u8]) {
    let Some((header, payload)) = std::str::from_utf8(input).ok().and_then(|text| text.split_once('\n')) else { return };
    let Ok(caller) = proof(KEYS.sign(header, payload).as_bytes()) else { return };
    is_header(header);
    is_of(&caller, payload);
}

/// ECDSA's signatures are two, (r, s) and (r, n - s): what stays the same is what they sign.
fn altered(changes: &[u8]) {
    let mut token = GOOD.clone().into_bytes();
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % token.len();
        token[place] = change[2];
    }
    let message = |token: &[u8]| token[..GOOD.rfind('.').expect("three parts")].to_vec();
    assert!(token != GOOD.as_bytes() || proof(&token).is_ok(), "the good token");
    assert!(message(&token) == message(GOOD.as_bytes()) || proof(&token).is_err(), "the issuer has signed something else");
}

/// The verdict, which is the same when the token comes again and is remembered.
fn proof(token: &[u8]) -> Result<Arc<Caller>, Refusal> {
    run(async |context| {
        let verifier = verifier(&key_set(), &context).expect("a good key set");
        let ask = async || verifier.verify(RawToken::new(token), SOURCE, context.clock.now()).await;
        let (first, again) = (ask().await, ask().await);
        assert_eq!(first.as_ref().map_err(|refusal| refusal.reason).err(), again.map_err(|refusal| refusal.reason).err());
        first.inspect_err(is_sound)
    })
}

/// A refusal for one of the reasons of a token, whose cause quotes nothing.
fn is_sound(refusal: &Refusal) {
    let passing = [Reason::VerifyBudget, Reason::KeysUnavailable, Reason::Internal];
    assert!(!passing.contains(&refusal.reason), "{refusal:?}");
    assert!(refusal.cause.len() < 120 && refusal.cause.is_ascii(), "{refusal:?}");
}

fn is_header(header: &str) {
    let header: Value = serde_json::from_str(header).expect("an accepted header is JSON");
    let members = header.as_object().expect("and an object");
    assert!(header["alg"] == "ES256" && header["kid"] == KID, "{header}");
    assert!(members.keys().all(|name| ["alg", "kid", "typ"].contains(&name.as_str())), "{header}");
    assert!(members.get("typ").is_none_or(|typ| typ == "JWT"), "{header}");
}

/// The claims by another reader: they are what the caller is taken for.
fn is_of(caller: &Caller, payload: &str) {
    let claims: Value = serde_json::from_str(payload).expect("accepted claims are JSON");
    let identity = caller.subject().identity().expect("verification is local");
    let kubernetes = &claims["kubernetes.io"];
    assert_eq!((&claims["iss"], &*identity.issuer), (&Value::from(ISSUER), ISSUER));
    assert_eq!(only_audience(&claims["aud"]), Some(&**caller.audience()));
    assert_eq!(kubernetes["namespace"], *identity.namespace);
    assert_eq!(kubernetes["serviceaccount"]["name"], *identity.service_account);
    assert_eq!(kubernetes["serviceaccount"]["uid"], *identity.service_account_uid);
    assert_eq!((&kubernetes["pod"]["name"], &kubernetes["pod"]["uid"]), (&(*identity.pod).into(), &(*identity.pod_uid).into()));
    assert_eq!(kubernetes["node"]["name"].as_str(), identity.node.as_deref());
    assert!(identity.node.as_deref().is_none_or(|node| node == NODE));
    assert!(kubernetes.get("secret").is_none());
    assert_eq!(claims["sub"], format!("system:serviceaccount:{}:{}", identity.namespace, identity.service_account));
    assert!(!identity.pod_uid.is_empty() && !identity.service_account_uid.is_empty());
    is_in_time(&claims);
}

fn only_audience(aud: &Value) -> Option<&str> {
    let only = aud.as_str().or_else(|| aud.as_array().filter(|all| all.len() == 1)?[0].as_str());
    only.filter(|audience| *audience == AUDIENCE)
}

fn is_in_time(claims: &Value) {
    let [exp, nbf, iat] = ["exp", "nbf", "iat"].map(|claim| claims[claim].as_i64().expect("whole seconds"));
    assert!(iat >= 0 && iat.max(nbf) <= NOW + LEEWAY && exp > NOW && exp - iat <= LIFETIME, "{claims}");
}
