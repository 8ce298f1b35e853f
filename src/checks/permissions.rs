//! What the node may call at AWS, and whether it gets there; the clock, by what AWS answers; what it may ask the API server.

use tokio::join;
use tokio::time::{Instant, timeout_at};

use crate::checks::{Check, Finding, Outcome, clock};
use crate::config::Config;
use crate::domain::mint::Failure;
use crate::exchange::Exchanges;
use crate::exchange::trial::Trial;
use crate::observe::Context;
use crate::token::survey::describe;
use crate::token::{Access, Mode};

const EKS_AUTH: &str = "eks-auth:AssumeRoleForPodIdentity";
const DESCRIBE: &str = "eks:DescribeCluster";
const STS: &str = "STS";

const UNREACHED: &str = "let this node reach it (route, VPC endpoint, security group, HTTPS_PROXY, AWS_CA_BUNDLE), or name its \
                         endpoint (--endpoint, AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL_EKS)";
const OWN_ACCESS: &str = "mend region, credentials and clock as the other lines say; where those are right, look for a proxy or a \
                          policy of a VPC endpoint in between";
const ISSUER: &str = "give the node's role AmazonEKSWorkerNodePolicy, name the issuer (--issuer), or mount a service account token \
                      that names it";
const POD_WATCH: &str = "let the agent's service account list and watch pods (the chart's podWatch, daemonset/rbac/pod-watch.yaml); \
                         until then no token is refused because its pod is gone";
const LATER: &str = "check again later";

/// Tries each service that will be called.
pub(super) async fn check(
    config: &Config,
    exchanges: &Exchanges,
    access: &Access,
    context: &Context,
    deadline: Instant,
) -> Vec<Finding> {
    let by_cluster = config.exchange.cluster_name.is_some();
    let (pod_identity, described, sts, watched) = join!(
        when(by_cluster, exchanges.try_pod_identity(deadline)),
        described(config, access, context),
        when(config.grants.needs_sts(), exchanges.try_sts(deadline)),
        watched(config, deadline),
    );
    let answered = [&pod_identity, &sts].into_iter().flatten().find_map(|trial| trial.answered);
    let pod_identity = pod_identity.map(|trial| of_trial(Check::Permission, EKS_AUTH, trial));
    let sts = sts.map(|trial| of_trial(Check::Reach, STS, trial));
    pod_identity.into_iter().chain(described).chain(sts).chain(watched).chain([clock::check(answered)]).collect()
}

async fn when<T>(needed: bool, work: impl Future<Output = T>) -> Option<T> {
    if needed { Some(work.await) } else { None }
}

/// `eks:DescribeCluster`, where the issuer is to be found by it and by nothing else.
async fn described(config: &Config, access: &Access, context: &Context) -> Option<Finding> {
    let cluster = config.token.described_cluster()?;
    let described = describe(cluster, access.clone(), context).await;
    let Err(failure) = described else { return Some(Finding::ok(Check::Permission, format!("{DESCRIBE} is allowed"))) };
    // Without it EKS Auth verifies tokens, unless they have to be verified here.
    let outcome = if config.token.mode == Mode::Local { Outcome::Failed } else { Outcome::Warning };
    let found = failed(Check::Permission, DESCRIBE, &failure);
    Some(Finding { outcome, remedy: Some(ISSUER.to_owned()), ..found })
}

/// The watch of pods, without which the node serves all the same.
async fn watched(config: &Config, deadline: Instant) -> Option<Finding> {
    let tried = timeout_at(deadline, config.pod_watch.as_ref()?.try_once()).await;
    Some(match tried.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
        Ok(()) => Finding::ok(Check::Permission, "pods may be listed and watched"),
        Err(error) => Finding::warning(Check::Permission, format!("pods can't be watched: {error}"), POD_WATCH),
    })
}

fn of_trial(check: Check, service: &str, trial: Trial) -> Finding {
    match trial.outcome {
        Ok(()) if check == Check::Permission => Finding::ok(check, format!("{service} is not refused: the trial's token was")),
        Ok(()) => Finding::ok(check, format!("{service} answers")),
        Err(Failure::Bug(cause)) => Finding::warning(check, format!("{service}: can't be told: {cause}"), LATER),
        Err(Failure::Throttled { .. }) => {
            Finding::warning(check, format!("{service}: can't be told: AWS throttles this account"), LATER)
        }
        Err(failure) => failed(check, service, &failure),
    }
}

fn failed(check: Check, service: &str, failure: &Failure) -> Finding {
    let detail = format!("{service}: {failure}");
    match failure {
        Failure::Denied(denial) => {
            let remedy = denial.advice.clone().unwrap_or_else(|| OWN_ACCESS.to_owned());
            Finding::failed(check, format!("{service} is refused: {}", denial.cause), remedy)
        }
        Failure::Misconfigured(cause) => Finding::failed(check, format!("{service}: {cause}"), OWN_ACCESS),
        Failure::Unavailable(_) => Finding::failed(check, detail, UNREACHED),
        Failure::Throttled { .. } | Failure::Bug(_) => Finding::failed(check, detail, LATER),
    }
}
