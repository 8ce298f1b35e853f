//! The verifier: steps 6 to 15 of token validation, cheapest first.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::clock::{Clock, Now, from_unix_seconds};
use crate::base::parcel::{Parcel, Unreadable};
use crate::domain::identity::{BearerToken, Presented, RawToken, Subject, TokenDigest};
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::domain::refusal::{Reason, Refusal};
use crate::limits::verification::{DELEGATED, LOCAL, VerificationBudget};
use crate::observe::Context;
use crate::observe::metrics::Metrics;
use crate::token::Caller;
use crate::token::claims::Claims;
use crate::token::compact::Compact;
use crate::token::config::{Config, Standing};
use crate::token::header::Header;
use crate::token::keyring::Keyring;
use crate::token::memo::{Confirmed, Refused, Verified};
use crate::token::rules::Rules;
use crate::token::source::Access;
use crate::token::status::KeyringStatus;

/// From the complete head to when waiting for keys ends; 50 ms of the 900 are left for the answer.
const WAIT: Duration = Duration::from_millis(850);
/// For a source that has spent its budget; a token of it is back in less.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Verifies tokens against a keyring.
#[derive(Debug)]
pub struct Verifier {
    keyring: Keyring,
    rules: Rules,
    verified: Verified,
    refused: Refused,
    confirmed: Confirmed,
    budget: VerificationBudget,
    undecided: VerificationBudget,
    delegated_audience: Arc<str>,
    clock: Clock,
}

impl Verifier {
    /// A verifier whose keys are polled in the background, until shutdown.
    #[must_use]
    pub fn start(config: &Config, access: Access, context: &Context) -> Self {
        let keyring = Keyring::new(config.mode, context);
        keyring.start(config, access);
        Self::new(config, keyring, context.clock.clone(), &context.metrics)
    }

    /// A verifier that remembers nothing yet.
    #[must_use]
    pub fn new(config: &Config, keyring: Keyring, clock: Clock, metrics: &Metrics) -> Self {
        metrics.node_name_known.set(i64::from(config.node_name.is_some()));
        if config.node_name.is_none() {
            tracing::warn!("this node's name is not known: tokens of pods on other nodes are not refused");
        }
        Self {
            keyring,
            rules: Rules::new(config.audiences.clone(), config.node_name.clone()),
            verified: Verified::new(config.memo_capacity),
            refused: Refused::default(),
            confirmed: Confirmed::new(config.memo_capacity),
            budget: VerificationBudget::new(LOCAL, &clock),
            undecided: VerificationBudget::new(DELEGATED, &clock),
            // Claims are not read then, and delegated verification knows the Pod Identity exchange only.
            delegated_audience: POD_IDENTITY_AUDIENCE.into(),
            clock,
        }
    }

    /// Who presents `token`, asked at `asked`. A token seen before costs a look-up; only a missing key makes anyone wait.
    ///
    /// # Errors
    /// With the reason of the first check that fails.
    pub async fn verify(&self, token: RawToken<'_>, source: IpAddr, asked: Now) -> Result<Arc<Caller>, Refusal> {
        let generation = self.keyring.keys().generation();
        if let Some(caller) = self.verified.get(token.expose(), generation) {
            return in_time(caller, asked);
        }
        let token = BearerToken::parse(token.expose()).ok_or(Reason::TokenMalformed)?;
        let digest = TokenDigest::of(token.expose().as_bytes());
        if let Some(refusal) = self.refused.get(digest, generation, asked.mono) {
            return Err(refusal);
        }
        if !self.budget.admits(source, asked) {
            return Err(over_budget("too many failed verifications"));
        }
        let outcome = Box::pin(self.prove(token, digest, source, asked.mono + WAIT)).await;
        if let Err(refusal) = &outcome {
            self.failed(refusal, digest, generation, source);
        }
        outcome
    }

