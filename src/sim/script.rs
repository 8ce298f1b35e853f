//! What the simulated services do instead of answering well, by operation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use crate::sim::fault::Fault;
use crate::sim::form::Form;

/// What can be asked of the simulated cluster and AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, strum::EnumIter, strum::IntoStaticStr)]
pub enum Operation {
    /// EKS Auth `AssumeRoleForPodIdentity`.
    EksAuth,
    /// EKS `DescribeCluster`.
    DescribeCluster,
    /// STS `AssumeRole`.
    AssumeRole,
    /// STS `AssumeRoleWithWebIdentity`.
    AssumeRoleWithWebIdentity,
    /// STS `GetCallerIdentity`.
    GetCallerIdentity,
    /// Any other action of STS, which is refused.
    OtherSts,
    /// The issuer's discovery document (OpenID Connect Discovery 1.0 §4).
    Discovery,
    /// The issuer's key set.
    Jwks,
}

/// How an operation is asked and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// AWS's REST-JSON.
    RestJson,
    /// AWS's query protocol: a form and XML.
    Query,
    /// Documents of the cluster's issuer.
    OpenId,
}

impl Operation {
    /// The operation behind a request, as AWS's SDKs and OpenID send them.
    pub(super) fn of(request: &Request<Bytes>) -> Option<Self> {
        let (get, post) = (request.method() == Method::GET, request.method() == Method::POST);
        match request.uri().path() {
            "/" if post => Some(Self::of_action(&Form::of(request.body()).get("Action").unwrap_or_default())),
            "/.well-known/openid-configuration" if get => Some(Self::Discovery),
            "/openid/v1/jwks" if get => Some(Self::Jwks),
            path if post && cluster_in(path).is_some() => Some(Self::EksAuth),
            path if get && described_in(path).is_some() => Some(Self::DescribeCluster),
            _ => None,
        }
    }

    fn of_action(action: &str) -> Self {
        match action {
            "AssumeRole" => Self::AssumeRole,
            "AssumeRoleWithWebIdentity" => Self::AssumeRoleWithWebIdentity,
            "GetCallerIdentity" => Self::GetCallerIdentity,
            _ => Self::OtherSts,
        }
    }

    pub(super) fn protocol(self) -> Protocol {
        match self {
            Self::EksAuth | Self::DescribeCluster => Protocol::RestJson,
            Self::AssumeRole | Self::AssumeRoleWithWebIdentity | Self::GetCallerIdentity | Self::OtherSts => Protocol::Query,
            Self::Discovery | Self::Jwks => Protocol::OpenId,
        }
    }

    /// Whether AWS serves it, and not the cluster.
    pub(super) fn is_aws(self) -> bool {
        self.protocol() != Protocol::OpenId
    }
}

/// The cluster named in the path of `AssumeRoleForPodIdentity`.
pub(super) fn cluster_in(path: &str) -> Option<&str> {
    path.strip_prefix("/clusters/")?.strip_suffix("/assume-role-for-pod-identity")
}

/// The cluster named in the path of `DescribeCluster`.
pub(super) fn described_in(path: &str) -> Option<&str> {
    path.strip_prefix("/clusters/").filter(|name| !name.contains('/'))
}

/// What to do with one call. Those that alter an answer need one to alter: a call that is refused for its own faults is refused
/// all the same.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answer well.
    Answer,
    /// Wait, then behave so.
    Delay(Duration, Box<Behaviour>),
    /// Wait until the test notifies, then behave so.
    Held(Arc<Notify>, Box<Behaviour>),
    /// Answer with an error in the service's own protocol.
    Error(Fault),
    /// Take the request and never answer.
    Hang,
    /// Take the request and reset the connection.
    Reset,
    /// Send the whole head and half of the body, then close.
    HalfBody,
    /// Send this, whatever it means.
    Body {
        /// HTTP status.
        status: u16,
        /// `Content-Type`.
        content_type: &'static str,
        /// The body.
        bytes: Bytes,
    },
    /// Answer with a session that ends so many seconds from now; a negative number is in the past.
    ExpiresIn(i64),
    /// Answer well but for one member, by its pointer (RFC 6901) in the JSON, or in STS's result as its elements nest.
    With(&'static str, Value),
    /// Answer well but without one member, by its pointer likewise.
    Without(&'static str),
}

impl Behaviour {
    /// Waits, then answers well.
    #[must_use]
    pub fn delayed(by: Duration) -> Self {
        Self::Delay(by, Box::new(Self::Answer))
    }

    /// Answers well once `gate` is notified: one call for each `notify_one`.
    #[must_use]
    pub fn held(gate: &Arc<Notify>) -> Self {
        Self::Held(gate.clone(), Box::new(Self::Answer))
    }

    /// EKS Auth answers for another pod's service account.
    #[must_use]
    pub fn wrong_subject() -> Self {
        Self::With("/subject/serviceAccount", "somebody-else".into())
    }

    /// EKS Auth answers for another audience.
    #[must_use]
    pub fn wrong_audience() -> Self {
        Self::With("/audience", "elsewhere.example.com".into())
    }
}

impl From<Fault> for Behaviour {
    fn from(fault: Fault) -> Self {
        Self::Error(fault)
    }
}

/// The behaviours to come. Without any, all calls are answered well.
#[derive(Debug, Default)]
pub struct Script {
    plans: Mutex<BTreeMap<Operation, Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    next: VecDeque<Behaviour>,
    always: Option<Behaviour>,
}

impl Script {
    /// The next calls of `operation` behave so, one each, after those already planned.
    pub fn next(&self, operation: Operation, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.plans.lock().entry(operation).or_default().next.extend(behaviours);
    }

    /// Calls of `operation` for which nothing else is planned behave so from now on.
    pub fn always(&self, operation: Operation, behaviour: Behaviour) {
        self.plans.lock().entry(operation).or_default().always = Some(behaviour);
    }

    /// Forgets all plans.
    pub fn clear(&self) {
        self.plans.lock().clear();
    }

    /// How to behave now, if that is planned.
    pub(super) fn take(&self, operation: Operation) -> Option<Behaviour> {
        let mut plans = self.plans.lock();
        let plan = plans.get_mut(&operation)?;
        plan.next.pop_front().or_else(|| plan.always.clone())
    }
}
