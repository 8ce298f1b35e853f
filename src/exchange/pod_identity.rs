//! EKS Auth `AssumeRoleForPodIdentity` (API version 2023-11-26): the association decides the role.
//!
//! The SDK's own log lines hold headers and bodies at debug and trace; the log sink holds foreign crates to info, so none of
//! them is written at any verbosity.

use std::sync::Arc;

use aws_sdk_eksauth::Client;
use aws_sdk_eksauth::config::Builder;
use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use crate::domain::credential::Credential;
use crate::domain::mint::{Failure, Order};
use crate::egress::EgressError;
use crate::egress::aws::Aws;
use crate::exchange::call::Calls;
use crate::exchange::{Config, answer, fault, timed_out};
use crate::observe::metrics::Operation;

/// The Pod Identity exchange.
#[derive(Debug)]
pub(super) struct PodIdentity {
    config: Config,
    aws: Arc<Aws>,
    calls: Calls,
    client: OnceCell<Client>,
}

impl PodIdentity {
    pub(super) fn new(config: Config, aws: Arc<Aws>, calls: Calls) -> Self {
        Self { config, aws, calls, client: OnceCell::new() }
    }

    /// Trades the order's token for a credential, in one call.
    pub(super) async fn exchange(&self, order: &Order) -> Result<Credential, Failure> {
        let client = timeout_at(order.deadline, self.client()).await.map_err(|_| timed_out())??;
        self.calls.make(Operation::AssumeRoleForPodIdentity, order, self.attempt(client, order)).await
    }

    /// The client, made by the first order. Credentials are found by the first call, not by this.
    async fn client(&self) -> Result<&Client, Failure> {
        let client = self.client.get_or_try_init(|| self.connect()).await;
        client.map_err(|error| Failure::Misconfigured(error.to_string()))
    }

    async fn connect(&self) -> Result<Client, EgressError> {
        let mut config = Builder::from(self.aws.config().await?);
        if let Some(endpoint) = &self.config.endpoint {
            config = config.endpoint_url(endpoint.as_str());
        }
        Ok(Client::from_conf(config.build()))
    }

    async fn attempt(&self, client: &Client, order: &Order) -> Result<Credential, Failure> {
        let no_cluster = || Failure::Misconfigured("no --cluster-name".into());
        let cluster_name = self.config.cluster_name.as_ref().ok_or_else(no_cluster)?;
        let request = client.assume_role_for_pod_identity().cluster_name(cluster_name);
        let answered = request.token(order.presented.token.expose()).send().await;
        let now = self.calls.context.clock.now();
        let answer = answered.map_err(|error| fault::failure(&error, order, now))?;
        answer::credential(answer, &order.subject, now).map_err(|fault| Failure::Bug(fault.to_string()))
    }
}
