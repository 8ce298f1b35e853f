//! What a caller may have: the operator's rules, else the annotations of its service account, else what its token's audience says.
//!
//! Pure: text and names in, a [`Grant`] or a [`Refusal`] out. Only the policy and annotations choose a role, always for a proven
//! identity; of a request nothing counts but the NAME of a target, and that only among the caller's own.
//!
//! A file becomes a tree whose nodes know their lines (`yaml`, `syntax`), which is walked (`cursor`) into rules (`file`, `rule`, `exchange`,
//! `hop`) of checked parts (`glob`, `arn`, `lifetime`, `template`, `parameter`); every fault on the way is noted (`fault`). Rules
//! and [`Annotations`] come down to a way to a credential with its variables open (`recipe`), and that, for one [`Claimant`], to a
//! [`Grant`] (`case`).

use std::sync::Arc;

use crate::domain::policy::case::by_audience;
use crate::domain::policy::recipe::Recipe;
use crate::domain::policy::template::Values;
use crate::domain::refusal::Refusal;

mod annotations;
mod arn;
mod case;
mod claimant;
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

pub use annotations::{Annotations, faulty};
pub use arn::RoleArn;
pub use case::Case;
pub use claimant::Claimant;
pub use fault::{Fault, Faults};
pub use grant::{Exchange, Grant, Hop, WebIdentity};
pub use rule::Rule;
pub use yaml::MOST_BYTES;

/// The audience of EKS Pod Identity tokens.
pub const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// The audience of tokens for STS web identity.
pub const WEB_IDENTITY_AUDIENCE: &str = "sts.amazonaws.com";

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

    /// The case of `who`. Looks through the rules.
    #[must_use]
    pub fn case<'a>(&'a self, who: &'a Claimant) -> Case<'a> {
        let rule = self.rules.iter().enumerate().find(|(_, rule)| rule.matches(who));
        Case { rule, values: Values { who, cluster: self.cluster.as_deref() } }
    }

    /// What a caller may have of whom nothing is known but a token for `audience`: no rule applies before it is named. `annotated`
    /// says whether annotations may count then.
    ///
    /// # Errors
    /// `no_role` when nothing leads to a role.
    pub fn unruled(&self, audience: &Arc<str>, annotated: bool) -> Result<Grant, Refusal> {
        let recipe = Recipe { leads_on: annotated || !self.rules.is_empty(), ..by_audience(audience)? };
        recipe.grant(audience, None, &Values { who: &Claimant::unknown(), cluster: self.cluster.as_deref() })
    }
}
