//! What labels of metrics may say: closed sets, so that the number of series is known beforehand.

use strum::IntoStaticStr;

use crate::domain::mint::Failure;
use crate::domain::refusal::Reason;

/// How a request to the credentials endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// Served from memory.
    Hit,
    /// Served after waiting for AWS.
    Fresh,
    /// Served from memory with less life than usual, because its renewal does not get through.
    Stale,
    /// 4xx.
    Refused,
    /// 503.
    Unavailable,
    /// 500.
    Error,
}

/// A kind of call that leaves the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Operation {
    /// EKS Auth.
    AssumeRoleForPodIdentity,
    /// STS, with a token.
    AssumeRoleWithWebIdentity,
    /// STS, with the credentials of the session before.
    AssumeRole,
    /// EKS, for the cluster's issuer.
    DescribeCluster,
    /// A key set or a discovery document.
    Jwks,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum CallResult {
    /// Well.
    Ok,
    /// Refused for this identity.
    Denied,
    /// Too many calls.
    Throttled,
    /// Not reached, failed or too slow.
    Unavailable,
    /// The agent's own access is at fault.
    Misconfigured,
    /// The answer made no sense.
    Bug,
}

impl<T> From<&Result<T, Failure>> for CallResult {
    fn from(result: &Result<T, Failure>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(Failure::Denied(_)) => Self::Denied,
            Err(Failure::Throttled { .. }) => Self::Throttled,
            Err(Failure::Unavailable(_)) => Self::Unavailable,
            Err(Failure::Misconfigured(_)) => Self::Misconfigured,
            Err(Failure::Bug(_)) => Self::Bug,
        }
    }
}

/// Why an entry left the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum EvictionCause {
    /// Nobody asked for it any more, or its newest token expired.
    Lapsed,
    /// AWS confirmed that the identity has no role any more.
    Denied,
    /// The policy or an annotation no longer gives its subject what it holds.
    Revoked,
    /// Its pod was deleted.
    PodDeleted,
    /// It never held anything, or was kept for a moment only because the cache is full or off.
    Unused,
}

/// What was observed of a connection's or a token's source and let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Finding {
    /// The connection came from outside this node.
    Foreign,
    /// Where the connection came from could not be found out.
    Unknown,
    /// A pod's token came from elsewhere than its pod.
    Mismatch,
}

impl From<Finding> for Reason {
    /// Why it is refused where it is not let pass.
    fn from(finding: Finding) -> Self {
        match finding {
            Finding::Foreign => Self::SourceForeign,
            Finding::Unknown => Self::SourceUnknown,
            Finding::Mismatch => Self::SourceMismatch,
        }
    }
}

/// What is watched at the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Watch {
    /// This node's pods.
    Pods,
}

/// How a handover went, for one of the two agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Handover {
    /// To a successor.
    Given,
    /// From a predecessor, with all that it knew.
    Taken,
    /// From a predecessor, without any or some of what it knew.
    Cold,
    /// Not at all: the predecessor goes on.
    Failed,
    /// Back: the successor has gone, and this agent serves again.
    Resumed,
}

/// A limit that sheds load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Limit {
    /// Connections in all.
    Connections,
    /// Connections of one source address.
    SourceConnections,
    /// Failed verifications.
    Verification,
    /// Requests of one pod.
    PodRate,
    /// Entries in the cache.
    CacheSize,
    /// Calls to AWS (`--max-service-qps`): no permit came in time.
    UpstreamCalls,
}

impl Limit {
    /// Whether it closes connections, and does not refuse requests.
    #[must_use]
    pub fn is_of_connections(self) -> bool {
        matches!(self, Self::Connections | Self::SourceConnections)
    }
}
