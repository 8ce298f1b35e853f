//! What is told of an entry says the same to who hears it, and never takes anything newer away.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::base::clock::Clock;
use crate::base::parcel::Parcel;
use crate::base::secret::Secret;
use crate::cache::entry::{Answer, Wake};
use crate::domain::credential::{Provenance, Session};
use crate::domain::identity::{BearerToken, Presented};
use crate::domain::mint::Denial;

const HOUR: Duration = Duration::from_secs(3600);
const KEPT: Keeping = Keeping { kept: true, longest: None };
const EVEN: f64 = 0.5;

/// The same instant by another process's clock, which began at another time.
fn elsewhere(now: Now) -> Now {
    Now { mono: now.mono + 1000 * HOUR, ..now }
}

fn start() -> Now {
    Now { wall: UNIX_EPOCH + 400_000 * HOUR, mono: Clock::System.now().mono }
}

fn after(now: Now, time: Duration) -> Now {
    Now { wall: now.wall + time, mono: now.mono + time }
}

fn token(text: &str, expires_at: std::time::SystemTime) -> Arc<Presented> {
    let token = BearerToken::parse(format!("{text:a<24}").as_bytes()).unwrap();
    Arc::new(Presented { token, expires_at: Some(expires_at), token_id: text.into() })
}

fn credential(id: &str, now: Now, lifetime: Duration) -> Arc<Credential> {
    let session = Session {
        access_key_id: id.into(),
        secret_access_key: Secret::new("s\"ecret".into()),
        session_token: Secret::new("t".into()),
        expires_at: now.wall + lifetime,
        assumed_role_arn: "arn:aws:sts::111122223333:assumed-role/r/s".into(),
    };
    Arc::new(Credential::new(&session, Provenance::default(), now).unwrap())
}

fn empty(now: Now) -> Entry {
    Entry::new(token("old", now.wall + 24 * HOUR), KEPT, now)
}

fn holding(id: &str, now: Now, lifetime: Duration) -> Entry {
    let mut entry = empty(now);
    entry.landed(Ok(credential(id, now, lifetime)), EVEN, now);
    entry
}

fn denied() -> Failure {
    Failure::Denied(Denial::new("AccessDeniedException").advice("look"))
}

fn told(entry: &Entry, now: Now) -> Parcel {
    Parcel::pack(1, &entry.pack(now))
}

fn heard(entry: &Entry, now: Now) -> Option<Entry> {
    told(entry, now).open::<PackedEntry<'_>>(1).unwrap().unpack(KEPT, elsewhere(now))
}

fn learns(entry: &mut Entry, from: &Entry, now: Now) {
    entry.learn(told(from, now).open(1).unwrap(), now);
}

fn id(entry: &Entry) -> Option<&str> {
    entry.held().map(|held| held.access_key_id())
}

proptest! {
    #[test]
    fn an_entry_does_the_same_elsewhere(
        lifetime in 120..43_200_u64, landed in 0..20_000_u64, told_after in 0..20_000_u64, fails in 0..4_u8, roll in 0.0..1.0
    ) {
        let begin = start();
        let mut entry = empty(begin);
        let landing = after(begin, Duration::from_secs(landed));
        entry.landed(Ok(credential("A", landing, Duration::from_secs(lifetime))), roll, landing);
        let now = after(landing, Duration::from_secs(told_after));
        for _ in 0..fails {
            entry.landed(Err(denied()), roll, now);
        }
        let Some(mut there) = heard(&entry, now) else {
            prop_assert!(!entry.has_news(now));
            return Ok(());
        };
        let far = elsewhere(now);
        prop_assert_eq!(entry.servable(now).map(|held| held.document()), there.servable(far).map(|held| held.document()));
        prop_assert_eq!(entry.known(now).map(|known| known.err()), there.known(far).map(|known| known.err()));
        prop_assert_eq!(entry.newest().token.expose(), there.newest().token.expose());
        if entry.servable(now).is_some() {
            let moved = match entry.wake(now) {
                Wake::Sleep(until) => Wake::Sleep(until + 1000 * HOUR),
                Wake::Renew(urgency, due) => Wake::Renew(urgency, due.max(now.mono) + 1000 * HOUR),
                other @ (Wake::Flying | Wake::Drop(_)) => other,
            };
            prop_assert_eq!(moved, there.wake(far));
        }
    }
}

#[test]
fn what_can_not_be_served_is_not_kept() {
    let begin = start();
    let entry = holding("A", begin, HOUR);
    assert!(heard(&entry, after(begin, HOUR - Duration::from_secs(61))).is_some());
    assert!(heard(&entry, after(begin, HOUR - Duration::from_secs(60))).is_none());
    assert!(heard(&entry, after(begin, 2 * HOUR)).is_none() && heard(&empty(begin), begin).is_none());
}

