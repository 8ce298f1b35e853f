//! Sessions on their way to the next agent, so that a renewal behind a chain costs it no call for the base.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::parcel::{Parcel, Unreadable};
use crate::domain::credential::{PackedSession, Provenance};
use crate::domain::identity::Subject;
use crate::domain::policy::Grant;
use crate::exchange::answer::Issued;
use crate::exchange::sessions::{Flight, Place, SessionKey, Sessions, put};

/// Of what is packed.
const VERSION: u8 = 1;

/// A session with its key.
#[derive(Serialize, Deserialize)]
struct Told<'a> {
    subject: Cow<'a, Subject>,
    grant: Cow<'a, Grant>,
    hops: usize,
    #[serde(borrow)]
    session: PackedSession<'a>,
    provenance: Cow<'a, Provenance>,
    unused_for: Duration,
}

impl Sessions {
    /// One parcel for each session that may make another call.
    pub(in crate::exchange) fn export(&self) -> Vec<Parcel> {
        let now = self.clock.now();
        let places = self.swept(now);
        let pack = |(key, place): (&SessionKey, &Place)| {
            let issued = place.flight.session.get()?.as_ref().ok()?;
            let told = Told {
                subject: Cow::Borrowed(&key.subject),
                grant: Cow::Borrowed(&key.grant),
                hops: key.hops,
                session: (&issued.session).into(),
                provenance: Cow::Borrowed(&issued.provenance),
                unused_for: now.mono.saturating_duration_since(place.used_at),
            };
            Some(Parcel::pack(VERSION, &told))
        };
        places.iter().filter_map(pack).collect()
    }

    /// Takes a session of another agent of this node, unless it has ended or there is one of its kind.
    pub(in crate::exchange) fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        let Told { subject, grant, hops, session, provenance, unused_for } = parcel.open(VERSION)?;
        let key = SessionKey { subject: Arc::new(subject.into_owned()), grant: grant.into_owned(), hops };
        let issued = Arc::new(Issued::new(session.unpack(), provenance.into_owned()));
        let now = self.clock.now();
        let mut places = self.swept(now);
        if issued.is_usable(now) && !places.contains_key(&key) {
            let used_at = now.mono.checked_sub(unused_for).unwrap_or(now.mono);
            put(&mut places, key, &Arc::new(Flight::landed(issued)), used_at);
        }
        Ok(())
    }
}
