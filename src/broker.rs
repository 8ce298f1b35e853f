//! The use case: a pod presents its token and gets credentials of its role.
//!
//! [`Broker::credentials`] is the whole line of steps, each a function of what the one before returned: the token proves a
//! caller, whose pod must be there and be where the token came from; the policy grants what that caller may have, the cache has it or fetches it. It knows no HTTP, and the steps know
//! nothing of each other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::base::clock::Now;
use crate::cache::{Cache, Found, How, Missing};
use crate::cluster::pods::Pods;
use crate::domain::identity::{RawToken, Subject};
use crate::domain::mint::Failure;
use crate::domain::policy::Grant;
use crate::domain::refusal::{Reason, Refusal};
use crate::grants::Grants;
use crate::limits::pods::PodRates;
use crate::node::source::binding::SourceBinding;
use crate::observe::Context;
use crate::observe::audit::Who;
use crate::observe::metrics::{Limit, Outcome};
use crate::token::{Caller, Verifier};

/// When a client should ask again that came before the answer of AWS did, or met a limit.
const SOON: Duration = Duration::from_secs(1);

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The bearer token: something of a JWT's length; nothing about it is verified yet.
    pub token: RawToken<'a>,
    /// The NAME in the path, if there is one.
    pub target: Option<&'a str>,
    /// Where the connection comes from; never a proof of anything.
    pub source: IpAddr,
    /// When the head was complete.
    pub at: Now,
}

/// What is served.
#[derive(Debug, Clone)]
pub struct Served {
    /// The response body.
    pub document: Bytes,
    /// How it came.
    pub outcome: Outcome,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// The steps and what they need.
#[derive(Debug)]
pub struct Broker {
    /// Proof of tokens.
    pub verifier: Verifier,
    /// `--pod-watch`: which pods are gone.
    pub pods: Pods,
    /// `--source-binding`: where each pod is.
    pub binding: Arc<SourceBinding>,
    /// `--pod-rate`.
    pub rates: PodRates,
    /// What a caller may have.
    pub grants: Grants,
    /// Credentials held.
    pub cache: Cache,
    /// Time, metrics, audit.
    pub context: Context,
}

impl Broker {
    /// Credentials for whoever presents the token, within 900 ms of `ask.at` whatever AWS does.
    ///
    /// # Errors
    /// The refusal that the caller is told.
    pub async fn credentials(&self, ask: Ask<'_>) -> Result<Served, Refusal> {
        let proof = self.verifier.verify(ask.token, ask.source, ask.at).await;
        let caller = proof.inspect_err(|refusal| self.refused(Who::Bearer(ask.token), refusal, ask.source))?;
        let served = self.serve(&caller, ask).await;
        let who = Who::Caller(caller.subject(), caller.presented());
        let served = served.inspect_err(|refusal| self.refused(who, refusal, ask.source))?;
        self.verifier.confirm(&caller);
        Ok(served)
    }

    async fn serve(&self, caller: &Caller, ask: Ask<'_>) -> Result<Served, Refusal> {
        self.pods.admit(caller.subject(), ask.at)?;
        self.binding.admit(caller.subject(), caller.presented(), ask.source, ask.at).await?;
        if !self.rates.admits(caller.subject(), ask.at) {
            return Err(Refusal::from(Reason::PodRate).retry_after(SOON));
        }
        let found = match &**caller.subject() {
            Subject::Verified(identity) => {
                let grant = self.grants.verified(caller, identity, ask.target, ask.at).await?;
                self.credential(caller, &grant, ask.at).await?
            }
            Subject::Delegated(_) => Box::pin(self.delegated(caller, ask)).await?,
        };
        Ok(Served::from(&found))
    }

    /// Only AWS can tell whose token this is, and tells with the credential that it gives for it: that comes first, and what the
    /// policy gives is asked for the one whom it names.
    async fn delegated(&self, caller: &Caller, ask: Ask<'_>) -> Result<Found, Refusal> {
        let unruled = self.grants.unruled(caller.audience())?;
        let found = self.credential(caller, &unruled, ask.at).await?;
        let confirmed = found.credential.provenance();
        let grant = self.grants.confirmed(confirmed, caller.audience(), ask.target, ask.at).await?;
        if grant == unruled { Ok(found) } else { self.credential(caller, &grant, ask.at).await }
    }

    async fn credential(&self, caller: &Caller, grant: &Grant, asked: Now) -> Result<Found, Refusal> {
        self.cache.credential(caller, grant, asked).await.map_err(refusal)
    }

    fn refused(&self, who: Who<'_>, refusal: &Refusal, source: IpAddr) {
        let now = self.context.clock.now();
        if let Some(limit) = limit_of(refusal.reason) {
            self.context.sheds.shed(limit, Some(source), now);
        }
        self.context.audit.refused(who, refusal, now);
    }
}

/// The limit that sheds with this reason, if it is one that sheds.
#[expect(clippy::wildcard_enum_match_arm, reason = "all others refuse")]
fn limit_of(reason: Reason) -> Option<Limit> {
    match reason {
        Reason::VerifyBudget => Some(Limit::Verification),
        Reason::PodRate => Some(Limit::PodRate),
        Reason::CacheFull => Some(Limit::CacheSize),
        _ => None,
    }
}

impl From<&Found> for Served {
    fn from(Found { credential, how }: &Found) -> Self {
        let outcome = match how {
            How::Held => Outcome::Hit,
            How::Loaded => Outcome::Fresh,
            How::Stale => Outcome::Stale,
        };
        Self { document: credential.document(), outcome, expires_at: credential.expires_at() }
    }
}

/// What the caller is told when there are no credentials for it.
fn refusal(missing: Missing) -> Refusal {
    let (failure, remembered) = match missing {
        Missing::Failed { failure, remembered } => (failure, remembered),
        Missing::Pending => return Refusal::from(Reason::UpstreamTimeout).retry_after(SOON),
        Missing::Full => return Refusal::from(Reason::CacheFull).retry_after(SOON),
    };
    let reason = match &failure {
        Failure::Denied(denial) => {
            let refusal = Refusal::new(Reason::UpstreamDenied, failure.to_string());
            return Refusal { advice: denial.advice.clone(), ..refusal };
        }
        Failure::Throttled { .. } => Reason::UpstreamThrottled,
        Failure::Unavailable(_) => Reason::UpstreamUnavailable,
        Failure::Misconfigured(_) => Reason::UpstreamMisconfigured,
        Failure::Bug(_) => Reason::UpstreamMismatch,
    };
    Refusal::new(reason, failure.to_string()).retry_after(remembered.unwrap_or(SOON))
}
