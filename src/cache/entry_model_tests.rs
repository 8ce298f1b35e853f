//! The entry against the reference: they come to the same whatever happens in whatever order, wherever the wall clock jumps; steps
//! are drawn close to the moments at which a rule changes its mind. Beside that agreement each step is held against the promises
//! themselves, which know nothing of how either side got there.

use std::time::UNIX_EPOCH;

use proptest::test_runner::Config;
use proptest_state_machine::{StateMachineTest, prop_state_machine};

use super::*;
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::cache::entry::model::{HOUR, History, MINUTE, Outcome, Said, Step, TOKEN, Told};
use crate::domain::credential::{Provenance, Session};
use crate::domain::identity::BearerToken;
use crate::domain::mint::Denial;

/// The entry, and what has to be known of its past for the promises.
struct Tested {
    entry: Option<Entry>,
    keeping: Keeping,
    life: Duration,
    start: Instant,
    now: Now,
    flying: bool,
    left_alone_until: Instant,
    first_denial: Option<Instant>,
}

impl StateMachineTest for Tested {
    type SystemUnderTest = Self;
    type Reference = History;

    fn init_test(history: &History) -> Self {
        let start = Clock::System.now().mono;
        Self {
            entry: None,
            keeping: Keeping { kept: history.kept, longest: history.longest },
            life: history.life,
            start,
            now: Now { wall: UNIX_EPOCH + history.wall, mono: start },
            flying: false,
            left_alone_until: start,
            first_denial: None,
        }
    }

    fn apply(mut tested: Self, history: &History, step: Step) -> Self {
        let said = match step {
            Step::Ask(more) => tested.ask(more),
            Step::Land(outcome, roll) => tested.land(outcome, roll),
            Step::Wake => tested.wake(),
            Step::Pass(time) => {
                tested.now = Now { wall: tested.now.wall + time, mono: tested.now.mono + time };
                Said::Nothing
            }
            Step::Set(seconds) => {
                let size = Duration::from_secs(seconds.unsigned_abs());
                tested.now.wall = if seconds < 0 { tested.now.wall - size } else { tested.now.wall + size };
                Said::Nothing
            }
        };
        assert_eq!(said, history.said);
        tested
    }

    fn check_invariants(tested: &Self, history: &History) {
        let entry = tested.entry.as_ref();
        assert_eq!(entry.is_some(), history.made.is_some());
        let Some(entry) = entry else { return };
        assert_eq!((entry.is_flying(), tested.flying), (history.flying.is_some(), history.flying.is_some()));
        assert_eq!(entry.newest().expires_at, Some(UNIX_EPOCH + history.token_end()));
        assert_eq!(entry.held().is_some(), history.held().is_some());
    }
}

impl Tested {
    fn since(&self, at: Instant) -> Duration {
        at - self.start
    }

    /// A load begins: the only one, and not while AWS wants to be left alone.
    fn begin(&mut self) {
        assert!(!self.flying, "two loads at once");
        assert!(self.now.mono >= self.left_alone_until, "a call before Retry-After");
        self.flying = true;
    }

    fn ask(&mut self, more: Duration) -> Said {
        let (now, keeping, presented) = (self.now, self.keeping, presented(more));
        let entry = self.entry.get_or_insert_with(|| Entry::new(Arc::clone(&presented), keeping, now));
        let Asked { answer, begins, revives } = entry.ask(&presented, now);
        if begins {
            self.begin();
        }
        let answer = match answer {
            Answer::Serve(credential) => {
                assert!(self.now.until(credential.expires_at()) > LEAST_SERVED_LIFE);
                Told::Serve
            }
            Answer::ServeAfter { held, until } => {
                assert!(self.now.until(held.expires_at()) > LEAST_SERVED_LIFE && self.flying);
                Told::ServeAfter(self.since(until))
            }
            Answer::Wait => {
                assert!(self.flying, "nobody is waited for");
                Told::Wait
            }
            Answer::Refuse(failure, left) => Told::Refuse(kind(&failure), left),
        };
        Said::Answer { answer, begins, revives }
    }

