//! One claimant before the policy.

use std::sync::Arc;

use crate::domain::policy::annotations::no_default;
use crate::domain::policy::exchange::ExchangeTemplate;
use crate::domain::policy::recipe::{Origin, Recipe, no_role};
use crate::domain::policy::template::Values;
use crate::domain::policy::{Annotations, Claimant, Grant, POD_IDENTITY_AUDIENCE, Rule, WEB_IDENTITY_AUDIENCE};
use crate::domain::refusal::{Reason, Refusal};

/// Names of targets that a refusal lists; there is no telling how many an operator makes.
const LISTED_TARGETS: usize = 20;

/// A claimant and the rule about it, found once.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    pub(super) rule: Option<(usize, &'a Rule)>,
    pub(super) values: Values<'a>,
}

impl<'a> Case<'a> {
    /// Whom it is about.
    #[must_use]
    pub fn who(&self) -> &'a Claimant {
        self.values.who
    }

    /// The rule about the claimant and its index from 0: the first one that matches.
    #[must_use]
    pub fn rule(&self) -> Option<(usize, &'a Rule)> {
        self.rule
    }

    /// Whether annotations could decide: a rule wins over them, and they make no targets.
    #[must_use]
    pub fn is_open(&self, target: Option<&str>) -> bool {
        self.rule.is_none() && target.is_none()
    }

    /// What the claimant may have whose token bears `audience`; `target` is the NAME of the request, if it bore one, and
    /// `annotations` are those of its service account, if they count.
    ///
    /// # Errors
    /// `no_target` for a NAME that is none of the claimant's, `no_role` when nothing leads to a role.
    pub fn grant(&self, audience: &Arc<str>, target: Option<&str>, annotations: Option<&Annotations>) -> Result<Grant, Refusal> {
        let recipe = match (self.rule, target, annotations) {
            (Some((_, rule)), ..) => by_rule(rule, target)?,
            (None, Some(_), _) => return Err(no_target(&[])),
            (None, None, Some(annotations)) => annotations.recipe(audience)?,
            (None, None, None) => by_audience(audience)?,
        };
        recipe.grant(audience, target, &self.values)
    }
}

fn by_rule<'a>(rule: &'a Rule, target: Option<&str>) -> Result<Recipe<'a>, Refusal> {
    let chain = match target {
        None => &rule.chain,
        Some(name) => rule.targets.get(name).ok_or_else(|| no_target(&rule.targets().collect::<Vec<_>>()))?,
    };
    Ok(Recipe { origin: Origin::Rule(rule.line()), exchange: &rule.exchange, chain, leads_on: rule.targets().next().is_some() })
}

pub(super) fn by_audience(audience: &str) -> Result<Recipe<'static>, Refusal> {
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