#[test]
fn the_newer_one_stays_whoever_has_it() {
    let begin = start();
    let later = after(begin, HOUR);
    let (mut old, mut new) = (holding("OLD", begin, 6 * HOUR), holding("NEW", later, 3 * HOUR));
    learns(&mut new, &old, later);
    assert_eq!(id(&new), Some("NEW"));
    learns(&mut old, &new, later);
    assert_eq!(id(&old), Some("NEW"));
    learns(&mut new, &holding("GONE", later, Duration::from_secs(30)), later);
    assert_eq!(id(&new), Some("NEW"), "less than a minute of life is none");
}

#[test]
fn the_newest_token_and_the_latest_request_count() {
    let begin = start();
    let later = after(begin, HOUR);
    let (mut entry, mut other) = (holding("A", begin, HOUR), holding("A", begin, HOUR));
    other.ask(&token("new", later.wall + 48 * HOUR), later);
    learns(&mut entry, &other, later);
    assert_eq!((entry.newest().token_id.as_str(), entry.asked_at), ("new", later.mono));
    learns(&mut other, &holding("A", begin, HOUR), later);
    assert_eq!((other.newest().token_id.as_str(), other.asked_at), ("new", later.mono));
    let shown = token("new", later.wall + 48 * HOUR);
    entry.ask(&shown, later);
    learns(&mut entry, &other, later);
    assert!(Arc::ptr_eq(entry.newest(), &shown), "what is known here stands there once");
}

#[test]
fn a_refusal_is_remembered_here_too_and_takes_nothing_away() {
    let begin = start();
    let mut refused = empty(begin);
    refused.landed(Err(denied()), EVEN, begin);
    let mut there = heard(&refused, begin).unwrap();
    let far = elsewhere(begin);
    assert!(matches!(there.ask(&token("old", far.wall + HOUR), far).answer, Answer::Refuse(failure, _) if failure == denied()));

    let mut entry = holding("A", begin, HOUR);
    learns(&mut entry, &refused, begin);
    assert_eq!(id(&entry), Some("A"));
    assert!(entry.resting(begin).is_some(), "nobody asks AWS again before its time");
    let later = after(begin, Duration::from_secs(1));
    let newer = holding("NEW", later, HOUR);
    let mut failed = holding("OLD", begin, HOUR);
    failed.landed(Err(denied()), EVEN, begin);
    let mut kept = newer;
    learns(&mut kept, &failed, later);
    assert!(kept.resting(later).is_none(), "what failed with something older says nothing");
}

#[test]
fn what_one_agent_has_let_go_of_the_other_does_too() {
    let begin = start();
    let (first, second) = (after(begin, HOUR), after(begin, HOUR + Duration::from_secs(5)));
    let (mut refused, mut older) = (holding("A", begin, 6 * HOUR), holding("A", begin, 6 * HOUR));
    refused.landed(Err(denied()), EVEN, first);
    learns(&mut older, &refused, first);
    assert_eq!(id(&older), Some("A"), "one refusal may be a mistake");
    refused.landed(Err(denied()), EVEN, second);
    let mut newer = holding("NEW", second, 6 * HOUR);
    for entry in [&mut older, &mut newer] {
        learns(entry, &refused, second);
    }
    assert_eq!((id(&older), id(&newer)), (None, Some("NEW")));
}

#[test]
fn the_operator_who_wants_renewals_early_has_them_early() {
    let begin = start();
    let parcel = told(&holding("A", begin, 6 * HOUR), begin);
    let keeping = Keeping { kept: true, longest: Some(HOUR) };
    let entry = parcel.open::<PackedEntry<'_>>(1).unwrap().unpack(keeping, begin).unwrap();
    assert_eq!(entry.renewal_due(), Some(begin.mono + HOUR));
}

#[test]
fn what_aws_never_said_is_not_learnt() {
    let now = start();
    let six_hours = holding("long", now, 6 * HOUR);
    let mut long = PackedEntry { unasked_for: Duration::MAX, denied_for: Some(Duration::MAX), ..six_hours.pack(now) };
    long.held.as_mut().unwrap().renewal_in = Duration::MAX;
    long.setback = Some(PackedSetback { failure: denied(), in_a_row: u32::MAX, rest: Duration::MAX });
    let mut entry = long.unpack(KEPT, now).unwrap();
    assert!(entry.renewal_due().unwrap() <= now.mono + LONGEST_LIFE);
    assert!(matches!(entry.wake(now), Wake::Sleep(until) if until <= now.mono + 6 * HOUR));
    entry.landed(Err(denied()), EVEN, now);
    for lifetime in [13 * HOUR, 1_000_000 * HOUR] {
        assert!(holding("endless", now, lifetime).pack(now).unpack(KEPT, now).is_none());
    }
}
