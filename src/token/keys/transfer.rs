//! Key sets on their way to the next agent, so that a restart while no source answers still verifies.
//!
//! What a source gives itself is always better than what another agent had of it; ages go on counting.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::parcel::{Parcel, Unreadable};
use crate::token::jwks::{self, Key};
use crate::token::keys::{KEPT, Keys, Source, SourceId};

/// Of what is packed.
const VERSION: u8 = 1;

/// All that is told.
#[derive(Serialize, Deserialize)]
struct Told<'a> {
    /// The issuer that a search has found.
    found: Option<&'a str>,
    #[serde(borrow)]
    sets: Vec<ToldSet<'a>>,
}

/// A source's last good set as it is told.
#[derive(Serialize, Deserialize)]
struct ToldSet<'a> {
    issuer: &'a str,
    label: &'a str,
    document: String,
    age: Duration,
}

/// A source's last good set as another agent had it.
#[derive(Debug)]
pub(super) struct Inherited {
    issuer: Arc<str>,
    label: String,
    keys: Vec<Key>,
    succeeded: Instant,
}

impl Keys {
    /// Each source's last good set, with its age.
    pub(in crate::token) fn pack(&self, now: Instant) -> Parcel {
        let sets = self.sources.iter().filter_map(|source| ToldSet::of(source, now)).collect();
        Parcel::pack(VERSION, &Told { found: self.found.as_deref(), sets })
    }

    /// Takes over what another agent knows, for those sources that have given nothing yet, whether they are here already or come
    /// later.
    pub(in crate::token) fn learn(&mut self, parcel: &Parcel, now: Instant) -> Result<(), Unreadable> {
        let Told { found, sets } = parcel.open(VERSION)?;
        self.found_before = found.map(Arc::from);
        self.inherited = sets.into_iter().filter_map(|set| set.unpack(now)).collect();
        (0..self.sources.len()).for_each(|index| self.inherit(SourceId(index)));
        Ok(())
    }

    /// The issuer that another agent's search has found.
    pub(in crate::token) fn found_before(&self) -> Option<&Arc<str>> {
        self.found_before.as_ref()
    }

    /// Gives a source that has given nothing yet what another agent had of it.
    pub(super) fn inherit(&mut self, id: SourceId) {
        let Some(source) = self.sources.get(id.0).filter(|source| source.succeeded.is_none()) else { return };
        let Some(index) = self.inherited.iter().position(|inherited| inherited.is_of(source)) else { return };
        let Inherited { keys, succeeded, .. } = self.inherited.swap_remove(index);
        let changed = self.change(id, |source| {
            source.succeeded = Some(succeeded);
            source.replace(keys)
        });
        self.generation += u64::from(changed);
    }
}

impl<'a> ToldSet<'a> {
    fn of(source: &'a Source, now: Instant) -> Option<Self> {
        let age = now.saturating_duration_since(source.succeeded?);
        let issuer = source.issuer.as_deref()?;
        let document = jwks::document(&source.keys);
        Some(Self { issuer, label: &source.label, document, age })
    }

    fn unpack(self, now: Instant) -> Option<Inherited> {
        let Self { issuer, label, document, age } = self;
        let keys = jwks::parse(document.as_bytes()).ok().filter(|_| age < KEPT)?;
        let succeeded = now.checked_sub(age)?;
        Some(Inherited { issuer: issuer.into(), label: label.to_owned(), keys, succeeded })
    }
}

impl Inherited {
    fn is_of(&self, source: &Source) -> bool {
        source.issuer.as_ref() == Some(&self.issuer) && source.label == self.label
    }
}
