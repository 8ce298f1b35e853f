//! Each request, and each connection that ends before it makes one, is counted here once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Clock, Now};
use crate::broker::Served;
use crate::domain::refusal::{Reason, Refusal};
use crate::front::reply;
use crate::observe::audit::{Audit, Who};
use crate::observe::metrics::{Limit, Metrics};
use crate::observe::sheds::Sheds;

/// Where the endpoint's numbers go.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
    pub(super) sheds: Arc<Sheds>,
}

impl Record {
    /// A credential was served to a request whose head was complete at `start`. A line for each is for a terminal only: it costs
    /// as much as the rest of a hit.
    pub(super) fn served(&self, served: &Served, start: Now) {
        let now = self.clock.now();
        let (took, valid_for) = (now.mono.saturating_duration_since(start.mono), now.until(served.expires_at));
        self.metrics.requests.served(valid_for);
        self.metrics.requests.finished(served.outcome, took);
        let outcome: &str = served.outcome.into();
        tracing::debug!(outcome, ?valid_for, ?took, "served");
    }

    /// A request whose head was complete at `start` was refused, by the front or by the broker.
    pub(super) fn refused(&self, reason: Reason, start: Now) {
        self.count(reason, self.since(start));
    }

    /// A connection broke the rules before it made a request, or instead of its next one.
    pub(super) fn broken(&self, reason: Reason) {
        self.count(reason, Duration::ZERO);
        self.audit(&reason.into());
    }

    /// A connection was closed by a cap. There is no audit line: a flood must not use up those of requests.
    pub(super) fn capped(&self, limit: Limit, source: IpAddr) {
        self.sheds.shed(limit, Some(source), self.clock.now());
        self.count(Reason::ConnCap, Duration::ZERO);
    }

    /// A connection was closed for where it came from. There is no audit line, as for a cap: nothing is known of its caller.
    pub(super) fn closed(&self, reason: Reason) {
        self.count(reason, Duration::ZERO);
    }

    /// The audit line of a refusal that the front itself decided; the broker writes its own.
    pub(super) fn audit(&self, refusal: &Refusal) {
        self.audit.refused(Who::Nobody, refusal, self.clock.now());
    }

    fn count(&self, reason: Reason, took: Duration) {
        tracing::debug!(reason = reason.label(), ?took, "refused");
        self.metrics.requests.refused(reason);
        self.metrics.requests.finished(reply::outcome(reason), took);
    }

    fn since(&self, start: Now) -> Duration {
        self.clock.now().mono.saturating_duration_since(start.mono)
    }
}
