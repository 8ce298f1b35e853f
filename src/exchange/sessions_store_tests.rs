//! What is kept and what is made anew: the rules of the store by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::tests::{leading, yielding};
use super::*;
use crate::base::secret::Secret;
use crate::domain::credential::{Provenance, Session};
use crate::domain::identity::Identity;
use crate::domain::mint::Denial;
use crate::exchange::testing::sts::{by_web_identity, order_for};
use crate::exchange::testing::{now, verified};

/// A store by itself, and how often sessions were made.
struct Bench {
    sessions: Arc<Sessions>,
    clock: Clock,
    made: Arc<AtomicUsize>,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::simulated(now());
        Self { sessions: Arc::new(Sessions::new(clock.clone())), clock, made: Arc::default() }
    }

    /// Asks for the base session of one subject in a task of its own; if it is to be made, that ends as `ending` says.
    fn get(&self, urgency: Urgency, patience: u64, ending: oneshot::Receiver<Ended>) -> Asking {
        let (sessions, made) = (Arc::clone(&self.sessions), Arc::clone(&self.made));
        let deadline = self.clock.now().mono + Duration::from_secs(patience);
        let order = Order { urgency, deadline, ..order_for(&by_web_identity(Vec::new())) };
        let session = issued(&self.clock, 3600);
        tokio::spawn(async move {
            let make = async move {
                made.fetch_add(1, Ordering::Relaxed);
                ending.await.unwrap().map(|()| session)
            };
            sessions.get(SessionKey::new(&order, 0), &order, make).await.map(drop)
        })
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

type Ended = Result<(), Failure>;
type Asking = tokio::task::JoinHandle<Ended>;

fn issued(clock: &Clock, life: u64) -> Issued {
    let session = Session {
        access_key_id: "ASIA1".into(),
        secret_access_key: Secret::new("s".into()),
        session_token: Secret::new("t".into()),
        expires_at: clock.now().wall + Duration::from_secs(life),
        assumed_role_arn: String::new(),
    };
    Issued::new(session, Provenance::default())
}

fn ending() -> (oneshot::Sender<Ended>, oneshot::Receiver<Ended>) {
    oneshot::channel()
}

#[tokio::test]
async fn targets_go_on_from_the_session_kept_while_the_default_role_is_renewed_and_if_that_fails() {
    let bench = Bench::new();
    let order = order_for(&leading());
    let key = || SessionKey::new(&order, 0);
    let kept = bench.sessions.renew(key(), &order, async { Ok(issued(&bench.clock, 3600)) }).await.unwrap();
    let unasked = || async { panic!("there is one") };
    let (end, ended) = ending();
    let failing = bench.sessions.renew(key(), &order, async { ended.await.unwrap().map(|()| issued(&bench.clock, 3600)) });
    let meanwhile = async {
        let target = bench.sessions.get(key(), &order, unasked()).await.unwrap();
        end.send(Err(Failure::Unavailable("503".into()))).unwrap();
        target
    };
    let (failed, target) = tokio::join!(failing, meanwhile);
    assert!(failed.is_err() && Arc::ptr_eq(&target, &kept));
    assert!(Arc::ptr_eq(&bench.sessions.get(key(), &order, unasked()).await.unwrap(), &kept));
    let renewed = bench.sessions.renew(key(), &order, async { Ok(issued(&bench.clock, 3600)) }).await.unwrap();
    assert!(!Arc::ptr_eq(&renewed, &kept), "what is served is made anew");
    assert!(Arc::ptr_eq(&bench.sessions.get(key(), &order, unasked()).await.unwrap(), &renewed));
}

#[tokio::test(start_paused = true)]
async fn who_waits_shares_the_failure_and_the_next_one_tries_anew() {
    let bench = Bench::new();
    let (end, first) = ending();
    let asking: Vec<_> = [first, ending().1, ending().1].map(|ending| bench.get(Urgency::Foreground, 10, ending)).into();
    yielding().await;
    let denied = Failure::Denied(Denial::new("AccessDenied"));
    end.send(Err(denied.clone())).unwrap();
    for asking in asking {
        assert_eq!(asking.await.unwrap(), Err(denied.clone()));
    }
    assert_eq!(bench.made(), 1);
    let (end, second) = ending();
    end.send(Ok(())).unwrap();
    assert_eq!(bench.get(Urgency::Foreground, 10, second).await.unwrap(), Ok(()));
    assert_eq!(bench.get(Urgency::Background, 10, ending().1).await.unwrap(), Ok(()));
    assert_eq!(bench.made(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_agent_goes_on_from_the_same_session_until_it_ends() {
    let [old, new] = [Bench::new(), Bench::new()];
    let (end, first) = ending();
    end.send(Ok(())).unwrap();
    old.get(Urgency::Foreground, 10, first).await.unwrap().unwrap();
    let parcels = old.sessions.export();
    parcels.iter().for_each(|parcel| new.sessions.import(parcel).unwrap());
    assert_eq!(new.get(Urgency::Background, 10, ending().1).await.unwrap(), Ok(()));
    assert_eq!((parcels.len(), old.made(), new.made()), (1, 1, 0));
    let later = Bench::new();
    later.clock.step(3600);
    parcels.iter().for_each(|parcel| later.sessions.import(parcel).unwrap());
    assert!(later.sessions.export().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_past_its_own_deadline() {
    let bench = Bench::new();
    let (end, first) = ending();
    let leader = bench.get(Urgency::Foreground, 10, first);
    yielding().await;
    let began = bench.clock.now().mono;
    assert_eq!(bench.get(Urgency::Foreground, 3, ending().1).await.unwrap(), Err(Failure::Unavailable("timed out".into())));
    assert_eq!(bench.clock.now().mono - began, Duration::from_secs(3));
    end.send(Ok(())).unwrap();
    assert_eq!((leader.await.unwrap(), bench.made()), (Ok(()), 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_does_not_wait_in_the_line_of_a_renewal() {
    let bench = Bench::new();
    let (end_renewal, first) = ending();
    let renewal = bench.get(Urgency::Background, 10, first);
    yielding().await;
    let (end_request, second) = ending();
    let request = bench.get(Urgency::Foreground, 10, second);
    yielding().await;
    let also = bench.get(Urgency::Background, 10, ending().1);
    yielding().await;
    assert_eq!(bench.made(), 2, "whoever comes then waits for the request's");
    end_request.send(Ok(())).unwrap();
    assert_eq!((request.await.unwrap(), also.await.unwrap()), (Ok(()), Ok(())));
    end_renewal.send(Err(Failure::Unavailable("late".into()))).unwrap();
    assert!(renewal.await.unwrap().is_err());
    assert_eq!(bench.get(Urgency::Foreground, 10, ending().1).await.unwrap(), Ok(()), "the good one stays");
}

#[tokio::test(start_paused = true)]
async fn when_the_one_who_makes_it_leaves_another_takes_over() {
    let bench = Bench::new();
    let (_never, first) = ending();
    let leader = bench.get(Urgency::Foreground, 10, first);
    yielding().await;
    let (end, second) = ending();
    let follower = bench.get(Urgency::Foreground, 10, second);
    yielding().await;
    leader.abort();
    yielding().await;
    end.send(Ok(())).unwrap();
    assert_eq!((follower.await.unwrap(), bench.made()), (Ok(()), 2));
}

/// A key that differs from others by its number, and an order for it.
fn numbered(number: usize) -> (SessionKey, Order) {
    let Subject::Verified(identity) = verified() else { panic!() };
    let subject = Subject::Verified(Identity { pod_uid: number.to_string(), ..identity });
    let order = Order { subject: Arc::new(subject), ..order_for(&by_web_identity(Vec::new())) };
    (SessionKey::new(&order, 0), order)
}

impl Bench {
    /// Uses the session of one subject, and says whether it had to be made.
    async fn makes(&self, number: usize) -> bool {
        let (key, order) = numbered(number);
        let mut made = false;
        let make = async {
            made = true;
            Ok(issued(&self.clock, 12 * 3600))
        };
        self.sessions.get(key, &order, make).await.unwrap();
        made
    }

    fn kept(&self) -> usize {
        self.sessions.places.lock().len()
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_places_are_taken_the_one_unused_for_longest_gives_way() {
    let bench = Bench::new();
    for number in 0..CAPACITY {
        assert!(bench.makes(number).await);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert!(!bench.makes(0).await, "used again");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(bench.makes(CAPACITY).await);
    assert_eq!(bench.kept(), CAPACITY);
    assert!(!bench.makes(0).await && !bench.makes(CAPACITY).await && !bench.makes(2).await);
    assert!(bench.makes(1).await, "this one has given way");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_any_more_is_forgotten_with_its_secrets() {
    let bench = Bench::new();
    assert!(bench.makes(0).await && bench.makes(1).await);
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(33 * 60)).await;
        assert!(!bench.makes(0).await, "one that is used stays for as long as it lives");
    }
    assert_eq!(bench.kept(), 1, "its pod is gone");
    assert!(bench.makes(1).await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_that_has_ended_or_was_left() {
    let bench = Bench::new();
    assert!(bench.makes(0).await && bench.makes(1).await);
    bench.clock.step(12 * 3600 - 60);
    let (key, order) = numbered(0);
    let left = bench.sessions.get(key, &order, std::future::pending());
    assert!(tokio::time::timeout(Duration::from_secs(1), left).await.is_err());
    assert_eq!(bench.kept(), 1, "the other one had ended");
    let (key, order) = numbered(1);
    bench.sessions.renew(key, &order, async { Ok(issued(&bench.clock, 3600)) }).await.unwrap();
    assert_eq!(bench.kept(), 0, "nobody waits for the one that was left, and what nobody needs is not kept");
}
