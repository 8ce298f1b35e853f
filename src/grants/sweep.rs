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

/// Where changes are told.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) policy: watch::Receiver<Arc<Policy>>,
    pub(super) accounts: watch::Receiver<()>,
}

/// What becomes of what is held for a service account whose annotations count and have not been read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unread {
    /// A rule was about it until now, or it has been forgotten: whoever asks next has it read.
    Dropped,
    /// Another agent read it: whoever asks next has it read again.
    Kept,
}

/// Follows `changes` until shutdown.
pub(super) async fn follow(grants: Grants, mut changes: Changes, cache: Cache, context: Context) {
    let shutdown = context.tasks.shutting_down();
    tokio::pin!(shutdown);
    loop {
        let serving = context.duty.is_serving();
        tokio::select! {
            () = &mut shutdown => return,
            () = context.duty.until(!serving) => {
                grants.sweep(&cache, Unread::Kept).await;
                continue;
            }
            Ok(()) = changes.policy.changed() => {
                let policy = Arc::clone(&changes.policy.borrow_and_update());
                grants.shared.memo.adopt(policy);
            }
            Ok(()) = changes.accounts.changed() => grants.shared.memo.forget(),
        }
        grants.sweep(&cache, Unread::Dropped).await;
        let (grants, cache) = (grants.clone(), cache.clone());
        context.tasks.spawn(async move {
            tokio::time::sleep(STRAGGLERS).await;
            grants.sweep(&cache, Unread::Dropped).await;
        });
    }
}

impl Grants {
    /// Drops what is held by grants that are none. Looks through all rules for each entry, which is too long to keep requests
    /// waiting.
    pub(super) async fn sweep(&self, cache: &Cache, unread: Unread) {
        let (grants, cache, policy) = (self.clone(), cache.clone(), self.shared.memo.basis().policy);
        let kept = matches!(unread, Unread::Kept);
        let granted =
            move |subject: &_, grant: &_, held: Option<&_>| grants.still_grants(&policy, subject, grant, held).unwrap_or(kept);
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
        let who = match (subject, held) {
            (Subject::Verified(identity), _) => Claimant::from(identity),
            // What AWS gives for a token is how it is verified: no policy takes it back.
            (Subject::Delegated(_), _) if self.unruled(grant.audience()).is_ok_and(|unruled| unruled == *grant) => {
                return Some(true);
            }
            (Subject::Delegated(_), Some(held)) => Claimant::from(held.provenance()),
            (Subject::Delegated(_), None) => return Some(false),
        };
        let case = policy.case(&who);
        let account = match self.accounts(&case, grant.target()) {
            None => None,
            Some(accounts) => Some(accounts.known(who.namespace(), who.service_account())?),
        };
        let now = decision::grant(&case, grant.audience(), grant.target(), account.as_ref());
        Some(now.is_ok_and(|now| now == *grant))
    }
}
