//! The entry's rules one by one; all of them together are in `entry_model`.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::domain::credential::{Provenance, Session};
use crate::domain::identity::BearerToken;
use crate::domain::mint::Denial;

const HOUR: Duration = Duration::from_secs(3600);
const KEPT: Keeping = Keeping { kept: true, longest: None };
const EVEN: f64 = 0.5;

/// Both clocks, `after` a fixed start.
#[derive(Clone, Copy)]
struct Timeline {
    mono: Instant,
}

impl Timeline {
    fn start() -> Self {
        Self { mono: Clock::System.now().mono }
    }

    fn at(self, after: Duration) -> Now {
        Now { wall: wall(after), mono: self.mono + after }
    }

    fn secs(self, seconds: u64) -> Now {
        self.at(Duration::from_secs(seconds))
    }
}

fn wall(after: Duration) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000) + after
}

fn presented(expires_after: Duration) -> Arc<Presented> {
    let token = BearerToken::parse(b"aaaaaaaaaa.bbbbbbbbbb.cccccccccc").unwrap();
    Arc::new(Presented { token, expires_at: Some(wall(expires_after)), token_id: "t".into() })
}

fn credential(now: Now, lifetime: Duration) -> Arc<Credential> {
    let session = Session {
        access_key_id: "ASIA".into(),
        secret_access_key: Secret::new("s".into()),
        session_token: Secret::new("t".into()),
        expires_at: now.wall + lifetime,
        assumed_role_arn: "arn:aws:sts::111122223333:assumed-role/r/s".into(),
    };
    Arc::new(Credential::new(&session, Provenance::default(), now).unwrap())
}

fn denied() -> Failure {
    Failure::Denied(Denial::new("AccessDeniedException"))
}

fn unavailable() -> Failure {
    Failure::Unavailable("503".into())
}

/// An entry that holds a credential of `lifetime` since the start.
fn holding(time: Timeline, lifetime: Duration) -> Entry {
    let mut entry = Entry::new(presented(24 * HOUR), KEPT, time.secs(0));
    assert!(matches!(ask(&mut entry, time.secs(0)), (Answer::Wait, true)));
    assert_eq!(entry.landed(Ok(credential(time.secs(0), lifetime)), EVEN, time.secs(0)), Landed::Renewed);
    entry
}

fn ask(entry: &mut Entry, now: Now) -> (Answer, bool) {
    let Asked { answer, begins, .. } = entry.ask(&presented(24 * HOUR), now);
    (answer, begins)
}

#[test]
fn one_load_for_all_who_come() {
    let time = Timeline::start();
    let mut entry = Entry::new(presented(HOUR), KEPT, time.secs(0));
    assert!(matches!(ask(&mut entry, time.secs(0)), (Answer::Wait, true)));
    assert!(matches!(ask(&mut entry, time.secs(9)), (Answer::Wait, false)));
    assert_eq!(entry.wake(time.secs(9)), Wake::Flying);
    assert!(!entry.begin_renewal(time.secs(9)));
}

#[test]
fn renewal_at_half_of_life_with_a_tenth_of_jitter() {
    let time = Timeline::start();
    for (roll, due) in [(0.0, 9720), (0.5, 10_800), (1.0, 11_880)] {
        let mut entry = holding(time, 6 * HOUR);
        entry.landed(Ok(credential(time.secs(0), 6 * HOUR)), roll, time.secs(0));
        assert_eq!(entry.wake(time.secs(1)), Wake::Sleep(time.secs(due).mono));
        assert_eq!(entry.wake(time.secs(due)), Wake::Renew(Urgency::Background, time.secs(due).mono));
    }
}

#[test]
fn an_operator_may_ask_for_earlier_renewals() {
    let time = Timeline::start();
    let keeping = Keeping { kept: true, longest: Some(HOUR) };
    let mut entry = Entry::new(presented(24 * HOUR), keeping, time.secs(0));
    ask(&mut entry, time.secs(0));
    entry.landed(Ok(credential(time.secs(0), 6 * HOUR)), EVEN, time.secs(0));
    assert_eq!(entry.renewal_due(), Some(time.secs(3600).mono));
}

