//! Sessions that lead to others: what an exchange or a hop has brought is kept for as long as it can make another call, so that
//! ten targets behind one base cost one call for the base.
//!
//! Only sessions that are callers are kept here, never one that is served in place of a fresh one. They are kept by everything that
//! made them what they are: the verified subject, the exchange and each hop with its parameters. A session that its pod no longer
//! uses is forgotten long before it ends, secrets and all.

mod transfer;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::base::clock::{Clock, Now};
use crate::domain::identity::Subject;
use crate::domain::mint::{Failure, Order, Urgency};
use crate::domain::policy::{Exchange, Grant, Hop};
use crate::exchange::answer::Issued;
use crate::exchange::timed_out;

/// Sessions kept: four for each pod of the largest nodes. With more, the one that was not used for longest gives way.
const CAPACITY: usize = 1_024;

/// A session that nothing was made from for so long has nobody left who needs it: a session behind it lives for an hour at most, and
/// is renewed before.
const LONGEST_UNUSED: Duration = Duration::from_secs(75 * 60);

/// What a session is kept by: whose it is, and the way to it, which is a grant's exchange and the first `hops` of its chain.
#[derive(Debug, Clone)]
pub(super) struct SessionKey {
    subject: Arc<Subject>,
    grant: Grant,
    hops: usize,
}

/// The sessions kept.
#[derive(Debug)]
pub(super) struct Sessions {
    places: Mutex<HashMap<SessionKey, Place>>,
    clock: Clock,
}

/// A session's place.
#[derive(Debug)]
struct Place {
    flight: Arc<Flight>,
    used_at: Instant,
}

/// One making of a session, and what it brought: all who need the session meanwhile wait for it, and share its failure.
#[derive(Debug)]
struct Flight {
    /// Of the order that began it, in whose line its calls wait.
    urgency: Urgency,
    session: OnceCell<Result<Arc<Issued>, Failure>>,
}

impl Sessions {
    pub(super) fn new(clock: Clock) -> Self {
        Self { places: Mutex::default(), clock }
    }

    /// The session kept by `key`; `make` makes it unless there is one or it is being made.
    pub(super) async fn get<M>(&self, key: SessionKey, order: &Order, make: M) -> Result<Arc<Issued>, Failure>
    where
        M: Future<Output = Result<Issued, Failure>>,
    {
        self.join(key, order.urgency).land(order, make).await
    }

    /// A session that `make` makes to be served, or that is being made already. It is kept if it leads on as well, or in the place
    /// of the one that is kept by `key`, which meanwhile serves those who go on from it.
    pub(super) async fn renew<M>(&self, key: SessionKey, order: &Order, make: M) -> Result<Arc<Issued>, Failure>
    where
        M: Future<Output = Result<Issued, Failure>>,
    {
        let session = self.begin(&key, order.urgency).land(order, make).await?;
        self.keep(key, &session);
        Ok(session)
    }

    fn join(&self, key: SessionKey, urgency: Urgency) -> Arc<Flight> {
        let now = self.clock.now();
        let mut places = self.swept(now);
        if let Some(place) = places.get_mut(&key).filter(|place| place.flight.serves(urgency)) {
            place.used_at = now.mono;
            return Arc::clone(&place.flight);
        }
        let flight = Arc::new(Flight::begun(urgency));
        put(&mut places, key, &flight, now.mono);
        flight
    }

    /// The flight under way, or a new one. Others join the new one only where they have no session to go on from.
    fn begin(&self, key: &SessionKey, urgency: Urgency) -> Arc<Flight> {
        let now = self.clock.now();
        let mut places = self.swept(now);
        let found = places.get(key).map(|place| &place.flight);
        if let Some(flight) = found.filter(|flight| !flight.has_landed() && flight.serves(urgency)) {
            return Arc::clone(flight);
        }
        let flight = Arc::new(Flight::begun(urgency));
        if found.map_or(key.leads_on(), |found| !found.has_landed()) {
            put(&mut places, key.clone(), &flight, now.mono);
        }
        flight
    }

    fn keep(&self, key: SessionKey, session: &Arc<Issued>) {
        let now = self.clock.now();
        let mut places = self.swept(now);
        if let Some(place) = places.get_mut(&key) {
            place.flight = Arc::new(Flight::landed(Arc::clone(session)));
        } else if key.leads_on() {
            put(&mut places, key, &Arc::new(Flight::landed(Arc::clone(session))), now.mono);
        }
    }

    /// What is kept, without what is of no more use. There are few, and each look costs a call to AWS anyway.
    fn swept(&self, now: Now) -> MutexGuard<'_, HashMap<SessionKey, Place>> {
        let mut places = self.places.lock();
        places.retain(|_, place| place.is_of_use(now));
        places
    }
}

/// Gives `flight` the place of `key`.
fn put(places: &mut HashMap<SessionKey, Place>, key: SessionKey, flight: &Arc<Flight>, used_at: Instant) {
    if places.len() >= CAPACITY && !places.contains_key(&key) {
        let unused = places.iter().min_by_key(|(_, place)| place.used_at).map(|(key, _)| key.clone());
        unused.and_then(|unused| places.remove(&unused));
    }
    places.insert(key, Place { flight: Arc::clone(flight), used_at });
}

impl Place {
    fn is_of_use(&self, now: Now) -> bool {
        now.mono.saturating_duration_since(self.used_at) <= LONGEST_UNUSED && self.flight.is_of_use(now)
    }
}

impl Flight {
    fn begun(urgency: Urgency) -> Self {
        Self { urgency, session: OnceCell::new() }
    }

    fn landed(session: Arc<Issued>) -> Self {
        Self { urgency: Urgency::Foreground, session: OnceCell::new_with(Some(Ok(session))) }
    }

    /// What it brings to `order`; if nobody makes that, `make` does.
    async fn land<M>(&self, order: &Order, make: M) -> Result<Arc<Issued>, Failure>
    where
        M: Future<Output = Result<Issued, Failure>>,
    {
        let landed = self.session.get_or_init(|| async { make.await.map(Arc::new) });
        timeout_at(order.deadline, landed).await.map_err(|_| timed_out())?.clone()
    }

    fn has_landed(&self) -> bool {
        self.session.initialized()
    }

    /// Whether an order of `urgency` may take what it brings: it must not wait in the line of a less urgent one.
    fn serves(&self, urgency: Urgency) -> bool {
        self.has_landed() || self.urgency <= urgency
    }

    /// Whether it is under way, and not left by all who wanted it, or has brought what may make another call.
    fn is_of_use(self: &Arc<Self>, now: Now) -> bool {
        match self.session.get() {
            None => Arc::strong_count(self) > 1,
            Some(landed) => landed.as_ref().is_ok_and(|session| session.is_usable(now)),
        }
    }
}

impl SessionKey {
    /// The key of the session after the first `hops` of the order's chain.
    pub(super) fn new(order: &Order, hops: usize) -> Self {
        Self { subject: Arc::clone(&order.subject), grant: order.grant.clone(), hops }
    }

    /// Whether it is of the exchange's session, and that leads on.
    fn leads_on(&self) -> bool {
        self.hops == 0 && self.grant.leads_on()
    }

    fn way(&self) -> (&str, &Exchange, &[Hop]) {
        let hops = self.grant.chain().get(..self.hops).unwrap_or(self.grant.chain());
        (self.grant.audience(), self.grant.exchange(), hops)
    }
}

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        self.subject == other.subject && self.way() == other.way()
    }
}

impl Eq for SessionKey {}

impl Hash for SessionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.subject, self.way()).hash(state);
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "sessions_store_tests.rs"]
mod store_tests;
