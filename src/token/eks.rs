//! The issuer of an EKS cluster by `eks:DescribeCluster` (API version 2017-11-01), called with the node's own credentials.
//! <https://docs.aws.amazon.com/eks/latest/APIReference/API_DescribeCluster.html>

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_eks::Client;
use aws_sdk_eks::config::Config;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use crate::base::clock::{Clock, Now};
use crate::domain::mint::Failure;
use crate::egress::EgressError;
use crate::egress::aws::Aws;
use crate::egress::fault::{AwsError, CREDENTIALS_REFUSED, own_failure};
use crate::limits::upstream::{Claim, UpstreamBudget};
use crate::observe::metrics::Operation;

/// From the wish to the answer, finding region and credentials included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks EKS.
#[derive(Debug)]
pub(super) struct Eks {
    aws: Arc<Aws>,
    budget: UpstreamBudget,
    clock: Clock,
    client: OnceCell<Client>,
}

impl Eks {
    pub(super) fn new(aws: Arc<Aws>, budget: UpstreamBudget, clock: Clock) -> Self {
        Self { aws, budget, clock, client: OnceCell::new() }
    }

    /// The issuer of the cluster of that name in the node's region.
    pub(super) async fn issuer_of(&self, cluster: &str) -> Result<Arc<str>, Failure> {
        let deadline = self.clock.now().mono + TIMEOUT;
        let late = |_| Failure::Unavailable("the node's region is not known yet".into());
        let client = timeout_at(deadline, self.client()).await.map_err(late)??;
        let call = self.describe(client, cluster);
        self.budget.spend(Operation::DescribeCluster, Claim::of_node(deadline), call).await
    }

    async fn client(&self) -> Result<&Client, Failure> {
        let connect = async || Ok(Client::from_conf(Config::new(self.aws.config().await?)));
        self.client.get_or_try_init(connect).await.map_err(|error: EgressError| Failure::Misconfigured(error.to_string()))
    }

    async fn describe(&self, client: &Client, cluster: &str) -> Result<Arc<str>, Failure> {
        let answered = client.describe_cluster().name(cluster).send().await;
        let answer = answered.map_err(|error| failure(&error, cluster, self.clock.now()))?;
        let identity = answer.cluster.and_then(|cluster| cluster.identity);
        let issuer = identity.and_then(|identity| identity.oidc).and_then(|oidc| oidc.issuer);
        let issuer = issuer.filter(|issuer| !issuer.is_empty());
        issuer.map(Arc::from).ok_or_else(|| Failure::Bug("it names no OIDC issuer".into()))
    }
}

/// What an operator has to mend is said where EKS's code tells it.
fn failure<E>(error: &AwsError<E>, cluster: &str, now: Now) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let advice = match error.code() {
        Some("AccessDeniedException") => {
            "the node's role lacks the permission eks:DescribeCluster, which AmazonEKSWorkerNodePolicy has".to_owned()
        }
        Some("ResourceNotFoundException") => {
            format!("the node's account and region have no cluster {cluster}: compare --cluster-name")
        }
        Some(code) if CREDENTIALS_REFUSED.contains(&code) => {
            "AWS does not accept the node's credentials: they have expired, were deleted, or are of another partition".to_owned()
        }
        _ => return own_failure(error, now),
    };
    let failure = own_failure(error, now);
    let Failure::Misconfigured(cause) = &failure else { return failure };
    Failure::Misconfigured(format!("{advice} ({cause})"))
}
