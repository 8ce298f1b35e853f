//! What is known of one service account, as a pure state machine: every age rule of annotations stands here.
//!
//! An answer of the API server is used for [`REFRESH_AGE`], then used while a new one is fetched, and from [`WAIT_AGE`] on used
//! only after a moment's wait for the new one: so a changed annotation counts within [`WAIT_AGE`]. It ages from when its read
//! began, for nobody knows when on its way it was true. An API server that is away costs that moment once, and takes nothing away:
//! what is known serves until it is back.
//!
//! A UID is never given twice, and a proven token is younger than its account. So a read begun for a token that does not find the
//! token's account means that it is gone for good, and is known like any other answer. For a token of yet another UID it means
//! nothing after a moment: that account may have been made since.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::policy::{Annotations, Faults};

/// From this age on an answer that is used is fetched anew.
pub(super) const REFRESH_AGE: Duration = Duration::from_secs(30);
/// From this age on the new answer is waited for. An account that nobody asked for in so long is out of use.
const WAIT_AGE: Duration = Duration::from_secs(60);
/// So long after its fetch began, an answer is not waited for any more if there is an older one.
const PATIENCE: Duration = Duration::from_millis(300);
/// What does not count for the caller's UID is asked for again, unless the answer came less than this ago: the account may have
/// been made since. Counted from the answer, not from its read, or who waited for a slow answer could never use it.
const SETTLED: Duration = Duration::from_secs(1);
/// Jittered backoff after a failed fetch: from half of this, doubling.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Its bound where an earlier answer serves, and where callers are refused meanwhile.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
const LONGEST_BACKOFF_UNKNOWN: Duration = Duration::from_secs(4);

/// A service account as the API server has it.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// `metadata.uid`.
    pub uid: String,
    /// What its annotations ask for, or what is wrong with them.
    pub annotations: Result<Annotations, Faults>,
}

/// An answer of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The account as it is.
    Present(Arc<ServiceAccount>),
    /// There is no such account.
    Absent,
}

/// The state of one account.
#[derive(Debug, Default)]
pub(super) struct Account {
    known: Option<Known>,
    fetching: Option<Fetch>,
    last_asked: Option<Instant>,
    setback: Option<Setback>,
}

/// The fetch under way.
#[derive(Debug)]
struct Fetch {
    began: Instant,
    /// The UID of who began it.
    uid: Option<Arc<str>>,
}

#[derive(Debug)]
struct Known {
    answer: Answer,
    /// When its read began.
    at: Instant,
    landed_at: Instant,
    /// The UID that it was read for.
    read_for: Option<Arc<str>>,
}

#[derive(Debug)]
struct Setback {
    error: Arc<str>,
    in_a_row: u32,
    until: Instant,
}

/// What is known, for one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The account.
    pub account: Answer,
    /// Asking again before this brings nothing new.
    pub look_again: Instant,
}

/// What an ask gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Get {
    /// This, at once.
    Known(Found),
    /// This, unless the fetch under way lands before the instant given: then ask again.
    KnownAfter(Found, Instant),
    /// Whatever the fetch under way brings.
    Wait,
    /// Nothing, for a failure remembered so long.
    Failed(Arc<str>, Duration),
}

impl Account {
    /// Somebody asks, by a token of the account with this UID; the UID is unknown where AWS verified the token. Says also whether
    /// this begins a fetch, which the shell now runs.
    pub(super) fn ask(&mut self, uid: Option<&str>, now: Instant) -> (Get, bool) {
        self.last_asked = Some(now);
        let rest = self.rest(now);
        let begins = self.is_due(uid, now) && self.fetching.is_none() && rest.is_none();
        if begins {
            self.fetching = Some(Fetch { began: now, uid: uid.map(Arc::from) });
        }
        let get = match (self.usable(uid, now), self.patience(now)) {
            (Some(known), Some(until)) if known.age(now) >= WAIT_AGE => Get::KnownAfter(self.found(known, uid), until),
            (Some(known), _) => Get::Known(self.found(known, uid)),
            (None, _) => rest.map_or(Get::Wait, |(error, left)| Get::Failed(error, left)),
        };
        (get, begins)
    }

