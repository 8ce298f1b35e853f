//! What follows from a change of policy or annotations: decisions are forgotten, and what is held by grants that are no more goes.
//!
//! The agent that stood by and serves now may hold what another one granted, by another policy.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cache::Cache;
use crate::domain::credential::Credential;
use crate::domain::identity::Subject;
use crate::domain::policy::{Claimant, Grant, Policy};
use crate::grants::{Grants, decision};
use crate::observe::Context;

/// A request that was granted before a change has had its answer so long after it: what it left in the cache is dropped then.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// The same for the loads of the agent that served before: what they bring comes so long after this one has begun to serve.
const LAST_LOADS: Duration = Duration::from_secs(11);

/// Where changes are told.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) policy: watch::Receiver<Arc<Policy>>,
    pub(super) accounts: watch::Receiver<()>,
}

/// Follows `changes` until shutdown.
pub(super) async fn follow(grants: Grants, mut changes: Changes, cache: Cache, context: Context) {
    let shutdown = context.tasks.shutting_down();
    tokio::pin!(shutdown);
    loop {
        let (serving, before) = (context.duty.is_serving(), grants.shared.memo.basis().policy);
        let again_after = tokio::select! {
            () = &mut shutdown => return,
            () = context.duty.until(!serving) => LAST_LOADS,
            Ok(()) = changes.policy.changed() => {
                let policy = Arc::clone(&changes.policy.borrow_and_update());
                grants.shared.memo.adopt(policy);
                STRAGGLERS
            }
            Ok(()) = changes.accounts.changed() => {
                grants.shared.memo.forget();
                STRAGGLERS
            }
        };
        grants.sweep(&cache, &before).await;
        let (grants, cache, shutdown) = (grants.clone(), cache.clone(), context.tasks.shutting_down());
        context.tasks.spawn(async move {
            tokio::select! {
                // What is held goes with this process, and who has been told of it looks through it itself.
                () = shutdown => (),
                () = tokio::time::sleep(again_after) => grants.sweep(&cache, &before).await,
            }
        });
    }
}

impl Grants {
    /// Drops what is held by grants that are none. Where annotations count that have not been read, what a rule of the policy
    /// `before` was about goes as well; the rest was granted by annotations, which another agent read or which have been
    /// forgotten: whoever asks next has them read. Looks through all rules for each entry, which is too long to keep requests
    /// waiting.
    pub(super) async fn sweep(&self, cache: &Cache, before: &Arc<Policy>) {
        let (grants, cache, before) = (self.clone(), cache.clone(), Arc::clone(before));
        let policy = self.shared.memo.basis().policy;
        let was_open = move |subject: &Subject, grant: &Grant, held: Option<&Credential>| {
            claimant(subject, held).is_some_and(|who| before.case(&who).is_open(grant.target()))
        };
        let granted = move |subject: &Subject, grant: &Grant, held: Option<&Credential>| {
            grants.still_grants(&policy, subject, grant, held).unwrap_or_else(|| was_open(subject, grant, held))
        };
        let sweep = move || cache.revoke(granted);
        match tokio::task::spawn_blocking(sweep).await {
            Ok(0) => (),
            Ok(dropped) => tracing::info!(dropped, "credentials whose grants have changed are dropped"),
            Err(error) => tracing::error!(%error, "not all credentials whose grants have changed are dropped"),
        }
    }

    /// Whether whoever has `held` by `grant`, or waits for it, would be granted the same now; `None` where the annotations that count
    /// have not been read.
    fn still_grants(&self, policy: &Policy, subject: &Subject, grant: &Grant, held: Option<&Credential>) -> Option<bool> {
        // What AWS gives for a token is how it is verified: no policy takes it back.
        if matches!(subject, Subject::Delegated(_)) && self.unruled(grant.audience()).is_ok_and(|unruled| unruled == *grant) {
            return Some(true);
        }
        let Some(who) = claimant(subject, held) else { return Some(false) };
        let case = policy.case(&who);
        let account = match self.accounts(&case, grant.target()) {
            None => None,
            Some(accounts) => Some(accounts.known(who.namespace(), who.service_account())?),
        };
        let now = decision::grant(&case, grant.audience(), grant.target(), account.as_ref());
        Some(now.is_ok_and(|now| now == *grant))
    }
}

/// Who is granted what: told by the token, or by AWS in what it gave for one that is not read here.
fn claimant(subject: &Subject, held: Option<&Credential>) -> Option<Claimant> {
    match subject {
        Subject::Verified(identity) => Some(identity.into()),
        Subject::Delegated(_) => held.map(|held| held.provenance().into()),
    }
}
