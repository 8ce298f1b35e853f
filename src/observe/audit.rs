//! The audit trail: who got which session, and who was refused and why.
//!
//! One event for each credential that AWS issued and one for each refusal, with target [`TARGET`], which no log level filters.
//! A hit writes nothing: the line of its issuance already leads from the access key that CloudTrail shows to the pod. Refusals
//! are limited, so that a pod that is refused in a loop can't fill a disk.

use parking_lot::Mutex;

use crate::base::bucket::Bucket;
use crate::base::clock::{Clock, Now};
use crate::domain::credential::{Credential, rfc3339};
use crate::domain::identity::{Identity, Presented, RawToken, Subject, TokenDigest};
use crate::domain::policy::Grant;
use crate::domain::refusal::Refusal;

/// The log target of audit lines.
pub const TARGET: &str = "audit";

/// Refusal lines a second, and at once.
const REFUSALS_PER_SECOND: f64 = 5.0;
const REFUSALS_BURST: f64 = 50.0;

/// Who was refused, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// Whoever it was presented no token.
    Nobody,
    /// The bearer of a token that proved nothing: its fingerprint is all that can be told.
    Bearer(RawToken<'a>),
    /// A caller who proved who it is.
    Caller(&'a Subject, &'a Presented),
}

impl<'a> Who<'a> {
    fn identity(self) -> Option<&'a Identity> {
        match self {
            Self::Caller(subject, _) => subject.identity(),
            Self::Nobody | Self::Bearer(_) => None,
        }
    }

    fn token_id(self) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::Bearer(token) => Some(TokenDigest::of(token.expose()).fingerprint()),
            Self::Caller(_, presented) => Some(presented.token_id.clone()),
        }
    }
}

/// Writes audit lines.
#[derive(Debug)]
pub struct Audit {
    refusals: Mutex<Refusals>,
}

#[derive(Debug)]
struct Refusals {
    budget: Bucket,
    /// Lines left out since the last one written.
    left_out: u64,
}

impl Audit {
    /// An audit trail whose limits run by `clock`.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let budget = Bucket::new(REFUSALS_PER_SECOND, REFUSALS_BURST, clock.now().mono);
        Self { refusals: Mutex::new(Refusals { budget, left_out: 0 }) }
    }

    /// AWS issued `credential` to `subject` by the token `presented`.
    pub fn issued(&self, subject: &Subject, presented: &Presented, grant: &Grant, credential: &Credential) {
        let identity = subject.identity();
        let provenance = credential.provenance();
        let exchange: &'static str = grant.exchange().into();
        let callers = &provenance.caller_access_key_ids;
        tracing::info!(
            target: TARGET,
            outcome = "issued",
            issuer = identity.map(|identity| &*identity.issuer),
            namespace = provenance.namespace,
            service_account = provenance.service_account,
            pod_name = identity.map(|identity| identity.pod.as_str()),
            pod_uid = identity.map(|identity| identity.pod_uid.as_str()),
            node = identity.and_then(|identity| identity.node.as_deref()),
            exchange,
            target_name = grant.target(),
            role_arn = provenance.role_arn,
            association_id = provenance.association_id,
            access_key_id = credential.access_key_id(),
            caller_access_key_ids = (!callers.is_empty()).then(|| callers.join(" ")),
            expiration = rfc3339(credential.expires_at()),
            upstream_request_id = provenance.upstream_request_id,
            token_id = presented.token_id,
        );
    }

    /// A request was refused.
    pub fn refused(&self, who: Who<'_>, refusal: &Refusal, now: Now) {
        let Some(left_out) = self.refusals.lock().admit(now) else { return };
        let identity = who.identity();
        tracing::info!(
            target: TARGET,
            outcome = "refused",
            reason = refusal.reason.label(),
            cause = refusal.cause,
            advice = refusal.advice,
            issuer = identity.map(|identity| &*identity.issuer),
            namespace = identity.map(|identity| identity.namespace.as_str()),
            service_account = identity.map(|identity| identity.service_account.as_str()),
            pod_name = identity.map(|identity| identity.pod.as_str()),
            pod_uid = identity.map(|identity| identity.pod_uid.as_str()),
            node = identity.and_then(|identity| identity.node.as_deref()),
            token_id = who.token_id(),
            left_out = (left_out > 0).then_some(left_out),
        );
    }
}

impl Refusals {
    /// Whether a line may be written now, and how many were left out before it.
    fn admit(&mut self, now: Now) -> Option<u64> {
        if self.budget.take(now.mono) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_are_limited_and_what_is_left_out_is_counted() {
        let clock = Clock::System;
        let audit = Audit::new(&clock);
        let written = (0..200).filter(|_| audit.refusals.lock().admit(clock.now()).is_some()).count();
        assert_eq!(written, 50);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(audit.refusals.lock().admit(clock.now()), Some(150));
    }
}
