//! What every call to AWS has in common: a client that the first order makes, a permit of the node's budget, a deadline, a count.

use std::sync::Arc;

use aws_config::SdkConfig;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::domain::mint::{Failure, Order};
use crate::egress::aws::Aws;
use crate::exchange::timed_out;
use crate::limits::upstream::UpstreamBudget;
use crate::observe::Context;
use crate::observe::metrics::Operation;

/// Makes calls within the node's budget.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) aws: Arc<Aws>,
    pub(super) budget: UpstreamBudget,
    pub(super) context: Context,
}

impl Calls {
    /// The client in `cell`, made by the first call that needs it. Credentials are found by its first call, not by this.
    pub(super) async fn client<'c, C>(
        &self,
        cell: &'c OnceCell<C>,
        deadline: Instant,
        connect: impl FnOnce(&SdkConfig) -> C,
    ) -> Result<&'c C, Failure> {
        let client = cell.get_or_try_init(|| async { self.aws.config().await.map(connect) });
        let client = timeout_at(deadline, client).await.map_err(|_| timed_out())?;
        client.map_err(|error| Failure::Misconfigured(error.to_string()))
    }

    /// Makes `call` once there is a permit for it, and tells the budget when AWS asks for fewer.
    pub(super) async fn make<T, C>(&self, operation: Operation, order: &Order, call: C) -> Result<T, Failure>
    where
        C: Future<Output = Result<T, Failure>>,
    {
        // Only what AWS says counts: the node's own line is also told as throttling.
        let heard = async {
            let result = call.await;
            if let Err(Failure::Throttled { retry_after }) = &result {
                self.budget.throttled(*retry_after);
            }
            result
        };
        self.budget.spend(operation, order.into(), heard).await
    }
}
