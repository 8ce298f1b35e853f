//! What this agent tells the one that follows it, and takes from the one before: the handover moves it and knows none of it.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use strum::FromRepr;
use tokio::sync::mpsc;

use crate::base::parcel::{Parcel, Unreadable};
use crate::broker::Broker;
use crate::cache::Expectation;
use crate::exchange::Exchanges;
use crate::limits::upstream::UpstreamBudget;
use crate::node::handover::directory::Directory;
use crate::node::handover::wire::{Body, MAX_FRAME, Part};
use crate::node::handover::{Estate, Handover};
use crate::observe::Context;

/// What a part is about. A number never changes its meaning; each part's own format has a version of its own.
#[derive(Debug, Clone, Copy, FromRepr)]
#[repr(u8)]
enum Kind {
    /// All key sets.
    Keys = 1,
    /// How far AWS has slowed this node down.
    Budget = 2,
    /// One entry of the cache.
    Entry = 3,
    /// A session that makes other calls.
    Session = 4,
    /// Which pods are known by which addresses.
    Pins = 5,
    /// Which pods are there, and which are gone.
    Departures = 6,
}

/// All that is handed over.
pub(super) struct Holdings {
    broker: Arc<Broker>,
    budget: UpstreamBudget,
    /// `None` where something else makes credentials.
    exchanges: Option<Arc<Exchanges>>,
    landings: mpsc::UnboundedReceiver<Parcel>,
    expected: Option<Expectation>,
}

/// This agent's place among those that share `directory`; none where that can't be used, and it serves as if there were none.
pub(super) fn begin(directory: Option<&Path>, context: &Context) -> Option<Handover> {
    let path = directory?;
    let begun = Directory::open(path).map_err(|error| error.to_string());
    let begun = begun.and_then(|directory| Handover::begin(directory, context).map_err(|error| error.to_string()));
    begun
        .inspect_err(|error| {
            tracing::warn!(%error, "no handover: this agent neither takes over from another one nor hands over to one");
            context.readiness.advisory("handover").pending(error);
        })
        .ok()
}

impl Holdings {
    pub(super) fn new(broker: Arc<Broker>, budget: UpstreamBudget, exchanges: Option<Arc<Exchanges>>) -> Self {
        let landings = broker.cache.landings();
        Self { broker, budget, exchanges, landings, expected: None }
    }

    fn sessions(&self) -> impl Iterator<Item = Part> {
        self.exchanges.iter().flat_map(|exchanges| exchanges.export()).map(|session| part(Kind::Session, session))
    }
}

impl Estate for Holdings {
    fn tell(&self) -> Vec<Part> {
        let whole = [
            part(Kind::Keys, self.broker.verifier.export()),
            part(Kind::Budget, self.budget.export()),
            part(Kind::Pins, self.broker.binding.export()),
            part(Kind::Departures, self.broker.pods.export()),
        ];
        let entries = self.broker.cache.export().map(|entry| part(Kind::Entry, entry));
        whole.into_iter().chain(self.sessions()).chain(entries).filter(fits).collect()
    }

    fn tell_again(&self) -> Vec<Part> {
        let whole = [part(Kind::Budget, self.budget.export()), part(Kind::Pins, self.broker.binding.export())];
        whole.into_iter().chain(self.sessions()).filter(fits).collect()
    }

    fn poll_landing(&mut self, context: &mut TaskContext<'_>) -> Poll<Part> {
        match self.landings.poll_recv(context) {
            Poll::Ready(Some(entry)) => Poll::Ready(part(Kind::Entry, entry)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn learn(&mut self, Part { kind, body }: Part) -> Result<(), Unreadable> {
        let parcel = Parcel::from_bytes(body);
        match Kind::from_repr(kind) {
            Some(Kind::Keys) => self.broker.verifier.import(&parcel),
            Some(Kind::Budget) => self.budget.import(&parcel),
            Some(Kind::Entry) => self.broker.cache.import(&parcel),
            Some(Kind::Session) => self.exchanges.as_ref().map_or(Ok(()), |exchanges| exchanges.import(&parcel)),
            Some(Kind::Pins) => self.broker.binding.import(&parcel),
            Some(Kind::Departures) => self.broker.pods.import(&parcel),
            None => Err(Unreadable::Version(Some(kind))),
        }
    }

    fn in_flight(&self) -> Body {
        self.broker.cache.in_flight().into_bytes()
    }

    fn expect(&mut self, loads: Option<Body>) {
        self.expected = loads.and_then(|loads| {
            let expected = self.broker.cache.expect(&Parcel::from_bytes(loads));
            expected.inspect_err(|error| tracing::warn!(%error, "which loads are in flight can't be read")).ok()
        });
    }
}

/// What no frame holds is left out: the other agent finds it out for itself.
fn fits(part: &Part) -> bool {
    let fits = part.body.len() < MAX_FRAME - 1_024;
    if !fits {
        tracing::warn!(kind = part.kind, bytes = part.body.len(), "too much of one kind to hand over");
    }
    fits
}

fn part(kind: Kind, parcel: Parcel) -> Part {
    Part { kind: kind.number(), body: parcel.into_bytes() }
}

impl Kind {
    #[expect(clippy::as_conversions, reason = "the representation is what travels")]
    fn number(self) -> u8 {
        self as u8
    }
}
