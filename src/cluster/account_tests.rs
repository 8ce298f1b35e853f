//! What is known of one service account, told as stories: who is served, who waits, and who is refused.

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