    fn land(&mut self, outcome: Outcome, roll: f64) -> Said {
        let (now, life) = (self.now, self.life);
        let entry = self.entry.as_mut().expect("a load has an entry");
        let before = entry.held().filter(|held| held.is_servable(now)).cloned();
        let landed = entry.landed(result(outcome, life, now), roll, now);
        self.flying = false;
        let kept = before.is_some_and(|before| entry.held().is_some_and(|held| Arc::ptr_eq(held, &before)));
        match outcome {
            Outcome::Issued => {
                self.first_denial = None;
                let (due, end) = (entry.renewal_due().expect("held"), now.mono + life);
                assert!(life < 3 * MINUTE || due < end - LEAST_SERVED_LIFE, "renewed too late");
            }
            Outcome::Denied if landed == Landed::Dropped => {
                let first = self.first_denial.expect("an earlier refusal");
                assert!(!kept && now.mono - first >= FIRST_DENIAL, "one refusal, or two at once, count");
            }
            Outcome::Denied if landed == Landed::Unconfirmed => {
                assert!(kept);
                self.first_denial.get_or_insert(now.mono);
            }
            Outcome::Denied | Outcome::Throttled(_) | Outcome::Unavailable | Outcome::Misconfigured | Outcome::Nonsense => {
                assert_eq!(kept, landed == Landed::Kept, "a renewal that failed takes something away");
            }
        }
        if let Outcome::Throttled(retry_after) = outcome {
            self.left_alone_until = now.mono + retry_after.unwrap_or_default();
        }
        Said::Landing(landed)
    }

    fn wake(&mut self) -> Said {
        let entry = self.entry.as_mut().expect("a timer has an entry");
        match entry.wake(self.now) {
            Wake::Renew(urgency, due) => {
                assert!(entry.begin_renewal(self.now));
                self.begin();
                Said::Renew(urgency, self.since(due))
            }
            Wake::Sleep(until) => {
                assert!(until > self.now.mono, "a timer that never rests");
                Said::Sleep(self.since(until))
            }
            Wake::Flying => Said::Flying,
            Wake::Drop(end) => {
                let held = self.entry.take().and_then(|entry| entry.held().cloned());
                let wanted = self.keeping.kept && held.is_some_and(|held| held.is_servable(self.now));
                assert!(!wanted, "what could be served is forgotten");
                (self.left_alone_until, self.first_denial) = (self.now.mono, None);
                Said::Drop(end)
            }
        }
    }
}

fn presented(more: Duration) -> Arc<Presented> {
    let token = BearerToken::parse(b"aaaaaaaaaa.bbbbbbbbbb.cccccccccc").unwrap();
    Arc::new(Presented { token, expires_at: Some(UNIX_EPOCH + 1_000 * HOUR + TOKEN + more), token_id: "t".into() })
}

fn result(outcome: Outcome, life: Duration, now: Now) -> Result<Arc<Credential>, Failure> {
    let session = Session {
        access_key_id: "ASIA".into(),
        secret_access_key: Secret::new("s".into()),
        session_token: Secret::new("t".into()),
        expires_at: now.wall + life,
        assumed_role_arn: "arn:aws:sts::111122223333:assumed-role/r/s".into(),
    };
    Err(match outcome {
        Outcome::Issued => return Ok(Arc::new(Credential::new(&session, Provenance::default(), now).unwrap())),
        Outcome::Denied => Failure::Denied(Denial::new("AccessDeniedException")),
        Outcome::Throttled(retry_after) => Failure::Throttled { retry_after },
        Outcome::Unavailable => Failure::Unavailable("503".into()),
        Outcome::Misconfigured => Failure::Misconfigured("no credentials".into()),
        Outcome::Nonsense => Failure::Bug("empty".into()),
    })
}

fn kind(failure: &Failure) -> Outcome {
    match failure {
        Failure::Denied(_) => Outcome::Denied,
        Failure::Throttled { retry_after } => Outcome::Throttled(*retry_after),
        Failure::Unavailable(_) => Outcome::Unavailable,
        Failure::Misconfigured(_) => Outcome::Misconfigured,
        Failure::Bug(_) => Outcome::Nonsense,
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 1_000, ..Config::default() })]

    #[test]
    fn the_entry_does_what_its_whole_history_asks_for(sequential 1..100 => Tested);
}