#[test]
fn under_twenty_minutes_a_request_starts_a_renewal_and_waits_for_half_a_second() {
    let time = Timeline::start();
    let mut entry = holding(time, HOUR);
    assert!(matches!(ask(&mut entry, time.secs(2400)), (Answer::Serve(_), false)), "20 minutes left");
    let (answer, begins) = ask(&mut entry, time.secs(2401));
    let half_a_second_later = time.at(Duration::from_millis(2_401_500)).mono;
    assert!(begins && matches!(answer, Answer::ServeAfter { until, .. } if until == half_a_second_later));
    let (answer, begins) = ask(&mut entry, time.at(Duration::from_millis(2_401_400)));
    assert!(!begins && matches!(answer, Answer::ServeAfter { until, .. } if until == half_a_second_later));
    assert!(matches!(ask(&mut entry, time.secs(2402)), (Answer::Serve(_), false)), "its patience is over");
    entry.landed(Err(unavailable()), 1.0, time.secs(2403));
    assert!(matches!(ask(&mut entry, time.at(Duration::from_millis(2_403_900))), (Answer::Serve(_), false)), "in backoff");
    assert!(matches!(ask(&mut entry, time.secs(2405)), (Answer::ServeAfter { .. }, true)), "after it");
}

#[test]
fn sixty_seconds_are_never_served() {
    let time = Timeline::start();
    let mut entry = holding(time, HOUR);
    assert!(matches!(ask(&mut entry, time.secs(3539)), (Answer::ServeAfter { .. }, true)));
    assert!(matches!(ask(&mut entry, time.secs(3540)), (Answer::Wait, false)));
    entry.landed(Err(unavailable()), 1.0, time.secs(3541));
    assert!(matches!(
        ask(&mut entry, time.at(Duration::from_millis(3_541_500))),
        (Answer::Refuse(Failure::Unavailable(_), _), false)
    ));
}

#[test]
fn a_refusal_counts_at_its_second_time_while_something_is_held() {
    let time = Timeline::start();
    let mut entry = holding(time, 6 * HOUR);
    assert!(entry.begin_renewal(time.secs(10_800)));
    assert_eq!(entry.landed(Err(denied()), EVEN, time.secs(10_800)), Landed::Unconfirmed);
    assert!(matches!(ask(&mut entry, time.secs(10_801)), (Answer::Serve(_), false)));
    assert_eq!(entry.wake(time.secs(10_801)), Wake::Sleep(time.secs(10_805).mono));
    assert!(matches!(entry.wake(time.secs(10_805)), Wake::Renew(..)));
    assert!(entry.begin_renewal(time.secs(10_805)));
    assert_eq!(entry.landed(Err(denied()), EVEN, time.secs(10_805)), Landed::Dropped);
    assert!(matches!(ask(&mut entry, time.secs(10_806)), (Answer::Refuse(Failure::Denied(_), _), false)));
}

#[test]
fn a_success_between_two_refusals_starts_over() {
    let time = Timeline::start();
    let mut entry = holding(time, 6 * HOUR);
    entry.landed(Err(denied()), EVEN, time.secs(100));
    entry.landed(Ok(credential(time.secs(105), 6 * HOUR)), EVEN, time.secs(105));
    assert_eq!(entry.landed(Err(denied()), EVEN, time.secs(200)), Landed::Unconfirmed);
}

#[test]
fn with_nothing_held_a_refusal_counts_at_once_and_is_remembered_five_seconds_doubling_to_sixty() {
    let time = Timeline::start();
    let mut entry = Entry::new(presented(24 * HOUR), KEPT, time.secs(0));
    let mut at = 0;
    for remembered in [5, 10, 20, 40, 60, 60] {
        assert!(matches!(ask(&mut entry, time.secs(at)), (Answer::Wait, true)));
        assert_eq!(entry.landed(Err(denied()), EVEN, time.secs(at)), Landed::Refused);
        let (answer, begins) = ask(&mut entry, time.secs(at + remembered - 1));
        assert!(!begins && matches!(answer, Answer::Refuse(Failure::Denied(_), left) if left == Duration::from_secs(1)));
        at += remembered;
    }
}