    /// A fetch ended; `roll` is uniform in 0…1. Says whether it changed what was known.
    pub(super) fn landed(&mut self, result: Result<Answer, Arc<str>>, roll: f64, now: Instant) -> bool {
        let (at, read_for) = self.fetching.take().map_or((now, None), |fetch| (fetch.began, fetch.uid));
        match result {
            Ok(answer) => {
                self.setback = None;
                let changed = self.known.as_ref().is_some_and(|known| known.answer != answer);
                self.known = Some(Known { answer, at, landed_at: now, read_for });
                changed
            }
            Err(error) => {
                self.failed(error, roll, now);
                false
            }
        }
    }

    /// The last answer, however old.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.known.as_ref().map(|known| &known.answer)
    }

    /// Whether somebody asked of late.
    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        self.last_asked.is_some_and(|asked| now.saturating_duration_since(asked) < WAIT_AGE)
    }

    /// How old the last answer is.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.known.as_ref().map(|known| known.age(now))
    }

    /// The last failure, if nothing has gone well since.
    pub(super) fn error(&self) -> Option<&Arc<str>> {
        self.setback.as_ref().map(|setback| &setback.error)
    }

    fn is_due(&self, uid: Option<&str>, now: Instant) -> bool {
        self.usable(uid, now).is_none_or(|known| known.age(now) >= REFRESH_AGE)
    }

    /// What is known, unless the account may have been made anew since: the caller's token may be newer than the answer.
    fn usable(&self, uid: Option<&str>, now: Instant) -> Option<&Known> {
        self.known.as_ref().filter(|known| known.counts_for(uid) || now < known.settled_until())
    }

    /// Until when the fetch under way is worth a wait. After one that has failed it is not.
    fn patience(&self, now: Instant) -> Option<Instant> {
        self.fetching.as_ref().map(|fetch| fetch.began + PATIENCE).filter(|until| now < *until && self.setback.is_none())
    }

    fn found(&self, known: &Known, uid: Option<&str>) -> Found {
        let refresh = if known.counts_for(uid) { known.at + REFRESH_AGE } else { known.settled_until() };
        let look_again = self.setback.as_ref().map_or(refresh, |setback| setback.until.max(refresh));
        Found { account: known.answer.clone(), look_again }
    }

    /// The failure that is not to be tried again yet, and for how long.
    fn rest(&self, now: Instant) -> Option<(Arc<str>, Duration)> {
        let setback = self.setback.as_ref()?;
        let left = setback.until.saturating_duration_since(now);
        (!left.is_zero()).then(|| (Arc::clone(&setback.error), left))
    }

    fn failed(&mut self, error: Arc<str>, roll: f64, now: Instant) {
        let in_a_row = self.setback.as_ref().map_or(0, |setback| setback.in_a_row).saturating_add(1);
        let longest = if self.known.is_some() { LONGEST_BACKOFF } else { LONGEST_BACKOFF_UNKNOWN };
        let doubled = FIRST_BACKOFF.saturating_mul(1 << (in_a_row - 1).min(8)).min(longest);
        self.setback = Some(Setback { error, in_a_row, until: now + doubled.mul_f64(roll.mul_add(0.5, 0.5)) });
    }
}

