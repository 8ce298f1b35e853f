//! The exchange that a chain begins with, its variables still open.

use std::time::Duration;

use strum::{EnumString, IntoStaticStr};

use crate::domain::policy::arn::RoleArn;
use crate::domain::policy::cursor::{At, Map};
use crate::domain::policy::fault::shown;
use crate::domain::policy::hop::{Session, read_policies, read_session_name};
use crate::domain::policy::lifetime;
use crate::domain::policy::template::{Template, Unrendered, Values};
use crate::domain::policy::{Exchange, WebIdentity};

/// Keys of a rule that say how to make a web identity session.
pub(super) const WEB_IDENTITY_KEYS: [&str; 4] = ["role", "duration", "sessionName", "policyArns"];

/// What EKS tags its sessions with, all of it transitive (EKS User Guide, "Grant Pods access to AWS resources based on tags").
const POD_IDENTITY_TAGS: [&str; 6] = [
    "eks-cluster-arn",
    "eks-cluster-name",
    "kubernetes-namespace",
    "kubernetes-service-account",
    "kubernetes-pod-name",
    "kubernetes-pod-uid",
];

/// An [`Exchange`] before its variables are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExchangeTemplate {
    PodIdentity,
    WebIdentity(WebIdentityTemplate),
}

/// A [`WebIdentity`] before its variables are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebIdentityTemplate {
    pub(super) role: RoleArn,
    pub(super) session_name: Template,
    pub(super) duration: Duration,
    pub(super) policy_arns: Vec<String>,
}

#[derive(Debug, Clone, Copy, EnumString, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
enum Kind {
    PodIdentity,
    WebIdentity,
}

impl ExchangeTemplate {
    /// Reads a rule's exchange. Where it is not named, it is web identity if a role is, else Pod Identity.
    pub(super) fn read(rule: &At<'_>, map: &Map<'_>) -> Option<Self> {
        let kind = match map.get("exchange") {
            Some(at) => at.parse(read_kind)?,
            None if map.get("role").is_some() => Kind::WebIdentity,
            None => Kind::PodIdentity,
        };
        match kind {
            Kind::PodIdentity => Some(read_pod_identity(rule, map)),
            Kind::WebIdentity => WebIdentityTemplate::read(map).map(Self::WebIdentity),
        }
    }

    /// What a chain behind it finds.
    pub(super) fn session(&self) -> Session {
        match self {
            Self::PodIdentity => Session { transitive: POD_IDENTITY_TAGS.map(str::to_owned).into(), ..Session::default() },
            Self::WebIdentity(web) => Session { partition: Some(web.role.partition().to_owned()), ..Session::default() },
        }
    }

    /// The exchange for one claimant.
    pub(super) fn render(&self, values: &Values<'_>) -> Result<Exchange, Unrendered> {
        match self {
            Self::PodIdentity => Ok(Exchange::PodIdentity),
            Self::WebIdentity(web) => web.render(values).map(Exchange::WebIdentity),
        }
    }
}

impl WebIdentityTemplate {
    /// A session of `role` with nothing but what it must have.
    pub(super) fn new(role: RoleArn) -> Self {
        Self { role, session_name: Template::default_session_name(), duration: lifetime::HOUR, policy_arns: Vec::new() }
    }

    fn read(map: &Map<'_>) -> Option<Self> {
        let role = map.need("role").and_then(|at| at.parse(RoleArn::parse));
        let duration = map.get("duration").map(|at| at.parse_word(lifetime::of_web_identity));
        let session_name = read_session_name(map);
        let policy_arns = read_policies(map, role.as_ref());
        Some(Self { role: role?, session_name, duration: duration.unwrap_or(Some(lifetime::HOUR))?, policy_arns })
    }

    fn render(&self, values: &Values<'_>) -> Result<WebIdentity, Unrendered> {
        Ok(WebIdentity {
            role: self.role.clone(),
            session_name: self.session_name.render(values)?,
            duration: self.duration,
            policy_arns: self.policy_arns.clone(),
        })
    }
}

fn read_kind(text: &str) -> Result<Kind, String> {
    text.parse().map_err(|_| format!("{} is not an exchange: pod-identity and web-identity are", shown(text)))
}

fn read_pod_identity(rule: &At<'_>, map: &Map<'_>) -> ExchangeTemplate {
    for at in WEB_IDENTITY_KEYS.iter().filter_map(|key| map.get(key)) {
        at.fault("goes with exchange: web-identity only; with pod-identity the association decides");
    }
    if !rule.knows_cluster() {
        let at = map.get("exchange").unwrap_or(rule);
        at.fault("pod-identity needs the cluster's name: start the agent with --cluster-name");
    }
    ExchangeTemplate::PodIdentity
}
