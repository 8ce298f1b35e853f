//! The rules about key sets, one by one.

use super::*;
use crate::base::clock::Clock;
use crate::token::jwks;
use crate::token::testing::{document, ec256, ec384, payload, rsa, rsa_other};

fn set(signer: &crate::token::testing::Signer, kid: &str) -> Vec<Key> {
    jwks::parse(&document(&[signer.jwk(kid)])).unwrap()
}

fn polled(keys: &mut Keys, issuer: &str, now: Instant) -> SourceId {
    let id = keys.add(Some(issuer.into()), "test".to_owned(), now);
    keys.ask(id);
    id
}

fn proof(keys: &Keys, token: &str) -> Result<Vec<String>, Reason> {
    let compact = Compact::split(token).unwrap();
    let header = Header::parse(&compact.header).unwrap();
    let proof = keys.prove(&header, &compact).map_err(|refusal| refusal.reason)?;
    Ok(proof.issuers.iter().map(ToString::to_string).collect())
}

fn start() -> Instant {
    Clock::System.now().mono
}

#[test]
fn the_generation_rises_with_every_change_and_no_other_time() {
    let (mut keys, now) = (Keys::new(Mode::Local), start());
    let id = polled(&mut keys, "A", now);
    for (set, changes, generation) in [
        (set(rsa(), "a"), true, 1),
        (set(rsa(), "a"), false, 1),
        (set(rsa_other(), "a"), true, 2),
        (set(rsa_other(), "b"), true, 3),
    ] {
        keys.began(id, now);
        assert_eq!(keys.succeeded(id, set, now), changes);
        assert_eq!(keys.generation(), generation);
    }
    assert!(!keys.knows("a"), "a removed key is gone at once");
}

#[test]
fn a_failed_source_keeps_its_keys_for_a_day() {
    let (mut keys, now) = (Keys::new(Mode::Auto), start());
    let id = polled(&mut keys, "A", now);
    keys.succeeded(id, set(rsa(), "a"), now);
    assert!(keys.failed(id, "500", now + KEPT - Duration::from_secs(1)), "the first failure is news");
    assert!(!keys.failed(id, "500", now + KEPT - Duration::from_secs(1)));
    assert!(keys.knows("a") && keys.usable());
    keys.failed(id, "500", now + KEPT);
    assert!(!keys.knows("a") && !keys.usable());
    assert_eq!((keys.generation(), keys.standing()), (2, Standing::Local), "local once is local for ever");
}

#[test]
fn auto_delegates_once_every_first_attempt_has_failed_until_one_answers() {
    let (mut keys, now) = (Keys::new(Mode::Auto), start());
    let (a, b) = (polled(&mut keys, "A", now), polled(&mut keys, "B", now));
    let search = keys.add(None, "search".to_owned(), now);
    keys.decide();
    for id in [a, b] {
        keys.failed(id, "500", now);
        assert_eq!(keys.standing(), Standing::Waiting);
    }
    keys.failed(search, "500", now);
    assert_eq!(keys.standing(), Standing::Delegated);
    keys.found(search, "C".into(), "found".into(), now);
    assert_eq!(keys.standing(), Standing::Delegated, "nobody has to wait again");
    keys.succeeded(b, set(rsa(), "a"), now);
    assert_eq!(keys.standing(), Standing::Local);
    keys.failed(b, "500", now);
    assert_eq!(keys.standing(), Standing::Local);
}

#[test]
fn modes_without_sources() {
    for (mode, standing) in
        [(Mode::Auto, Standing::Delegated), (Mode::Local, Standing::Waiting), (Mode::Delegated, Standing::Delegated)]
    {
        let mut keys = Keys::new(mode);
        keys.decide();
        assert_eq!(keys.standing(), standing);
    }
}

#[test]
fn sources_are_asked_again_after_half_a_minute() {
    let (mut keys, now) = (Keys::new(Mode::Local), start());
    let id = polled(&mut keys, "A", now);
    assert!(keys.is_asked(id) && !keys.settled(now));
    keys.began(id, now);
    assert!(!keys.ask_again(now + FRESH) && !keys.settled(now + FRESH), "a fetch under way is waited for");
    keys.succeeded(id, set(rsa(), "a"), now);
    assert!(keys.settled(now));
    assert!(!keys.ask_again(now + Duration::from_millis(29_999)));
    assert!(keys.ask_again(now + LEAST_BETWEEN_FETCHES));
    assert!(!keys.ask_again(now + LEAST_BETWEEN_FETCHES), "once");
}

