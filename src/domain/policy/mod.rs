//! What a caller may have: the operator's rules, else the annotations of its service account, else what its token's audience says.
//!
//! Pure: text and names in, a [`Grant`] or a [`Refusal`] out. Only the policy and annotations choose a role, always for a proven
//! identity; of a request nothing counts but the NAME of a target, and that only among the caller's own.
//!
//! A file becomes a tree whose nodes know their lines (`yaml`, `syntax`), which is walked (`cursor`) into rules (`file`, `rule`, `exchange`,
//! `hop`) of checked parts (`glob`, `arn`, `lifetime`, `template`, `parameter`); every fault on the way is noted (`fault`). Rules
//! and [`Annotations`] come down to a way to a credential with its variables open (`recipe`), and that to a [`Grant`].

use std::sync::Arc;

use crate::domain::identity::Identity;
use crate::domain::policy::annotations::no_default;
use crate::domain::policy::exchange::ExchangeTemplate;
use crate::domain::policy::recipe::{Origin, Recipe, no_role};
use crate::domain::policy::template::Values;
use crate::domain::refusal::{Reason, Refusal};

mod annotations;
mod arn;
mod cursor;
mod exchange;
mod fault;
#[cfg(test)]
mod fault_tests;
mod file;
mod glob;
mod grant;
mod hop;
mod lifetime;
mod parameter;
mod recipe;
mod rule;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod yaml;

pub use annotations::Annotations;
pub use fault::{Fault, Faults};
pub use grant::{Exchange, Grant, Hop, WebIdentity};
pub use rule::Rule;
pub use yaml::MOST_BYTES;

/// The audience of EKS Pod Identity tokens.
pub const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// The audience of tokens for STS web identity.
pub const WEB_IDENTITY_AUDIENCE: &str = "sts.amazonaws.com";

/// Whom the policy is asked about. Where AWS verified the token, only the first two are known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claimant {
    /// Namespace of pod and service account.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// Name of the pod.
    pub pod: Option<String>,
    /// UID of the pod.
    pub pod_uid: Option<String>,
    /// Name of the node.
    pub node: Option<String>,
}

impl Claimant {
    /// A claimant of whom no more is known.
    #[must_use]
    pub fn new(namespace: impl Into<String>, service_account: impl Into<String>) -> Self {
        let (namespace, service_account) = (namespace.into(), service_account.into());
        Self { namespace, service_account, pod: None, pod_uid: None, node: None }
    }
}

impl From<&Identity> for Claimant {
    fn from(identity: &Identity) -> Self {
        Self {
            namespace: identity.namespace.clone(),
            service_account: identity.service_account.clone(),
            pod: Some(identity.pod.clone()),
            pod_uid: Some(identity.pod_uid.clone()),
            node: identity.node.clone(),
        }
    }
}

/// Names of targets that a refusal lists; there is no telling how many an operator makes.
const LISTED_TARGETS: usize = 20;

/// The policy in force.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `--cluster-name`; without it there is no Pod Identity exchange.
    cluster: Option<Arc<str>>,
    rules: Vec<Rule>,
}

impl Policy {
    /// The policy of an agent without a policy file.
    #[must_use]
    pub fn without_rules(cluster: Option<Arc<str>>) -> Self {
        Self { cluster, rules: Vec::new() }
    }

    /// Reads a policy file. `cluster` is `--cluster-name`: without it, what needs it is a fault.
    ///
    /// # Errors
    /// Every fault; of text that is not YAML, the first one.
    pub fn parse(text: &str, cluster: Option<Arc<str>>) -> Result<Self, Faults> {
        let rules = file::read(text, cluster.is_some())?;
        Ok(Self { cluster, rules })
    }

    /// Its rules, in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What is legal but surely not meant: rules that never decide, since an earlier one always does. Takes time that grows with
    /// the square of their number.
    #[must_use]
    pub fn warnings(&self) -> Vec<Fault> {
        let covered = |(index, rule): (usize, &Rule)| {
            let earlier = self.rules.iter().take(index).find(|earlier| earlier.covers(rule))?;
            let message = format!("never decides: the rule in line {} matches all that it could", earlier.line());
            Some(Fault { line: Some(rule.line()), path: format!("rules[{index}]"), message })
        };
        self.rules.iter().enumerate().filter_map(covered).collect()
    }

    /// The rule about `who` and its index from 0: the first one that matches.
    #[must_use]
    pub fn rule(&self, who: &Claimant) -> Option<(usize, &Rule)> {
        self.rules.iter().enumerate().find(|(_, rule)| rule.matches(who))
    }

    /// Whether a rule is about `who`, so that its annotations don't matter.
    #[must_use]
    pub fn decides(&self, who: &Claimant) -> bool {
        self.rule(who).is_some()
    }

    /// What `who` may have whose token bears `audience`; `target` is the NAME of the request, if it bore one, and `annotations`
    /// are those of its service account, if they count.
    ///
    /// # Errors
    /// `no_target` for a NAME that is none of the caller's, `no_role` when nothing leads to a role.
    pub fn grant(
        &self,
        who: &Claimant,
        audience: &Arc<str>,
        target: Option<&str>,
        annotations: Option<&Annotations>,
    ) -> Result<Grant, Refusal> {
        let recipe = match (self.rule(who), target, annotations) {
            (Some((_, rule)), ..) => by_rule(rule, target)?,
            (None, Some(_), _) => return Err(no_target(&[])),
            (None, None, Some(annotations)) => annotations.recipe(audience)?,
            (None, None, None) => by_audience(audience)?,
        };
        recipe.grant(audience, target, &Values { who, cluster: self.cluster.as_deref() })
    }
}

fn by_rule<'a>(rule: &'a Rule, target: Option<&str>) -> Result<Recipe<'a>, Refusal> {
    let chain = match target {
        None => &rule.chain,
        Some(name) => rule.targets.get(name).ok_or_else(|| no_target(&rule.targets().collect::<Vec<_>>()))?,
    };
    Ok(Recipe { origin: Origin::Rule(rule.line()), exchange: &rule.exchange, chain, leads_on: rule.targets().next().is_some() })
}

fn by_audience(audience: &str) -> Result<Recipe<'static>, Refusal> {
    match audience {
        POD_IDENTITY_AUDIENCE => {
            Ok(Recipe { origin: Origin::Audience, exchange: &ExchangeTemplate::PodIdentity, chain: &[], leads_on: false })
        }
        WEB_IDENTITY_AUDIENCE => {
            let advice = "No rule of this node's policy gives this pod a role, and annotations of service accounts don't count \
                          here: ask the cluster's operator for a rule, or for --service-account-roles";
            Err(no_role("no rule, and annotations don't count", advice))
        }
        other => Err(no_default(other)),
    }
}

fn no_target(names: &[&str]) -> Refusal {
    let advice = match names.get(..LISTED_TARGETS) {
        _ if names.is_empty() => "This pod's service account has no targets: ask for /v1/credentials, without a name".to_owned(),
        Some(first) if names.len() > LISTED_TARGETS => {
            format!("This pod's service account has these targets: {} and {} more", first.join(", "), names.len() - first.len())
        }
        _ => format!("This pod's service account has these targets: {}", names.join(", ")),
    };
    Refusal::new(Reason::NoTarget, "no target of that name").advice(advice)
}