impl Known {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }

    fn settled_until(&self) -> Instant {
        self.landed_at + SETTLED
    }

    /// Whether it tells of the account with this UID: what it is, or that it is gone.
    fn counts_for(&self, uid: Option<&str>) -> bool {
        let Some(uid) = uid else { return true };
        let is_its_own = matches!(&self.answer, Answer::Present(account) if account.uid == uid);
        is_its_own || self.read_for.as_deref() == Some(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    /// An account over time, which is told in milliseconds.
    struct Story {
        start: Instant,
        account: Account,
    }

    impl Story {
        fn new() -> Self {
            Self { start: Clock::System.now().mono, account: Account::default() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn ask(&mut self, ms: u64) -> (Get, bool) {
            self.ask_as("uid", ms)
        }

        fn ask_as(&mut self, uid: &str, ms: u64) -> (Get, bool) {
            let now = self.at(ms);
            self.account.ask(Some(uid), now)
        }

        fn lands(&mut self, uid: &str, ms: u64) -> bool {
            self.answers(account(uid), ms)
        }

        fn answers(&mut self, answer: Answer, ms: u64) -> bool {
            let now = self.at(ms);
            self.account.landed(Ok(answer), 1.0, now)
        }

        fn fails(&mut self, ms: u64) {
            let now = self.at(ms);
            assert!(!self.account.landed(Err("away".into()), 1.0, now));
        }

        fn known(&self, uid: &str, look_again: u64) -> Get {
            self.finds(account(uid), look_again)
        }

        fn finds(&self, account: Answer, look_again: u64) -> Get {
            Get::Known(Found { account, look_again: self.at(look_again) })
        }
    }

    fn account(uid: &str) -> Answer {
        Answer::Present(Arc::new(ServiceAccount { uid: uid.into(), annotations: Ok(Annotations::default()) }))
    }

    fn failed(left: u64) -> Get {
        Get::Failed("away".into(), Duration::from_millis(left))
    }

    #[test]
    fn an_answer_is_used_then_refreshed_then_waited_for() {
        let mut story = Story::new();
        assert_eq!(story.ask(0), (Get::Wait, true));
        assert_eq!(story.ask(5), (Get::Wait, false), "one fetch for all");
        assert!(!story.lands("uid", 10));
        assert_eq!(story.ask(29_999), (story.known("uid", 30_000), false));
        assert_eq!(story.ask(30_000), (story.known("uid", 30_000), true), "used and fetched anew");
        assert!(!story.lands("uid", 30_020), "the same again is no change");
        let known = Found { account: account("uid"), look_again: story.at(60_000) };
        assert_eq!(story.ask(90_000), (Get::KnownAfter(known.clone(), story.at(90_300)), true));
        assert_eq!(story.ask(90_299), (Get::KnownAfter(known.clone(), story.at(90_300)), false));
        assert_eq!(story.ask(90_300), (Get::Known(known), false), "patience is counted from the fetch on");
    }

    #[test]
    fn an_answer_is_as_old_as_its_read() {
        let mut story = Story::new();
        story.ask(0);
        story.lands("uid", 5_000);
        assert_eq!(story.ask(29_999), (story.known("uid", 30_000), false));
        assert!(matches!(story.ask(60_000), (Get::KnownAfter(..), true)), "a change counts within a minute all the same");
    }

    #[test]
    fn what_is_known_serves_while_the_api_server_is_away() {
        let mut story = Story::new();
        story.ask(0);
        story.lands("uid", 0);
        let mut now = 60_000;
        assert!(matches!(story.ask(now), (Get::KnownAfter(..), true)));
        for backoff in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            story.fails(now);
            assert_eq!(story.ask(now), (story.known("uid", now + backoff), false), "at once, and nobody is asked");
            now += backoff;
            assert!(matches!(story.ask(now), (Get::Known(_), true)), "no wait for one that has failed of late");
        }
        story.lands("uid", now);
        assert_eq!(story.ask(now), (story.known("uid", now + 30_000), false));
    }

    #[test]
    fn a_failure_that_leaves_nothing_known_is_remembered_briefly() {
        let mut story = Story::new();
        let mut now = 0;
        for backoff in [1_000, 2_000, 4_000, 4_000] {
            assert_eq!(story.ask(now), (Get::Wait, true));
            story.fails(now);
            assert_eq!(story.ask(now + 100), (failed(backoff - 100), false));
            now += backoff;
        }
    }

    #[test]
    fn an_account_made_anew_is_asked_for_before_its_callers_are_refused() {
        let mut story = Story::new();
        story.ask(0);
        story.lands("old", 0);
        assert_eq!(story.ask_as("new", 999), (story.known("old", 1_000), false), "the answer is of this very second");
        assert_eq!(story.ask_as("new", 1_000), (Get::Wait, true));
        assert_eq!(story.ask_as("old", 1_000), (story.known("old", 30_000), false), "and who it is of does not wait");
        story.fails(1_010);
        assert_eq!(story.ask_as("new", 1_010), (failed(1_000), false), "that it is another's is not known");
        assert_eq!(story.ask_as("new", 2_010), (Get::Wait, true));
        assert!(story.lands("new", 2_020));
        assert_eq!(story.ask_as("new", 2_020), (story.known("new", 32_010), false));
    }

    #[test]
    fn who_waited_for_a_slow_answer_is_told_it() {
        for answer in [account("new"), Answer::Absent] {
            let mut story = Story::new();
            assert_eq!(story.ask_as("old", 0), (Get::Wait, true));
            assert_eq!(story.ask_as("other", 500), (Get::Wait, false));
            story.answers(answer.clone(), 3_000);
            assert_eq!(story.ask_as("other", 3_000), (story.finds(answer.clone(), 4_000), false));
            assert_eq!(story.ask_as("other", 3_999), (story.finds(answer, 4_000), false));
            assert_eq!(story.ask_as("other", 4_000), (Get::Wait, true));
        }
    }

    #[test]
    fn an_account_that_was_absent_is_asked_for_before_a_proven_caller_is_refused() {
        let mut story = Story::new();
        story.ask_as("old", 0);
        story.answers(Answer::Absent, 0);
        assert_eq!(story.ask_as("new", 999), (story.finds(Answer::Absent, 1_000), false), "asked once a second at most");
        assert_eq!(story.ask_as("new", 1_000), (Get::Wait, true));
        let (unproven, now) = (story.finds(Answer::Absent, 30_000), story.at(1_000));
        assert_eq!(story.account.ask(None, now), (unproven, false), "by AWS's word its age alone counts");
        story.lands("new", 1_010);
        assert_eq!(story.ask_as("new", 1_010), (story.known("new", 31_000), false));
    }

    #[test]
    fn that_an_account_is_gone_is_known_while_the_api_server_is_away() {
        for gone in [Answer::Absent, account("new")] {
            let mut story = Story::new();
            story.ask_as("old", 0);
            story.answers(gone.clone(), 10);
            assert_eq!(story.ask_as("old", 29_999), (story.finds(gone.clone(), 30_000), false));
            assert!(matches!(story.ask_as("old", 60_000), (Get::KnownAfter(..), true)));
            story.fails(60_010);
            assert_eq!(story.ask_as("old", 60_010), (story.finds(gone.clone(), 61_010), false));
            assert_eq!(story.ask_as("other", 60_010), (failed(1_000), false), "made since, it may be");
            let (unproven, now) = (story.finds(gone, 61_010), story.at(60_010));
            assert_eq!(story.account.ask(None, now), (unproven, false));
        }
    }

    #[test]
    fn a_read_for_nobodys_uid_buries_none() {
        let mut story = Story::new();
        let now = story.at(0);
        assert_eq!(story.account.ask(None, now), (Get::Wait, true));
        story.answers(Answer::Absent, 10);
        assert_eq!(story.ask_as("new", 1_010), (Get::Wait, true));
    }

    #[test]
    fn a_changed_or_removed_account_is_a_change() {
        let mut story = Story::new();
        story.ask(0);
        story.lands("uid", 0);
        assert!(story.answers(Answer::Absent, 1));
        assert!(!story.answers(Answer::Absent, 1));
        assert!(story.lands("uid", 2));
    }
}