#[test]
fn each_failure_is_remembered_in_its_own_way() {
    let time = Timeline::start();
    let remembered = |failure: Failure| {
        let mut entry = Entry::new(presented(24 * HOUR), KEPT, time.secs(0));
        ask(&mut entry, time.secs(0));
        entry.landed(Err(failure), 1.0, time.secs(0));
        match ask(&mut entry, time.secs(0)).0 {
            Answer::Refuse(_, left) => Some(left.as_secs()),
            Answer::Wait | Answer::Serve(_) | Answer::ServeAfter { .. } => None,
        }
    };
    assert_eq!(remembered(denied()), Some(5));
    assert_eq!(remembered(Failure::Throttled { retry_after: Some(Duration::from_secs(7)) }), Some(7));
    assert_eq!(remembered(Failure::Throttled { retry_after: None }), Some(1));
    assert_eq!(remembered(unavailable()), Some(1));
    assert_eq!(remembered(Failure::Misconfigured("no credentials".into())), Some(5));
    assert_eq!(remembered(Failure::Bug("empty".into())), None);
}

#[test]
fn no_ghost_is_renewed() {
    let time = Timeline::start();
    let mut idle = holding(time, HOUR);
    assert!(matches!(idle.wake(time.secs(1800)), Wake::Renew(..)));
    idle.landed(Ok(credential(time.secs(7199), HOUR)), EVEN, time.secs(7199));
    assert_eq!(idle.wake(time.secs(8999)), Wake::Sleep(time.secs(7199 + 3540).mono), "nobody asked for two lifetimes");
    assert_eq!(idle.wake(time.secs(7199 + 3540)), Wake::Drop(End::Lapsed));
    let mut orphan = Entry::new(presented(HOUR), KEPT, time.secs(0));
    orphan.ask(&presented(HOUR), time.secs(0));
    orphan.landed(Ok(credential(time.secs(0), 6 * HOUR)), EVEN, time.secs(0));
    assert!(orphan.is_orphaned(time.secs(3600)));
    assert_eq!(orphan.wake(time.secs(10_800)), Wake::Sleep(time.secs(6 * 3600 - 60).mono), "its newest token has ended");
}

#[test]
fn a_ghost_that_asks_again_is_renewed_again() {
    let time = Timeline::start();
    let mut orphan = Entry::new(presented(HOUR), KEPT, time.secs(0));
    orphan.ask(&presented(HOUR), time.secs(0));
    orphan.landed(Ok(credential(time.secs(0), 6 * HOUR)), EVEN, time.secs(0));
    assert_eq!(orphan.expiry_to_watch(time.secs(3600)), None);
    assert!(!orphan.ask(&presented(HOUR), time.secs(3599)).revives);
    assert!(orphan.ask(&presented(2 * HOUR), time.secs(3700)).revives);
    assert_eq!(orphan.wake(time.secs(3700)), Wake::Sleep(time.secs(10_800).mono));
    assert!(orphan.expiry_to_watch(time.secs(3700)).is_some());
    let mut idle = holding(time, HOUR);
    assert!(!idle.ask(&presented(24 * HOUR), time.secs(7199)).revives);
    assert!(idle.ask(&presented(24 * HOUR), time.secs(2 * 7200)).revives, "two lifetimes later");
}

#[test]
fn the_newest_token_is_kept_whatever_the_order_of_requests() {
    let time = Timeline::start();
    let mut entry = holding(time, HOUR);
    let (old, new) = (presented(30 * HOUR), presented(40 * HOUR));
    entry.ask(&new, time.secs(1));
    entry.ask(&old, time.secs(2));
    assert!(Arc::ptr_eq(entry.newest(), &new));
}

#[test]
fn what_has_no_room_is_forgotten_after_five_seconds() {
    let time = Timeline::start();
    let mut entry = Entry::new(presented(24 * HOUR), Keeping { kept: false, longest: None }, time.secs(0));
    ask(&mut entry, time.secs(0));
    entry.landed(Ok(credential(time.secs(3), 6 * HOUR)), EVEN, time.secs(3));
    assert!(matches!(ask(&mut entry, time.secs(7)), (Answer::Serve(_), false)), "the retry of a client finds it");
    assert_eq!(entry.wake(time.secs(7)), Wake::Sleep(time.secs(8).mono));
    assert_eq!(entry.wake(time.secs(8)), Wake::Drop(End::Passing));
}

#[test]
fn an_empty_entry_is_forgotten_two_minutes_after_the_last_request() {
    let time = Timeline::start();
    let mut entry = Entry::new(presented(24 * HOUR), KEPT, time.secs(0));
    ask(&mut entry, time.secs(0));
    entry.landed(Err(denied()), EVEN, time.secs(0));
    assert_eq!(entry.wake(time.secs(119)), Wake::Sleep(time.secs(120).mono));
    assert_eq!(entry.wake(time.secs(120)), Wake::Drop(End::Denied));
}
