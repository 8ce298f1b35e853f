//! What follows from a change of policy or annotations: decisions are forgotten, and what is held by grants that are no more goes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cache::Cache;
use crate::domain::credential::Credential;
use crate::domain::identity::Subject;
use crate::domain::policy::{Grant, Policy};
use crate::grants::Grants;
use crate::grants::claim::Claim;
use crate::observe::Context;

/// A request that was granted before a change has had its answer so long after it: what it left in the cache is dropped then.
const STRAGGLERS: Duration = Duration::from_secs(1);

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
        tokio::select! {
            () = &mut shutdown => return,
            Ok(()) = changes.policy.changed() => {
                let policy = Arc::clone(&changes.policy.borrow_and_update());
                grants.shared.memo.adopt(policy);
            }
            Ok(()) = changes.accounts.changed() => grants.shared.memo.forget(),
        }
        grants.sweep(&cache);
        let (grants, cache) = (grants.clone(), cache.clone());
        context.tasks.spawn(async move {
            tokio::time::sleep(STRAGGLERS).await;
            grants.sweep(&cache);
        });
    }
}

impl Grants {
    fn sweep(&self, cache: &Cache) {
        let policy = self.shared.memo.basis().policy;
        let dropped = cache.revoke(|subject, grant, held| self.still_grants(&policy, subject, grant, held));
        if dropped > 0 {
            tracing::info!(dropped, "credentials whose grants have changed are dropped");
        }
    }

    /// Whether whoever has `held` by `grant`, or waits for it, would be granted the same now.
    pub(super) fn still_grants(&self, policy: &Policy, subject: &Subject, grant: &Grant, held: Option<&Credential>) -> bool {
        let claim = match (subject, held) {
            (Subject::Verified(identity), _) => Claim::from(identity),
            // What AWS gives for a token is how it is verified: no policy takes it back.
            (Subject::Delegated(_), _) if self.unruled(grant.audience()).is_ok_and(|unruled| unruled == *grant) => return true,
            (Subject::Delegated(_), Some(held)) => Claim::from(held.provenance()),
            (Subject::Delegated(_), None) => return false,
        };
        let account = match self.accounts(policy, &claim.who) {
            None => None,
            Some(accounts) => match accounts.known(&claim.who.namespace, &claim.who.service_account) {
                Some(account) => Some(account),
                // Forgotten: nothing says that it has changed.
                None => return true,
            },
        };
        let now = claim.grant(policy, grant.audience(), grant.target(), account.as_ref());
        now.is_ok_and(|now| now == *grant)
    }
}
