//! Entries on their way from agent to agent: all at once when one follows another, then each landing in both directions, so that
//! whichever of the two goes on has all that both had.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::base::clock::Now;
use crate::base::parcel::{Parcel, Unreadable};
use crate::cache::entry::told::PackedEntry;
use crate::cache::key::EntryKey;
use crate::cache::slots::{Loaded, Slot};
use crate::cache::{Cache, Shared};
use crate::domain::identity::Subject;
use crate::domain::policy::Grant;

/// Of both kinds of parcels: entries, and keys of loads under way.
const VERSION: u8 = 1;

/// What another agent is told, and what it is expected to bring.
#[derive(Default)]
pub(super) struct Transfer {
    mirror: Mutex<Option<mpsc::UnboundedSender<Parcel>>>,
    expected: watch::Sender<Keys>,
}

type Keys = HashSet<EntryKey, RandomState>;

/// An entry with its key.
#[derive(Serialize, Deserialize)]
pub(super) struct Told<'a> {
    subject: Cow<'a, Subject>,
    grant: Cow<'a, Grant>,
    #[serde(borrow)]
    entry: PackedEntry<'a>,
}

/// Loads of another agent that this one waits for. Once it is dropped, nobody waits any more.
#[derive(Debug)]
pub struct Expectation {
    shared: Arc<Shared>,
    keys: Keys,
}

impl Cache {
    /// One parcel for each entry that holds what may be served, or remembers a failure.
    pub fn export(&self) -> impl Iterator<Item = Parcel> + use<> {
        let now = self.shared.context.clock.now();
        self.shared.slots.all().into_iter().filter_map(move |slot| slot.news(now))
    }

    /// Takes one of another agent's entries: whatever of it is newer than what is held, and only while there is room to keep it.
    ///
    /// # Errors
    /// [`Unreadable`] when another version packed it.
    pub fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        let Told { subject, grant, entry } = parcel.open(VERSION)?;
        let key = EntryKey { subject: Arc::new(subject.into_owned()), grant: grant.into_owned() };
        let now = self.shared.context.clock.now();
        if let Some(slot) = self.shared.slots.learn(&key, entry, now) {
            self.shared.plan(&slot);
        }
        self.shared.transfer.expected.send_if_modified(|keys| keys.remove(&key));
        Ok(())
    }

    /// Every landing of this agent's own loads from now on, as [`Cache::import`] takes it; in place of an earlier receiver.
    #[must_use]
    pub fn landings(&self) -> mpsc::UnboundedReceiver<Parcel> {
        let (mirror, landings) = mpsc::unbounded_channel();
        *self.shared.transfer.mirror.lock() = Some(mirror);
        landings
    }

    /// What is being loaded now and will be among [`Cache::landings`].
    #[must_use]
    pub fn in_flight(&self) -> Parcel {
        let slots = self.shared.slots.all();
        let flying = slots.iter().filter(|slot| slot.is_flying()).map(|slot| (&*slot.key.subject, &slot.key.grant));
        Parcel::pack(VERSION, &flying.collect::<Vec<_>>())
    }

    /// Has this agent's own loads wait for what [`Cache::in_flight`] of another agent names, until it has been imported.
    ///
    /// # Errors
    /// [`Unreadable`] when another version packed it.
    pub fn expect(&self, in_flight: &Parcel) -> Result<Expectation, Unreadable> {
        let keys: Vec<(Subject, Grant)> = in_flight.open(VERSION)?;
        let key = |(subject, grant)| EntryKey { subject: Arc::new(subject), grant };
        let keys: Keys = keys.into_iter().map(key).collect();
        self.shared.transfer.expected.send_modify(|expected| expected.extend(keys.iter().cloned()));
        Ok(Expectation { shared: Arc::clone(&self.shared), keys })
    }
}

impl Transfer {
    /// Tells the other agent of an entry whose own load has landed.
    pub(super) fn mirror(&self, slot: &Slot, now: Now) {
        let mut mirror = self.mirror.lock();
        if let (Some(outbox), Some(told)) = (&*mirror, slot.pack(now))
            && outbox.send(told).is_err()
        {
            *mirror = None;
        }
    }

    /// What came of another agent's load of this entry; `None` if there is none, or if a load of this agent's own is needed all the
    /// same. Nothing is waited for that is not expected.
    pub(super) async fn outcome(&self, slot: &Slot, wait: impl Future<Output = ()>, now: impl Fn() -> Now) -> Option<Loaded> {
        let mut expected = self.expected.subscribe();
        if !expected.borrow_and_update().contains(&slot.key) {
            return None;
        }
        tokio::select! {
            _ = expected.wait_for(|keys| !keys.contains(&slot.key)) => slot.known(now()),
            () = wait => None,
        }
    }
}

impl<'a> Told<'a> {
    pub(super) fn pack(key: &'a EntryKey, entry: PackedEntry<'a>) -> Parcel {
        let (subject, grant) = (Cow::Borrowed(&*key.subject), Cow::Borrowed(&key.grant));
        Parcel::pack(VERSION, &Self { subject, grant, entry })
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.shared.transfer.expected.send_modify(|expected| expected.retain(|key| !self.keys.contains(key)));
    }
}
