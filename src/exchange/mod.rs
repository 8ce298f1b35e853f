//! Token to session to credential: the production side of [`Mint`].
//!
//! One order is one attempt. Nothing here tries again, remembers or decides what a failure means for what is cached: a
//! [`Failure`] says what happened, and the cache draws the conclusions.

use std::sync::Arc;

use url::Url;

use crate::domain::mint::{Failure, Mint, Minting, Order};
use crate::domain::policy::Exchange;
use crate::egress::aws::Aws;
use crate::exchange::call::Calls;
use crate::exchange::pod_identity::PodIdentity;
use crate::limits::upstream::UpstreamBudget;
use crate::observe::Context;

mod answer;
mod call;
mod fault;
mod pod_identity;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

/// What the exchanges need to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The EKS cluster whose associations decide the roles; without it there is no Pod Identity exchange.
    pub cluster_name: Option<String>,
    /// EKS Auth's address, in place of the SDK's.
    pub endpoint: Option<Url>,
}

/// Makes credentials at AWS.
#[derive(Debug)]
pub struct Exchanges {
    pod_identity: PodIdentity,
}

impl Exchanges {
    /// Exchanges that spend `budget`. Touches no network: region and credentials are found by the first order.
    #[must_use]
    pub fn new(config: Config, aws: Arc<Aws>, budget: UpstreamBudget, context: Context) -> Self {
        Self { pod_identity: PodIdentity::new(config, aws, Calls { budget, context }) }
    }
}

impl Mint for Exchanges {
    fn mint(&self, order: Order) -> Minting<'_> {
        Box::pin(async move {
            match order.grant.exchange() {
                Exchange::PodIdentity => self.pod_identity.exchange(&order).await,
                Exchange::WebIdentity(_) => Err(Failure::Bug("no such exchange yet".into())),
            }
        })
    }
}

fn timed_out() -> Failure {
    Failure::Unavailable("timed out".into())
}
