//! Two agents of a node, each with its own AWS: what one has the other need not ask for.

use super::*;

/// Tells `to` all that `from` has.
fn tell(from: &World, to: &World) {
    from.cache.export().for_each(|parcel| to.cache.import(&parcel).unwrap());
}

fn slow(after: Duration) -> Act {
    Act::Issue { after, lifetime: 6 * HOUR }
}

#[tokio::test(start_paused = true)]
async fn what_one_holds_the_other_serves_and_renews_when_it_is_on_duty() {
    let [old, new] = [world(CONFIG, &[at_once(6 * HOUR)]), world(CONFIG, &[at_once(6 * HOUR)])];
    new.duty.set(false);
    let first = old.ask("pod").await.unwrap().credential;
    old.pass(HOUR).await;
    tell(&old, &new);
    let found = new.ask("pod").await.unwrap();
    assert_eq!((found.how, found.credential.document()), (How::Held, first.document()));

    old.duty.set(false);
    new.pass(4 * HOUR).await;
    assert_eq!((old.calls(), new.calls()), (1, 0), "nobody renews on standby");
    new.duty.set(true);
    new.pass(Duration::from_secs(1)).await;
    assert_eq!((old.calls(), new.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn each_landing_is_told_once_and_what_was_told_is_not_told_back() {
    let [old, new] = [world(CONFIG, &[at_once(6 * HOUR)]), world(CONFIG, &[at_once(6 * HOUR)])];
    let (mut of_old, mut of_new) = (old.cache.landings(), new.cache.landings());
    old.ask("pod").await.unwrap();
    new.cache.import(&of_old.recv().await.unwrap()).unwrap();
    assert_eq!(new.ask("pod").await.unwrap().how, How::Held);
    new.ask("other").await.unwrap();
    old.cache.import(&of_new.recv().await.unwrap()).unwrap();
    assert_eq!(old.ask("other").await.unwrap().how, How::Held);
    assert!(of_old.try_recv().is_err() && of_new.try_recv().is_err());
    assert_eq!((old.calls(), new.calls()), (1, 1));
    drop(of_new);
    new.ask("third").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_load_that_the_other_has_begun_is_waited_for() {
    let [old, new] = [world(CONFIG, &[slow(Duration::from_secs(2))]), world(CONFIG, &[at_once(HOUR)])];
    let mut landings = old.cache.landings();
    old.ask("pod").await.unwrap_err();
    let _expected = new.cache.expect(&old.cache.in_flight()).unwrap();
    assert_eq!(new.ask("pod").await.unwrap_err(), Missing::Pending);
    assert_eq!(new.ask("other").await.unwrap().how, How::Loaded, "only that one is waited for");
    new.cache.import(&landings.recv().await.unwrap()).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(new.ask("pod").await.unwrap().how, How::Held);
    assert_eq!((old.calls(), new.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_is_waited_for_no_longer() {
    let [old, new] = [world(CONFIG, &[slow(5 * HOUR)]), world(CONFIG, &[at_once(HOUR)])];
    old.ask("pod").await.unwrap_err();
    let expected = new.cache.expect(&old.cache.in_flight()).unwrap();
    new.ask("pod").await.unwrap_err();
    drop(expected);
    let asked = new.clock.now().mono;
    assert!(new.ask("pod").await.is_ok());
    assert_eq!((new.clock.now().mono, new.calls()), (asked, 1), "at once");
}

#[tokio::test(start_paused = true)]
async fn what_the_other_is_refused_is_refused_and_what_fails_by_chance_is_tried() {
    for (failure, calls) in [(Failure::Denied(Denial::new("no")), 0), (unavailable(), 1)] {
        let [old, new] = [world(CONFIG, &[Act::Fail(failure)]), world(CONFIG, &[at_once(HOUR)])];
        let mut landings = old.cache.landings();
        let of_new = async {
            let _expected = new.cache.expect(&old.cache.in_flight()).unwrap();
            let landed = async { new.cache.import(&landings.recv().await.unwrap()).unwrap() };
            let (_, ()) = tokio::join!(new.ask("pod"), landed);
            new.ask("pod").await
        };
        let (_, asked) = tokio::join!(old.ask("pod"), of_new);
        assert_eq!((asked.is_ok(), new.calls()), (calls > 0, calls));
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_no_more_room_than_there_is_and_no_place_for_what_has_ended() {
    let old = world(CONFIG, &[at_once(HOUR)]);
    for pod in ["one", "two", "three"] {
        old.ask(pod).await.unwrap();
    }
    let parcels: Vec<_> = old.cache.export().collect();
    let small = world(Config { capacity: 2, ..CONFIG }, &[at_once(HOUR)]);
    tell(&old, &small);
    assert!(small.metric("credlet_cache_entries 2"));
    let none = world(Config { capacity: 0, ..CONFIG }, &[at_once(HOUR)]);
    tell(&old, &none);
    assert!(none.metric("credlet_cache_entries 0"));

    let late = world(CONFIG, &[at_once(HOUR)]);
    old.duty.set(false);
    old.pass(HOUR - Duration::from_secs(60)).await;
    assert_eq!(old.cache.export().count(), 0);
    parcels.iter().for_each(|parcel| late.cache.import(parcel).unwrap());
    assert!(late.metric("credlet_cache_entries 0"));
}

#[tokio::test(start_paused = true)]
async fn what_another_version_says_is_not_understood() {
    use crate::base::parcel::{Parcel, Unreadable};
    let world = world(CONFIG, &[at_once(HOUR)]);
    for version in [0, 2] {
        let parcel = Parcel::pack(version, &"?");
        assert_eq!(world.cache.import(&parcel), Err(Unreadable::Version(Some(version))));
        assert!(world.cache.expect(&parcel).is_err());
    }
    assert_eq!(world.cache.import(&Parcel::pack(1, &"?")), Err(Unreadable::Damaged));
}