    /// The keys, for the next agent of this node.
    #[must_use]
    pub fn export(&self) -> Parcel {
        self.keyring.export()
    }

    /// Takes over the keys of another agent of this node, for sources that have given none yet: tokens are verified by them until
    /// those do, or until they are 24 hours old.
    ///
    /// # Errors
    /// [`Unreadable`] when another version packed it.
    pub fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        self.keyring.import(parcel)
    }

    /// What status shows.
    #[must_use]
    pub fn status(&self) -> KeyringStatus {
        self.keyring.status()
    }

    /// Steps 8 to 15.
    async fn prove(
        &self,
        token: BearerToken,
        digest: TokenDigest,
        source: IpAddr,
        deadline: Instant,
    ) -> Result<Arc<Caller>, Refusal> {
        let compact = Compact::split(token.expose())?;
        if self.keyring.standing(deadline).await? == Standing::Delegated {
            self.admit_undecided(digest, source)?;
            return Ok(Arc::new(self.delegated(token, digest)));
        }
        let header = Header::parse(&compact.header)?;
        self.keyring.find(&header.kid, deadline).await?;
        let proof = self.keyring.keys().prove(&header, &compact)?;
        let claims = Claims::parse(&compact.payload)?;
        let expires_at = from_unix_seconds(claims.exp);
        let token_id = claims.jti.clone().unwrap_or_else(|| digest.fingerprint());
        let now = self.clock.now();
        let (identity, audience) = self.rules.check(claims, &proof.issuers, now)?;
        let presented = Arc::new(Presented { token, expires_at, token_id });
        let caller = Arc::new(Caller { subject: Arc::new(Subject::Verified(identity)), presented, audience });
        self.verified.insert(Arc::clone(&caller), proof.generation, now.wall);
        Ok(caller)
    }

    /// EKS Auth has answered for this caller: while verification is delegated, its token is limited no more.
    pub fn confirm(&self, caller: &Caller) {
        if let Subject::Delegated(digest) = **caller.subject() {
            self.confirmed.insert(digest);
        }
    }

    /// Anyone can make a token that only EKS Auth can tell from a good one, so few of one source are tried.
    fn admit_undecided(&self, digest: TokenDigest, source: IpAddr) -> Result<(), Refusal> {
        let now = self.clock.now();
        if self.confirmed.contains(digest) {
            return Ok(());
        }
        if !self.undecided.admits(source, now) {
            return Err(over_budget("too many tokens that EKS Auth has not confirmed"));
        }
        self.undecided.charge(source, now);
        Ok(())
    }

    /// A caller of whom nothing is known. It is never remembered: anyone can make such a token.
    fn delegated(&self, token: BearerToken, digest: TokenDigest) -> Caller {
        let presented = Presented { token, expires_at: None, token_id: digest.fingerprint() };
        Caller {
            subject: Arc::new(Subject::Delegated(digest)),
            presented: Arc::new(presented),
            audience: Arc::clone(&self.delegated_audience),
        }
    }

    /// A failure is charged to its source, unless it is ours.
    fn failed(&self, refusal: &Refusal, digest: TokenDigest, generation: u64, source: IpAddr) {
        let now = self.clock.now();
        if !matches!(refusal.reason, Reason::KeysUnavailable | Reason::VerifyBudget) {
            self.budget.charge(source, now);
        }
        self.refused.insert(digest, refusal, generation, now.mono);
    }
}

fn over_budget(cause: &str) -> Refusal {
    Refusal::new(Reason::VerifyBudget, cause).retry_after(RETRY_AFTER)
}

/// Step 15: a token is remembered for longer than it is good.
fn in_time(caller: Arc<Caller>, now: Now) -> Result<Arc<Caller>, Refusal> {
    let expires_at = caller.presented.expires_at;
    if expires_at.is_some_and(|at| at > now.wall) { Ok(caller) } else { Err(Refusal::new(Reason::Expired, "exp has passed")) }
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
