//! What is kept and what is made anew: the rules of the store by themselves, and their price in calls to AWS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::*;
use crate::base::secret::Secret;
use crate::domain::credential::{Provenance, Session};
use crate::domain::identity::{BearerToken, Identity};
use crate::domain::mint::{Denial, Mint};
use crate::domain::policy::{Claimant, POD_IDENTITY_AUDIENCE, Policy, WEB_IDENTITY_AUDIENCE};
use crate::exchange::testing::sts::{
    CI, Cloud, TARGET, THIRD, by_pod_identity, by_web_identity, error, held, hop, order_for, web_identity,
};
use crate::exchange::testing::{delegated, kind, now, verified};

const BASE: &str = "AssumeRoleWithWebIdentity nobody ci-account-iam-role";

fn target(number: usize) -> Hop {
    hop(&format!("arn:aws:iam::222222222222:role/target-{number}"))
}

async fn yielding() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ten_targets_cost_one_base_call_and_ten_hops() {
    let gate = Arc::new(Semaphore::new(0));
    let base_gate = Arc::clone(&gate);
    let hold = move |well| held(well, &base_gate);
    let cloud = Cloud::answering(move |call, well| if call.signer.is_none() { hold(well) } else { well }).await;
    let mut mints = JoinSet::new();
    for number in 0..10 {
        let (exchanges, order) = (Arc::clone(&cloud.setup.exchanges), order_for(&by_web_identity(vec![target(number)])));
        mints.spawn(async move { exchanges.mint(order).await });
    }
    while cloud.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    yielding().await;
    assert_eq!(cloud.briefly(), [BASE], "ten wait for one");
    gate.add_permits(1);
    let credentials: Vec<_> = mints.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(credentials.iter().all(|credential| credential.provenance().caller_access_key_ids == ["ASIA1"]));

    let calls = cloud.briefly();
    let hops = calls.iter().filter(|call| call.starts_with("AssumeRole ASIA1 target-")).count();
    assert_eq!((calls.len(), hops), (11, 10));
}

#[tokio::test]
async fn a_base_goes_on_while_more_than_a_minute_of_it_remains() {
    let cloud = Cloud::willing().await;
    let grant = by_web_identity(vec![hop(TARGET)]);
    let from_base = "AssumeRole ASIA1 target-account-iam-role";
    cloud.mint(&grant).await.unwrap();
    cloud.later(3600 - 70);
    let renewed = cloud.mint(&grant).await.unwrap();
    assert_eq!(cloud.briefly(), [BASE, from_base, from_base]);
    assert!(renewed.expires_at() > now() + Duration::from_secs(7000), "it outlives what made it");
    cloud.later(10);
    cloud.mint(&grant).await.unwrap();
    assert_eq!(cloud.briefly()[3..], [BASE, "AssumeRole ASIA4 target-account-iam-role"]);
}

#[tokio::test]
async fn a_hop_in_the_middle_is_kept_even_when_what_made_it_has_ended() {
    let cloud = Cloud::willing().await;
    let (to_target, to_third) = (by_web_identity(vec![hop(TARGET)]), by_web_identity(vec![hop(TARGET), hop(THIRD)]));
    cloud.mint(&to_target).await.unwrap();
    cloud.later(1800);
    cloud.mint(&to_third).await.unwrap();
    cloud.later(1800);
    cloud.mint(&to_third).await.unwrap();
    let calls = cloud.briefly();
    assert_eq!(calls[2..], ["AssumeRole ASIA1 target-account-iam-role", "AssumeRole ASIA3 third", "AssumeRole ASIA3 third"]);
}

#[tokio::test]
async fn what_is_served_is_made_anew_and_takes_the_place_of_what_is_kept() {
    let cloud = Cloud::willing().await;
    let (base, to_target) = (by_web_identity(Vec::new()), by_web_identity(vec![hop(TARGET)]));
    for _ in 0..2 {
        cloud.mint(&base).await.unwrap();
    }
    assert_eq!(cloud.briefly(), [BASE, BASE]);
    for grant in [&to_target, &base, &to_target] {
        cloud.mint(grant).await.unwrap();
    }
    let (third, fourth) = ("AssumeRole ASIA3 target-account-iam-role", "AssumeRole ASIA5 target-account-iam-role");
    assert_eq!(cloud.briefly()[2..], [BASE, third, BASE, fourth]);
}

/// The default grant of a caller with targets.
fn leading() -> Grant {
    let text = format!(
        "rules:\n- match: {{namespace: default, serviceAccount: s3-sa}}\n  role: {CI}\n  sessionName: ci\n  \
         targets: {{target: {{chain: [{{role: '{TARGET}'}}]}}}}\n"
    );
    let who = Claimant::hypothetical("default", "s3-sa");
    let grant = Policy::parse(&text, None).unwrap().case(&who).grant(&WEB_IDENTITY_AUDIENCE.into(), None, None).unwrap();
    assert_eq!((grant.exchange(), grant.leads_on()), (&web_identity(3600), true));
    grant
}

