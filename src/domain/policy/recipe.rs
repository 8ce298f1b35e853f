//! A way to a credential that something names, and what becomes of it for one claimant.

use std::fmt;
use std::sync::Arc;

use crate::domain::policy::exchange::ExchangeTemplate;
use crate::domain::policy::hop::HopTemplate;
use crate::domain::policy::template::{Unrendered, Values, Variable};
use crate::domain::policy::{Grant, POD_IDENTITY_AUDIENCE};
use crate::domain::refusal::{Reason, Refusal};

/// Exchange and chain, their variables still open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe<'a> {
    pub(super) origin: Origin,
    pub(super) exchange: &'a ExchangeTemplate,
    pub(super) chain: &'a [HopTemplate],
    /// Whether the claimant has targets, which go on from the exchange's session.
    pub(super) leads_on: bool,
}

/// What names it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// The rule in this line.
    Rule(usize),
    Annotations,
    Audience,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(line) => write!(f, "The rule in line {line} of this node's policy"),
            Self::Annotations => f.write_str("The annotations of this pod's service account"),
            Self::Audience => f.write_str("The token's audience"),
        }
    }
}

impl Recipe<'_> {
    /// The grant for one claimant whose token bears `audience`; `target` is the NAME that leads here.
    pub(super) fn grant(self, audience: &Arc<str>, target: Option<&str>, values: &Values<'_>) -> Result<Grant, Refusal> {
        if *self.exchange == ExchangeTemplate::PodIdentity {
            self.check_pod_identity(audience, values)?;
        }
        let exchange = self.exchange.render(values).map_err(|why| self.unrendered(why))?;
        let chain = self.chain.iter().map(|hop| hop.render(values)).collect::<Result<_, _>>();
        let chain = chain.map_err(|why| self.unrendered(why))?;
        let grant = Grant::new(Arc::clone(audience), target.map(Arc::from), exchange, chain);
        Ok(grant.leading_on(self.leads_on))
    }

    /// EKS Auth takes its own tokens only, and finds the association by the cluster's name.
    fn check_pod_identity(self, audience: &str, values: &Values<'_>) -> Result<(), Refusal> {
        if audience != POD_IDENTITY_AUDIENCE {
            let advice = format!(
                "{} asks EKS Pod Identity, which takes tokens for audience {POD_IDENTITY_AUDIENCE} only: project one into the \
                 pod in place of the one for {audience}",
                self.origin
            );
            return Err(no_role(format!("Pod Identity for audience {audience}"), advice));
        }
        if values.cluster.is_none() {
            let advice = "EKS Pod Identity needs the cluster's name, which this node's agent was not told: ask the cluster's \
                          operator to set --cluster-name";
            return Err(no_role("Pod Identity without a cluster name", advice));
        }
        Ok(())
    }

    fn unrendered(self, why: Unrendered) -> Refusal {
        let origin = self.origin;
        let (cause, advice) = match why {
            Unrendered::Unknown(variable) => {
                let name = variable.name();
                (format!("{{{name}}} is not known"), format!("{origin} names {{{name}}}, {}", remedy(variable)))
            }
            Unrendered::Unfit(parameter) => {
                let name = parameter.name();
                let advice = format!("{origin} makes {name} for this pod that AWS does not take by its length or characters");
                (format!("{name} does not fit"), format!("{advice}: ask the cluster's operator to shorten it"))
            }
        };
        no_role(cause, advice)
    }
}

/// Why nothing is known that `variable` could stand for, and what to do.
fn remedy(variable: Variable) -> &'static str {
    match variable {
        Variable::Cluster => "which this node's agent was not told: ask the cluster's operator to set --cluster-name",
        Variable::Node => "which this pod's token does not bear: start the pod anew, in a cluster of Kubernetes 1.30 or newer",
        Variable::Namespace | Variable::ServiceAccount | Variable::Pod | Variable::PodUid => {
            "which is not known where only AWS verifies tokens: ask the cluster's operator to name the service account instead"
        }
    }
}

pub(super) fn no_role(cause: impl Into<String>, advice: impl Into<String>) -> Refusal {
    Refusal::new(Reason::NoRole, cause).advice(advice)
}
