//! Sessions that lead to others: what an exchange or a hop has brought is kept for as long as it can make another call, so that
//! ten targets behind one base cost one call for the base.
//!
//! Only sessions that are callers are kept here, never one that is served in place of a fresh one. They are kept by everything that
//! made them what they are: the verified subject, the exchange and each hop with its parameters.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use crate::base::clock::{Clock, Now};
use crate::domain::identity::Subject;
use crate::domain::mint::{Failure, Order, Urgency};
use crate::domain::policy::{Exchange, Grant, Hop};
use crate::exchange::answer::Issued;
use crate::exchange::timed_out;

/// Sessions kept: four for each pod of the largest nodes. More than these are made anew each time.
const CAPACITY: usize = 1_024;

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
    flights: Mutex<HashMap<SessionKey, Arc<Flight>>>,
    clock: Clock,
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
        Self { flights: Mutex::default(), clock }
    }

    /// The session kept by `key`; `make` makes it unless there is one or it is being made.
    pub(super) async fn get<M>(&self, key: SessionKey, order: &Order, make: M) -> Result<Arc<Issued>, Failure>
    where
        M: Future<Output = Result<Issued, Failure>>,
    {
        let flight = self.join(key, order.urgency);
        let landed = flight.session.get_or_init(|| async { make.await.map(Arc::new) });
        timeout_at(order.deadline, landed).await.map_err(|_| timed_out())?.clone()
    }

    /// Keeps a session that was made to be served if it leads on as well, or in the place of one that is kept by `key`.
    pub(super) fn offer(&self, key: SessionKey, session: &Arc<Issued>) {
        let mut flights = self.swept();
        let leads_on = key.hops == 0 && key.grant.leads_on();
        if flights.contains_key(&key) || (leads_on && flights.len() < CAPACITY) {
            flights.insert(key, Arc::new(Flight::landed(Arc::clone(session))));
        }
    }

    fn join(&self, key: SessionKey, urgency: Urgency) -> Arc<Flight> {
        let mut flights = self.swept();
        if let Some(flight) = flights.get(&key).filter(|flight| flight.serves(urgency)) {
            return Arc::clone(flight);
        }
        let flight = Arc::new(Flight::begun(urgency));
        if flights.len() < CAPACITY || flights.contains_key(&key) {
            flights.insert(key, Arc::clone(&flight));
        }
        flight
    }

    /// What is kept, without what is of no more use. There are few, and each look costs a call to AWS anyway.
    fn swept(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<Flight>>> {
        let now = self.clock.now();
        let mut flights = self.flights.lock();
        flights.retain(|_, flight| flight.is_of_use(now));
        flights
    }
}

impl Flight {
    fn begun(urgency: Urgency) -> Self {
        Self { urgency, session: OnceCell::new() }
    }

    fn landed(session: Arc<Issued>) -> Self {
        Self { urgency: Urgency::Foreground, session: OnceCell::new_with(Some(Ok(session))) }
    }

    /// Whether an order of `urgency` may take what it brings: it must not wait in the line of a less urgent one.
    fn serves(&self, urgency: Urgency) -> bool {
        self.session.initialized() || self.urgency <= urgency
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
