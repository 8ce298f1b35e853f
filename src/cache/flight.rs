//! One load of one entry, in its own task: whoever waits for it shares its result, and it lands even if nobody waits any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::base::backoff::doubled;
use crate::cache::Shared;
use crate::cache::entry::Landed;
use crate::cache::slots::{Loaded, Progress, Slot};
use crate::domain::mint::{Failure, Order, Urgency};

/// The longest a load takes, waiting for its permit included.
const LONGEST: Duration = Duration::from_secs(10);
/// Of that, what is left for a load of this agent's own when another one brings nothing.
const OWN_TIME: Duration = Duration::from_secs(5);
/// A load that a request waits for tries so often: SDKs retry at once or not at all, so patience has to be here.
const ATTEMPTS: u32 = 4;
/// Full-jitter pause after the first failed attempt: up to this, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(400);

/// Runs the load that `slot`'s entry has just marked as begun.
pub(super) fn launch(shared: &Arc<Shared>, slot: &Arc<Slot>, urgency: Urgency) -> JoinHandle<Loaded> {
    let (shared, slot) = (Arc::clone(shared), Arc::clone(slot));
    let tasks = shared.context.tasks.clone();
    let deadline = shared.context.clock.now().mono + LONGEST;
    tasks.spawn(async move {
        if let Some(result) = handed_on(&shared, &slot, deadline).await {
            return result;
        }
        let load = shared.context.tasks.spawn(fly(Arc::clone(&shared), Arc::clone(&slot), urgency, deadline));
        let result = load.await.unwrap_or_else(|_| Err(Failure::Bug("the load panicked".into())));
        land(&shared, &slot, &result);
        result
    })
}

/// What another agent has brought that was loading this when it stood down, so that AWS is not asked twice.
async fn handed_on(shared: &Shared, slot: &Slot, deadline: Instant) -> Option<Loaded> {
    let clock = &shared.context.clock;
    let result = shared.transfer.outcome(slot, tokio::time::sleep_until(deadline - OWN_TIME), || clock.now()).await?;
    slot.conclude(result.clone());
    shared.plan(slot);
    Some(result)
}

async fn fly(shared: Arc<Shared>, slot: Arc<Slot>, urgency: Urgency, deadline: Instant) -> Loaded {
    let attempts = if urgency == Urgency::Foreground { ATTEMPTS } else { 1 };
    for attempt in 1.. {
        let result = attempt_once(&shared, &slot, urgency, deadline).await;
        let Err(failure @ (Failure::Unavailable(_) | Failure::Throttled { .. })) = result else { return result };
        let pause = doubled(FIRST_PAUSE, attempt, LONGEST).mul_f64(rand::random());
        if attempt >= attempts || shared.context.clock.now().mono + pause >= deadline {
            return Err(failure);
        }
        slot.publish(Progress::Flying(Some(failure)));
        tokio::time::sleep(pause).await;
    }
    Err(Failure::Bug("no attempt was made".into()))
}

async fn attempt_once(shared: &Shared, slot: &Slot, urgency: Urgency, deadline: Instant) -> Loaded {
    let presented = slot.newest();
    let order = Order {
        subject: Arc::clone(&slot.key.subject),
        presented: Arc::clone(&presented),
        grant: slot.key.grant.clone(),
        urgency,
        deadline,
    };
    let credential = shared.mint.mint(order).await?;
    shared.context.audit.issued(&slot.key.subject, &presented, &slot.key.grant, &credential);
    Ok(Arc::new(credential))
}

fn land(shared: &Shared, slot: &Slot, result: &Loaded) {
    let now = shared.context.clock.now();
    shared.pause.learn(slot, result, now, &shared.context.metrics);
    let landed = slot.land(result.clone(), rand::random(), now);
    shared.transfer.mirror(slot, now);
    shared.plan(slot);
    note(shared, slot, &landed, result);
}

fn note(shared: &Shared, slot: &Slot, landed: &Landed, result: &Loaded) {
    if *landed == Landed::Unconfirmed {
        shared.context.metrics.cache.denials_unconfirmed.inc();
    }
    let Err(failure) = result else { return };
    let identity = slot.key.subject.identity();
    tracing::warn!(
        namespace = identity.map(|identity| identity.namespace.as_str()),
        service_account = identity.map(|identity| identity.service_account.as_str()),
        pod_name = identity.map(|identity| identity.pod.as_str()),
        target_name = slot.key.grant.target(),
        still_served = matches!(landed, Landed::Kept | Landed::Unconfirmed),
        error = %failure,
        advice = failure.advice(),
        "no new credentials"
    );
}
