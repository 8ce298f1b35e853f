//! Whether this node can serve: what the server needs, tried once, with a remedy for whatever is missing.
//!
//! Each check uses the part that the server uses, so that it fails where the server would. All run at the same time and give up
//! at the same deadline. What they find is told in a fixed order, from the node outwards: ports and link, then the agent's own
//! identity, then what it has to reach. Nothing here is secret.

mod clock;
mod handover;
mod identity;
mod keys;
mod link;
mod permissions;
mod ports;

use std::time::Duration;

use serde::Serialize;
use tokio::join;

use crate::config::{Config, Faults};
use crate::exchange::Exchanges;
use crate::observe::Context;
use crate::token::Access;

/// All checks together, whatever hangs: enough for the metadata service, which is tried four times at a second each.
const LIMIT: Duration = Duration::from_secs(8);

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Check {
    /// Flags, variables, the policy file.
    Configuration,
    /// The agent whose run directory this is.
    Agent,
    /// The right to bind the port.
    Right,
    /// The ports.
    Port,
    /// The addresses, and the link that bears them.
    Link,
    /// The directory of handovers.
    Handover,
    /// The AWS region.
    Region,
    /// The node's own credentials.
    Credentials,
    /// The keys of token issuers.
    Keys,
    /// What the node's role may call, and the agent's service account.
    Permission,
    /// Services that need no permission.
    Reach,
    /// The wall clock.
    Clock,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// The node can serve, but not as well as it should.
    Warning,
    /// The node can't serve.
    Failed,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: Check,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// All that is known of why, where that is too long for a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: Check, detail: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Ok, detail: detail.into(), cause: None, remedy: None }
    }

    fn warning(check: Check, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Warning, detail: detail.into(), cause: None, remedy: Some(remedy.into()) }
    }

    fn failed(check: Check, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, ..Self::warning(check, detail, remedy) }
    }

    /// The same, of which another line tells the cause.
    fn referring(self, cause: &str) -> Self {
        if !self.detail.contains(cause) {
            return self;
        }
        let detail = self.detail.replace(cause, "the line `credentials` tells why");
        Self { detail, cause: Some(cause.to_owned()), remedy: Some("mend those first".to_owned()), ..self }
    }
}

/// What is wrong with a configuration, a finding each.
#[must_use]
pub fn of_faults(Faults(faults): Faults) -> Vec<Finding> {
    let finding = |fault| Finding::failed(Check::Configuration, fault, "mend it: the server does not start with it");
    faults.into_iter().map(finding).collect()
}

/// Checks what an agent of this configuration needs. Takes 8 s at most; what it starts ends with the tasks of `context`.
pub async fn run(config: &Config, access: Access, context: &Context) -> Vec<Finding> {
    let deadline = context.clock.now().mono + LIMIT;
    let exchanges = Exchanges::new(config.exchange.clone(), access.aws.clone(), access.budget.clone(), context.clone());
    let (ports, link, identity, keys, permissions) = join!(
        ports::check(config),
        link::check(&config.front),
        identity::check(config, &access.aws, context, deadline),
        keys::check(config, access.clone(), context, deadline),
        permissions::check(config, &exchanges, &access, context, deadline),
    );
    let needing = refer(&identity, [keys, permissions].concat());
    [configuration(config), ports, link, handover::check(config), identity, needing].concat()
}

/// Why there are no credentials is told once, and whatever needs them refers to that.
fn refer(identity: &[Finding], needing: Vec<Finding>) -> Vec<Finding> {
    let lacks = |finding: &&Finding| finding.check == Check::Credentials && finding.outcome == Outcome::Failed;
    let Some(credentials) = identity.iter().find(lacks) else { return needing };
    let cause = credentials.cause.as_ref().unwrap_or(&credentials.detail);
    needing.into_iter().map(|finding| finding.referring(cause)).collect()
}

fn configuration(config: &Config) -> Vec<Finding> {
    if config.warnings.is_empty() {
        return vec![Finding::ok(Check::Configuration, "no faults")];
    }
    let warning = |warning: &String| Finding::warning(Check::Configuration, warning, "change it unless it is meant");
    config.warnings.iter().map(warning).collect()
}
