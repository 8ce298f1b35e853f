//! EKS Auth `AssumeRoleForPodIdentity` (API version 2023-11-26): the association decides the role.
//!
//! The SDK's own log lines hold headers and bodies at debug and trace; the log sink holds foreign crates to warnings, so none of
//! them is written at any verbosity.

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_eksauth::Client;
use aws_sdk_eksauth::config::Builder;
use aws_sdk_eksauth::operation::RequestId;
use aws_sdk_eksauth::operation::assume_role_for_pod_identity::AssumeRoleForPodIdentityOutput;
use aws_sdk_eksauth::types::{Credentials, Subject as Answered};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::domain::credential::Provenance;
use crate::domain::identity::Subject;
use crate::domain::mint::{Failure, Order};
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::egress::fault::failure;
use crate::exchange::Config;
use crate::exchange::answer::{Fault, Issued, Keys, check, present};
use crate::exchange::call::Calls;
use crate::exchange::fault;
use crate::observe::metrics::Operation;

/// The Pod Identity exchange.
#[derive(Debug)]
pub(super) struct PodIdentity {
    config: Config,
    pub(super) calls: Arc<Calls>,
    client: OnceCell<Client>,
}

impl PodIdentity {
    pub(super) fn new(config: Config, calls: Arc<Calls>) -> Self {
        Self { config, calls, client: OnceCell::new() }
    }

    /// Trades the order's token for a session, in one call.
    pub(super) async fn exchange(&self, order: &Order) -> Result<Issued, Failure> {
        let (client, cluster) = self.client(order.deadline).await?;
        self.calls.make(Operation::AssumeRoleForPodIdentity, order, self.attempt(client, cluster, order)).await
    }

    /// A client, and the cluster to name to EKS Auth.
    pub(super) async fn client(&self, deadline: Instant) -> Result<(&Client, &str), Failure> {
        let Some(cluster) = &self.config.cluster_name else {
            return Err(Failure::Misconfigured("the Pod Identity exchange needs --cluster-name".into()));
        };
        Ok((self.calls.client(&self.client, deadline, |sdk| self.connect(sdk)).await?, cluster))
    }

    fn connect(&self, sdk: &SdkConfig) -> Client {
        let mut config = Builder::from(sdk);
        if let Some(endpoint) = &self.config.endpoint {
            config = config.endpoint_url(endpoint.as_str());
        }
        Client::from_conf(config.build())
    }

    async fn attempt(&self, client: &Client, cluster: &str, order: &Order) -> Result<Issued, Failure> {
        let request = client.assume_role_for_pod_identity().cluster_name(cluster);
        let answered = request.token(order.presented.token.expose()).send().await;
        let now = self.calls.context.clock.now();
        let answer = answered.map_err(|error| failure(&error, now, |answer| fault::eks_auth::meaning(answer, order)))?;
        Ok(issued(answer, &order.subject, now)?)
    }
}

/// What `answer` holds, if that is for `asked`.
fn issued(answer: AssumeRoleForPodIdentityOutput, asked: &Subject, now: Now) -> Result<Issued, Fault> {
    let upstream_request_id = answer.request_id().map(str::to_owned);
    let subject = answer.subject.ok_or(Fault::Missing("subject"))?;
    check_subject(&subject, asked)?;
    check("audience", &answer.audience, POD_IDENTITY_AUDIENCE)?;
    let association = answer.pod_identity_association.ok_or(Fault::Missing("podIdentityAssociation"))?;
    present("associationId", &association.association_id)?;
    let role = answer.assumed_role_user.ok_or(Fault::Missing("assumedRoleUser"))?;
    let session = Keys::from(answer.credentials.ok_or(Fault::Missing("credentials"))?).session(role.arn, now)?;
    let provenance = Provenance {
        namespace: subject.namespace,
        service_account: subject.service_account,
        role_arn: session.assumed_role_arn.clone(),
        association_id: Some(association.association_id),
        upstream_request_id,
        caller_access_key_ids: Vec::new(),
    };
    Ok(Issued::new(session, provenance))
}

fn check_subject(answered: &Answered, asked: &Subject) -> Result<(), Fault> {
    let of_token = asked.identity().map(|identity| (&identity.namespace, &identity.service_account));
    let (namespace, service_account) = of_token.unwrap_or((&answered.namespace, &answered.service_account));
    check("subject.namespace", &answered.namespace, namespace)?;
    check("subject.serviceAccount", &answered.service_account, service_account)
}

impl From<Credentials> for Keys {
    fn from(credentials: Credentials) -> Self {
        Self {
            access_key_id: credentials.access_key_id,
            secret_access_key: Secret::new(credentials.secret_access_key),
            session_token: Secret::new(credentials.session_token),
            expiration: credentials.expiration,
        }
    }
}
