//! What a caller may have at this moment: the policy in force and the annotations of service accounts, asked for a proven caller.
//!
//! What was decided is remembered until policy or annotations change, so that a caller seen before costs a look-up (`memo`). When
//! they change (`file` re-reads the policy, [`ServiceAccounts`] the annotations), what the cache holds by a grant that is no more
//! is dropped (`sweep`), and everything else stays as it is.

mod decision;
pub mod file;
mod memo;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::cache::Cache;
use crate::cluster::{self, Found, ServiceAccounts, Unavailable};
use crate::domain::credential::Provenance;
use crate::domain::identity::Identity;
use crate::domain::policy::{Case, Claimant, Exchange, Grant, Policy, Rule};
use crate::domain::refusal::{Reason, Refusal};
use crate::grants::file::{FileStatus, PolicyFile};
use crate::grants::memo::Memo;
use crate::grants::sweep::Changes;
use crate::observe::Context;
use crate::token::{ApiServer, Caller};

/// From the complete head of a request to when its wait for a service account ends; the rest of the 900 ms is for the answer.
const WAIT: Duration = Duration::from_millis(850);

/// What decides, beside the token's audience.
#[derive(Debug, Default)]
pub struct Config {
    /// `--cluster-name`; without it nothing leads to Pod Identity.
    pub cluster_name: Option<Arc<str>>,
    /// `--policy`, as it was read at the start.
    pub policy: Option<PolicyFile>,
    /// `--service-account-roles`: who tells the annotations.
    pub service_accounts: Option<Arc<ApiServer>>,
}

impl Config {
    /// Whether anybody's credentials come from STS.
    #[must_use]
    pub fn needs_sts(&self) -> bool {
        let by_policy = self.policy.as_ref().is_some_and(|file| file.policy().rules().iter().any(Rule::needs_sts));
        by_policy || self.service_accounts.is_some()
    }
}

/// What status shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The policy file, if there is one.
    pub policy: Option<FileStatus>,
    /// Service accounts, if their annotations count.
    pub service_accounts: Option<cluster::Status>,
}

/// Grants rights. Clones share them.
#[derive(Debug, Clone)]
pub struct Grants {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memo: Memo,
    accounts: Option<ServiceAccounts>,
    file: Option<watch::Receiver<FileStatus>>,
}

impl Grants {
    /// Grants by a policy that never changes.
    #[must_use]
    pub fn fixed(policy: Policy) -> Self {
        Self { shared: Arc::new(Shared { memo: Memo::new(policy.into()), accounts: None, file: None }) }
    }

    /// Grants by `config`. What `cache` holds by grants that have changed is dropped; the tasks that see to it run until shutdown.
    #[must_use]
    pub fn start(config: Config, cache: &Cache, context: &Context) -> Self {
        let without_rules = Policy::without_rules(config.cluster_name);
        let news = config.policy.map(|file| file.follow(context));
        let accounts = config.service_accounts.map(|server| ServiceAccounts::new(server, context.clone()));
        // What has no source is a closed channel, from which nothing is heard.
        let changes = Changes {
            policy: news.as_ref().map_or_else(|| watch::channel(without_rules.into()).1, |news| news.policy.clone()),
            accounts: accounts.as_ref().map_or_else(|| watch::channel(()).1, ServiceAccounts::changes),
        };
        let memo = Memo::new(Arc::clone(&changes.policy.borrow()));
        let file = news.map(|news| news.status);
        let grants = Self { shared: Arc::new(Shared { memo, accounts, file }) };
        context.tasks.spawn_critical("grants", sweep::follow(grants.clone(), changes, cache.clone(), context.clone()));
        grants
    }

    /// What a caller may have whose token was verified here. `target` is the NAME of the request, if it bore one; its head was
    /// complete at `asked`. A caller seen before costs a look-up; only a service account that has to be read makes anyone wait.
    ///
    /// # Errors
    /// The refusal that the caller is told.
    pub async fn verified(
        &self,
        caller: &Caller,
        identity: &Identity,
        target: Option<&str>,
        asked: Now,
    ) -> Result<Grant, Refusal> {
        match self.shared.memo.recall(caller, target, asked.mono) {
            Some(grant) => Ok(grant),
            None => Box::pin(self.decide(caller, identity, target, asked)).await,
        }
    }

    /// What a caller may have of whom nothing is known but a token for `audience`: whatever EKS Auth gives for it. No rule
    /// applies, though what it gives may lead on to what one names.
    ///
    /// # Errors
    /// When the agent knows no cluster in whose name EKS Auth could be asked.
    pub fn unruled(&self, audience: &Arc<str>) -> Result<Grant, Refusal> {
        self.shared.memo.basis().policy.unruled(audience, self.shared.accounts.is_some())
    }

    /// What a caller may have whom AWS has named: `confirmed` is where the credential came from that it gave for the token.
    ///
    /// # Errors
    /// The refusal that the caller is told.
    pub async fn confirmed(
        &self,
        confirmed: &Provenance,
        audience: &Arc<str>,
        target: Option<&str>,
        asked: Now,
    ) -> Result<Grant, Refusal> {
        let (policy, who) = (self.shared.memo.basis().policy, Claimant::from(confirmed));
        let case = policy.case(&who);
        let account = self.account(&case, target, asked.mono + WAIT).await?.map(|found| found.account);
        let grant = decision::grant(&case, audience, target, account.as_ref())?;
        match grant.exchange() {
            Exchange::PodIdentity => Ok(grant),
            Exchange::WebIdentity(_) => Err(unproven()),
        }
    }

    /// What status shows.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            policy: self.shared.file.as_ref().map(|status| status.borrow().clone()),
            service_accounts: self.shared.accounts.as_ref().map(ServiceAccounts::status),
        }
    }

    async fn decide(&self, caller: &Caller, identity: &Identity, target: Option<&str>, asked: Now) -> Result<Grant, Refusal> {
        let (basis, who) = (self.shared.memo.basis(), Claimant::from(identity));
        let case = basis.policy.case(&who);
        let found = self.account(&case, target, asked.mono + WAIT).await?;
        let grant = decision::grant(&case, caller.audience(), target, found.as_ref().map(|found| &found.account))?;
        self.shared.memo.remember(caller.subject(), &grant, found.map(|found| found.look_again), &basis);
        Ok(grant)
    }

    /// The claimant's service account, if its annotations count.
    async fn account(&self, case: &Case<'_>, target: Option<&str>, until: Instant) -> Result<Option<Found>, Refusal> {
        let Some(accounts) = self.accounts(case, target) else { return Ok(None) };
        let who = case.who();
        let found = accounts.get(who.namespace(), who.service_account(), who.service_account_uid(), until).await;
        found.map(Some).map_err(|why| Refusal::from(&why))
    }

    /// Who tells the annotations of a claimant, if they count.
    fn accounts(&self, case: &Case<'_>, target: Option<&str>) -> Option<&ServiceAccounts> {
        self.shared.accounts.as_ref().filter(|_| case.is_open(target))
    }
}

impl From<&Unavailable> for Refusal {
    fn from(why: &Unavailable) -> Self {
        Self::new(Reason::ServiceAccountUnavailable, &*why.error).retry_after(why.retry_after)
    }
}

fn unproven() -> Refusal {
    let advice = "This pod's role is taken by web identity, for which its token has to be verified on this node: tell the cluster's \
                  operator that no key source answers";
    Refusal::new(Reason::NoRole, "web identity, while verification is delegated").advice(advice)
}
