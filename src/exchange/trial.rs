//! Calls that AWS must refuse: by which refusal it is, a missing permission and a blocked way show before any pod needs them.
//!
//! A token that nobody can have signed is presented. A refusal of the caller tells what is missing; a refusal of the token tells
//! that AWS got as far as that. As AWS describes the evaluation of a request (IAM User Guide, "Policy evaluation logic"), the
//! permission was looked at before; the API's own pages do not promise that order, so nobody says that the call is allowed.

use std::time::SystemTime;

use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::domain::mint::Failure;
use crate::egress::fault::{Answer, AwsError, answered_at, failure};
use crate::exchange::Exchanges;
use crate::limits::upstream::Claim;
use crate::observe::metrics::Operation;

/// A token by its form (RFC 7519), of an issuer that can't be (RFC 2606), with a signature of zeros. It opens nothing.
const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImNyZWRsZXQtY2hlY2siLCJ0eXAiOiJKV1QifQ.eyJhdWQiOlsicG9kcy5la3MuYW1hem9uY\
     XdzLmNvbSJdLCJleHAiOjQxMDI0NDQ4MDAsImlhdCI6MTc2NzIyNTYwMCwiaXNzIjoiaHR0cHM6Ly9jcmVkbGV0LmludmFsaWQiL\
     CJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6ImNyZWRsZXQiLCJwb2QiOnsibmFtZSI6ImNoZWNrIiwidWlkIjoiY2hlY2sif\
     Swic2VydmljZWFjY291bnQiOnsibmFtZSI6ImNoZWNrIiwidWlkIjoiY2hlY2sifX0sIm5iZiI6MTc2NzIyNTYwMCwic3ViIjoic\
     3lzdGVtOnNlcnZpY2VhY2NvdW50OmNyZWRsZXQ6Y2hlY2sifQ.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

const NOT_ACCEPTED: &str = "renew the node's credentials: AWS does not accept them, since they have expired, were deleted, or are of \
                            another partition than the region";

/// A role to ask for; account and role are nobody's.
const ROLE: &str = "arn:aws:iam::000000000000:role/credlet-check";

/// How a trial went.
#[derive(Debug)]
pub struct Trial {
    /// Whether AWS got as far as the token. `Denied` says what is missing.
    pub outcome: Result<(), Failure>,
    /// The time of the answer by AWS's clock, and when it came.
    pub answered: Option<(SystemTime, Now)>,
}

impl Exchanges {
    /// Whether the node may call `eks-auth:AssumeRoleForPodIdentity` for its cluster. Makes one call.
    pub async fn try_pod_identity(&self, deadline: Instant) -> Trial {
        let operation = Operation::AssumeRoleForPodIdentity;
        let call = async {
            let (client, cluster) = self.pod_identity.client(deadline).await?;
            let answered = client.assume_role_for_pod_identity().cluster_name(cluster).token(TOKEN).send().await;
            Ok(self.trial(answered, |answer| eks_auth(answer, cluster)))
        };
        self.pod_identity.calls.budget.spend(operation, Claim::of_node(deadline), call).await.unwrap_or_else(Trial::none)
    }

    /// Whether STS answers. Makes one call, which nobody signs.
    pub async fn try_sts(&self, deadline: Instant) -> Trial {
        let call = async {
            let request = self.sts.client(deadline).await?.assume_role_with_web_identity();
            let request = request.web_identity_token(TOKEN).role_arn(ROLE).role_session_name("credlet-check");
            let answered = request.send().await;
            Ok(self.trial(answered, sts))
        };
        let operation = Operation::AssumeRoleWithWebIdentity;
        self.sts.calls.budget.spend(operation, Claim::of_node(deadline), call).await.unwrap_or_else(Trial::none)
    }

    /// What `answered` means; `judge` knows which refusals are of the token.
    fn trial<T, E>(&self, answered: Result<T, AwsError<E>>, judge: impl FnOnce(&Answer<'_>) -> Verdict) -> Trial
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let Err(error) = answered else { return Trial::none(Failure::Bug("a token that nobody signed was accepted".into())) };
        let (now, mut of_token) = (self.context.clock.now(), false);
        let failure = failure(&error, now, |answer| match judge(answer) {
            Verdict::OfToken => {
                of_token = true;
                None
            }
            Verdict::Failed(failure) => Some(failure),
            Verdict::Unknown => None,
        });
        let outcome = if of_token { Ok(()) } else { Err(failure) };
        Trial { outcome, answered: answered_at(&error).map(|at| (at, now)) }
    }
}

impl Trial {
    /// One that came to no answer.
    fn none(failure: Failure) -> Self {
        Self { outcome: Err(failure), answered: None }
    }
}

/// What a refusal is about.
enum Verdict {
    OfToken,
    Failed(Failure),
    Unknown,
}

fn eks_auth(answer: &Answer<'_>, cluster: &str) -> Verdict {
    match (answer.status, answer.code) {
        (400, "InvalidTokenException" | "ExpiredTokenException") => Verdict::OfToken,
        (400 | 403, "AccessDeniedException") => Verdict::Failed(answer.denied_with(
            "allow eks-auth:AssumeRoleForPodIdentity to the node's role: AmazonEKSWorkerNodePolicy does".to_owned(),
        )),
        (400 | 404, "ResourceNotFoundException") => Verdict::Failed(answer.denied_with(format!(
            "the node's account and region have no cluster {cluster}: compare --cluster-name and AWS_REGION"
        ))),
        _ if answer.refuses_credentials() => Verdict::Failed(answer.denied_with(NOT_ACCEPTED.to_owned())),
        _ => Verdict::Unknown,
    }
}

fn sts(answer: &Answer<'_>) -> Verdict {
    match answer.code {
        "InvalidIdentityToken"
        | "IDPCommunicationError"
        | "IDPRejectedClaim"
        | "ExpiredTokenException"
        | "AccessDenied"
        | "ValidationError" => Verdict::OfToken,
        "RegionDisabledException" => {
            Verdict::Failed(answer.denied_with("switch STS on for this region in the account settings of IAM".to_owned()))
        }
        _ => Verdict::Unknown,
    }
}