#[tokio::test]
async fn a_default_role_and_a_target_asked_at_once_cost_one_base_call() {
    let (default, target) = (leading(), by_web_identity(vec![hop(TARGET)]));
    for [first, second] in [[&default, &target], [&target, &default], [&default, &default]] {
        let gate = Arc::new(Semaphore::new(0));
        let base_gate = Arc::clone(&gate);
        let hold = move |well| held(well, &base_gate);
        let cloud = Cloud::answering(move |call, well| if call.signer.is_none() { hold(well) } else { well }).await;
        let mut mints = JoinSet::new();
        for grant in [first, second] {
            let (exchanges, order) = (Arc::clone(&cloud.setup.exchanges), order_for(grant));
            mints.spawn(async move { exchanges.mint(order).await });
            yielding().await;
        }
        while cloud.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        yielding().await;
        gate.add_permits(2);
        assert!(mints.join_all().await.iter().all(Result::is_ok));
        assert_eq!(cloud.briefly().iter().filter(|call| *call == BASE).count(), 1);
    }
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

#[tokio::test]
async fn a_session_that_aws_knows_no_more_is_made_anew_by_the_next_attempt() {
    for code in ["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId"] {
        let old = move |signer: Option<&str>| signer == Some("ASIA1");
        let refuse = move || error(403, code, "");
        let cloud = Cloud::answering(move |call, well| if old(call.signer.as_deref()) { refuse() } else { well }).await;
        let grant = by_web_identity(vec![hop(TARGET)]);
        assert_eq!(kind(&cloud.mint(&grant).await.unwrap_err()), "unavailable");
        assert_eq!(cloud.briefly().len(), 2, "one attempt");
        cloud.mint(&grant).await.unwrap();
        assert_eq!(cloud.briefly()[2..], [BASE, "AssumeRole ASIA3 target-account-iam-role"]);
    }
}

#[tokio::test]
async fn any_other_failure_of_a_hop_leaves_the_base_alone() {
    let refuse = || error(403, "AccessDenied", "");
    let cloud = Cloud::answering(move |call, well| if call.signer.is_some() { refuse() } else { well }).await;
    for _ in 0..2 {
        assert_eq!(kind(&cloud.mint(&by_web_identity(vec![hop(TARGET)])).await.unwrap_err()), "denied");
    }
    assert_eq!(cloud.briefly().iter().filter(|call| *call == BASE).count(), 1);
}

#[tokio::test]
async fn a_new_base_shows_the_newest_token() {
    let cloud = Cloud::willing().await;
    let grant = by_web_identity(vec![hop(TARGET)]);
    cloud.mint(&grant).await.unwrap();
    let mut order = order_for(&grant);
    let rotated = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ5In0.c2lnbmF0dXJl";
    Arc::make_mut(&mut order.presented).token = BearerToken::parse(rotated.as_bytes()).unwrap();
    cloud.setup.exchanges.mint(order.clone()).await.unwrap();
    assert_eq!(cloud.calls().len(), 3, "a rotated token is no reason for a new base");
    cloud.later(3600);
    cloud.setup.exchanges.mint(order).await.unwrap();
    assert_eq!(cloud.calls()[3].get("WebIdentityToken"), rotated);
}

#[tokio::test]
async fn nothing_prints_what_is_kept() {
    let cloud = Cloud::willing().await;
    cloud.mint(&by_web_identity(vec![hop(TARGET)])).await.unwrap();
    let shown = format!("{:?}", cloud.setup.exchanges);
    assert!(shown.contains("ASIA1") && !shown.contains("secret-1") && !shown.contains("token-1"));
}

#[test]
fn a_key_is_all_that_makes_a_session_what_it_is() {
    let key = |grant: &Grant, hops| SessionKey::new(&order_for(grant), hops);
    let chain = vec![hop(TARGET), hop(THIRD)];
    let whole = by_web_identity(chain.clone());
    assert_eq!(key(&whole, 0), key(&by_web_identity(Vec::new()), 0), "all targets of a subject share a base");
    assert_eq!(key(&whole, 1), key(&by_web_identity(vec![hop(TARGET), hop(CI)]), 1));
    assert_ne!(key(&whole, 1), key(&whole, 0));
    let external = Hop { external_id: Some("x".into()), ..hop(TARGET) };
    let tagged = Hop { tags: vec![("a".into(), "b".into())], ..hop(TARGET) };
    for other in [
        by_web_identity(vec![external]),
        by_web_identity(vec![tagged]),
        by_web_identity(vec![hop(THIRD)]),
        by_pod_identity(chain.clone()),
        Grant::for_tests(WEB_IDENTITY_AUDIENCE, web_identity(7200), chain.clone()),
        Grant::for_tests(POD_IDENTITY_AUDIENCE, web_identity(3600), chain),
    ] {
        assert_ne!(key(&whole, 1), key(&other, 1));
    }
    let of = |subject: Subject| SessionKey { subject: Arc::new(subject), ..key(&whole, 1) };
    let Subject::Verified(identity) = verified() else { panic!() };
    assert_eq!(of(verified()), key(&whole, 1));
    for other in [
        delegated(),
        Subject::Verified(Identity { pod_uid: "other".into(), ..identity.clone() }),
        Subject::Verified(Identity { service_account: "other".into(), ..identity.clone() }),
        Subject::Verified(Identity { issuer: "https://other".into(), ..identity }),
    ] {
        assert_ne!(of(other), key(&whole, 1));
    }
}

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
