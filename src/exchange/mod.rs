//! Token to session to credential: the production side of [`Mint`].
//!
//! A token is exchanged for a session, and each hop of a grant's chain goes on from the session before it; the last one is served.
//! One order is one attempt: nothing here tries again or decides what a failure means for what is cached: a [`Failure`] says what
//! happened, and the cache draws the conclusions. What is served is made anew, by one call for all who ask at once; what only
//! leads to it is kept.

use std::pin::Pin;
use std::sync::Arc;

use url::Url;

use crate::base::parcel::{Parcel, Unreadable};
use crate::domain::credential::Credential;
use crate::domain::mint::{Failure, Mint, Minting, Order};
use crate::domain::policy::Exchange;
use crate::egress::aws::Aws;
use crate::exchange::answer::Issued;
use crate::exchange::call::Calls;
use crate::exchange::pod_identity::PodIdentity;
use crate::exchange::sessions::{SessionKey, Sessions};
use crate::exchange::sts::Sts;
use crate::limits::upstream::UpstreamBudget;
use crate::observe::Context;

mod answer;
mod call;
mod chain;
mod fault;
mod pod_identity;
mod role;
mod sessions;
mod sts;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod trial;
mod web_identity;

/// What the exchanges need to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The EKS cluster whose associations decide the roles; without it there is no Pod Identity exchange.
    pub cluster_name: Option<Arc<str>>,
    /// EKS Auth's address, in place of the SDK's.
    pub endpoint: Option<Url>,
}

/// Makes credentials at AWS.
#[derive(Debug)]
pub struct Exchanges {
    pod_identity: PodIdentity,
    sts: Sts,
    sessions: Sessions,
    context: Context,
}

/// A session that is being made. Boxed, since one is made from another, and since the clients' futures are large.
type Making<'a> = Pin<Box<dyn Future<Output = Result<Issued, Failure>> + Send + 'a>>;

impl Exchanges {
    /// Exchanges that spend `budget`. Touches no network: region and credentials are found by the first order.
    #[must_use]
    pub fn new(config: Config, aws: Arc<Aws>, budget: UpstreamBudget, context: Context) -> Self {
        let calls = Arc::new(Calls { aws, budget, context: context.clone() });
        Self {
            pod_identity: PodIdentity::new(config, Arc::clone(&calls)),
            sts: Sts::new(calls),
            sessions: Sessions::new(context.clock.clone()),
            context,
        }
    }

    /// One parcel for each session that leads to others.
    #[must_use]
    pub fn export(&self) -> Vec<Parcel> {
        self.sessions.export()
    }

    /// Takes a session that leads to others from another agent of this node.
    ///
    /// # Errors
    /// [`Unreadable`] when another version packed it.
    pub fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        self.sessions.import(parcel)
    }

    async fn attempt(&self, order: &Order) -> Result<Credential, Failure> {
        let hops = order.grant.chain().len();
        let issued = self.sessions.renew(SessionKey::new(order, hops), order, self.make(order, hops)).await?;
        let credential = Credential::new(&issued.session, issued.provenance.clone(), self.context.clock.now());
        credential.map_err(|unservable| Failure::Bug(unservable.to_string()))
    }

    /// Makes the session after the first `hops` of the order's chain, from the one before it.
    fn make<'a>(&'a self, order: &'a Order, hops: usize) -> Making<'a> {
        Box::pin(async move {
            let Some(before) = hops.checked_sub(1) else { return self.exchange(order).await };
            let hop = order.grant.chain().get(before).ok_or_else(|| Failure::Bug("the chain has no such hop".into()))?;
            let caller = self.sessions.get(SessionKey::new(order, before), order, self.make(order, before)).await?;
            chain::assume(&self.sts, order, (hops, hop), &caller).await
        })
    }

    async fn exchange(&self, order: &Order) -> Result<Issued, Failure> {
        match order.grant.exchange() {
            Exchange::PodIdentity => self.pod_identity.exchange(order).await,
            Exchange::WebIdentity(asked) => web_identity::exchange(&self.sts, order, asked).await,
        }
    }
}

impl Mint for Exchanges {
    fn mint(&self, order: Order) -> Minting<'_> {
        Box::pin(async move { self.attempt(&order).await })
    }
}

fn timed_out() -> Failure {
    Failure::Unavailable("timed out".into())
}