#[test]
fn complete_means_that_every_source_with_keys_answered_lately() {
    let (mut keys, now) = (Keys::new(Mode::Local), start());
    let (public, api_server) = (polled(&mut keys, "A", now), polled(&mut keys, "A", now));
    assert!(!keys.complete(now));
    keys.succeeded(public, set(rsa(), "a"), now);
    keys.failed(api_server, "403", now);
    assert!(keys.complete(now), "a source that never answered is none");
    assert!(!keys.complete(now + FRESH));
    keys.succeeded(api_server, set(rsa(), "a"), now + FRESH);
    assert!(!keys.complete(now + FRESH), "the other may know more");
    let fixed = keys.add(Some("B".into()), "fixed".to_owned(), now);
    keys.succeeded(fixed, set(ec256(), "b"), now);
    keys.succeeded(public, set(rsa(), "a"), now + FRESH);
    assert!(keys.complete(now + FRESH), "fixed keys are never old");
}

#[test]
fn a_source_that_went_away_leaves_unknown_keys_undecided_for_a_day_at_most() {
    let (mut keys, now) = (Keys::new(Mode::Local), start());
    let (public, api_server) = (polled(&mut keys, "A", now), polled(&mut keys, "A", now));
    for (id, kid) in [(public, "rotating"), (api_server, "static")] {
        keys.succeeded(id, set(rsa(), kid), now);
    }
    for (later, known, complete) in [(FRESH, true, false), (KEPT - Duration::from_secs(1), true, false), (KEPT, false, true)] {
        keys.succeeded(api_server, set(rsa(), "static"), now + later);
        keys.failed(public, "unreachable", now + later);
        assert_eq!((keys.knows("rotating"), keys.complete(now + later)), (known, complete), "{later:?}");
    }
    assert!(keys.usable());
}

#[test]
fn a_source_that_never_answers_is_waited_for_at_first_only() {
    let (mut keys, now) = (Keys::new(Mode::Local), start());
    let (good, hole) = (polled(&mut keys, "A", now), polled(&mut keys, "B", now));
    for id in [good, hole] {
        keys.began(id, now);
    }
    assert!(!keys.settled(now + FRESH), "nobody holds keys yet");
    keys.succeeded(good, set(rsa(), "a"), now + FIRST_ATTEMPT);
    let before = now + FIRST_ATTEMPT - Duration::from_millis(1);
    assert!(!keys.settled(before) && !keys.complete(before));
    assert!(keys.settled(now + FIRST_ATTEMPT) && keys.complete(now + FIRST_ATTEMPT));
    keys.began(good, now + FIRST_ATTEMPT);
    assert!(!keys.settled(now + FIRST_ATTEMPT), "who holds keys may bring others");
}

#[test]
fn a_source_that_failed_before_it_held_keys_is_not_asked_for_an_unknown_one() {
    let (mut keys, now) = (Keys::new(Mode::Local), start());
    let (good, bad) = (polled(&mut keys, "A", now), polled(&mut keys, "B", now));
    keys.began(bad, now);
    keys.failed(bad, "500", now);
    assert!(keys.ask_again(now + LEAST_BETWEEN_FETCHES), "while nobody holds keys each is");
    keys.began(good, now);
    keys.succeeded(good, set(rsa(), "a"), now);
    keys.began(bad, now);
    assert!(keys.settled(now) && keys.complete(now), "not even under way");
    keys.failed(bad, "500", now);
    assert!(keys.ask_again(now + LEAST_BETWEEN_FETCHES));
    assert!(keys.is_asked(good) && !keys.is_asked(bad));
}

#[test]
fn each_candidate_key_is_tried() {
    let (mut keys, now) = (Keys::new(Mode::Local), start());
    for (issuer, signer) in [("A", rsa()), ("B", rsa_other()), ("C", rsa()), ("D", ec256())] {
        let id = polled(&mut keys, issuer, now);
        keys.succeeded(id, set(signer, "k"), now);
    }
    assert_eq!(proof(&keys, &rsa().token("k", &payload())), Ok(vec!["A".to_owned(), "C".to_owned()]));
    assert_eq!(proof(&keys, &rsa_other().token("k", &payload())), Ok(vec!["B".to_owned()]));
    assert_eq!(proof(&keys, &ec256().token("k", &payload())), Ok(vec!["D".to_owned()]));
    assert_eq!(proof(&keys, &ec384().token("k", &payload())), Err(Reason::Alg));
}
