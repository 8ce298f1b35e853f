//! What the search does not come to: it has fewer agents or faults.

use super::*;

#[test]
fn who_ends_after_a_handover_that_failed_lets_the_others_take_the_seat_at_once() {
    let mut agent = Machine::default();
    let mut after = |events: &[Event]| events.iter().flat_map(|event| agent.step(*event)).collect::<Vec<_>>();
    let come = |link| [Event::Accepted(link), Event::Heard(link, Word::Hello)];
    after(&[Event::Seated]);
    after(&[come(0), come(1)].concat());
    let gives = after(&[Event::Terminate]);
    assert!(gives.contains(&Action::Say(1, Word::Go)), "{gives:?}");
    let resumes = after(&[Event::Late(1)]);
    assert!(resumes.ends_with(&[Action::Serve, Action::FreeSeat, Action::TakeSeat]), "{resumes:?}");
    assert_eq!(after(&[Event::Seated]), [Action::Unpublish, Action::LeaveSeat, Action::Close(0), Action::End]);
}

#[test]
fn a_handover_has_failed_where_the_one_who_serves_does_not_give_and_not_where_another_one_is_given_it() {
    let asks = || {
        let mut agent = Machine::default();
        let events =
            [Event::Unseated, Event::Connected(0), Event::Heard(0, Word::Welcome), Event::Ready, Event::Heard(0, Word::End)];
        events.into_iter().for_each(|event| drop(agent.step(event)));
        assert_eq!(agent.role(), Role::Offering(0));
        agent
    };
    assert_eq!(asks().step(Event::Late(0)), [Action::Count(Handover::Failed), Action::Close(0), Action::TakeSeat]);
    assert_eq!(asks().step(Event::Broken(0)), [Action::Close(0), Action::TakeSeat]);
}
