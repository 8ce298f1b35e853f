//! What was granted, down to the last parameter of each call: nothing later looks at the policy again.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::parcel::{optional_text, text};
use crate::domain::policy::RoleArn;

/// Permission to make and serve one credential, and how to make it. Only [`crate::domain::policy`] makes one. Clones share it.
#[derive(Debug, Clone)]
pub struct Grant {
    plan: Arc<Plan>,
    /// Not part of what is granted, so that a target that is added later changes nothing for what is held.
    leads_on: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    #[serde(with = "text")]
    audience: Arc<str>,
    #[serde(with = "optional_text")]
    target: Option<Arc<str>>,
    exchange: Exchange,
    chain: Vec<Hop>,
}

/// How a token becomes a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, strum::IntoStaticStr, Serialize, Deserialize)]
#[strum(serialize_all = "kebab-case")]
pub enum Exchange {
    /// EKS Auth `AssumeRoleForPodIdentity`: the association decides the role.
    PodIdentity,
    /// STS `AssumeRoleWithWebIdentity`.
    WebIdentity(WebIdentity),
}

/// The parameters of `AssumeRoleWithWebIdentity`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WebIdentity {
    /// `RoleArn`.
    pub role: RoleArn,
    /// `RoleSessionName`.
    pub session_name: String,
    /// `DurationSeconds`.
    pub duration: Duration,
    /// `PolicyArns`: managed policies that narrow the session.
    pub policy_arns: Vec<String>,
}

/// One link of a chain: the parameters of an `AssumeRole` that the session before it calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hop {
    /// `RoleArn`.
    pub role: RoleArn,
    /// `RoleSessionName`.
    pub session_name: String,
    /// `DurationSeconds`, at most an hour: AWS gives a chained session no more.
    pub duration: Duration,
    /// `ExternalId`.
    pub external_id: Option<String>,
    /// `SourceIdentity`.
    pub source_identity: Option<String>,
    /// `Tags`, key and value, in the policy's order.
    pub tags: Vec<(String, String)>,
    /// `TransitiveTagKeys`.
    pub transitive_tags: Vec<String>,
    /// `PolicyArns`: managed policies that narrow the session.
    pub policy_arns: Vec<String>,
}

impl Grant {
    /// The right of a caller whose token bears `audience`; `target` is the NAME that was asked for.
    pub(super) fn new(audience: Arc<str>, target: Option<Arc<str>>, exchange: Exchange, chain: Vec<Hop>) -> Self {
        Self { plan: Arc::new(Plan { audience, target, exchange, chain }), leads_on: false }
    }

    /// The same grant, of a caller for whom the session of the exchange leads on to targets, or does not.
    pub(super) fn leading_on(self, leads_on: bool) -> Self {
        Self { leads_on, ..self }
    }

    /// A grant of any shape.
    #[cfg(test)]
    pub(crate) fn for_tests(audience: &str, exchange: Exchange, chain: Vec<Hop>) -> Self {
        Self::new(audience.into(), None, exchange, chain)
    }

    /// The audience of the tokens by which it is made.
    #[must_use]
    pub fn audience(&self) -> &Arc<str> {
        &self.plan.audience
    }

    /// The NAME that was asked for; `None` is the default role.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.plan.target.as_deref()
    }

    /// The exchange to begin with.
    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        &self.plan.exchange
    }

    /// The roles to assume one after the other behind the exchange; the last one is served.
    #[must_use]
    pub fn chain(&self) -> &[Hop] {
        &self.plan.chain
    }

    /// Whether what it brings is made by a call that the node signs, and by no other: the base of a chain may be an older one.
    #[must_use]
    pub fn is_signed_by_node(&self) -> bool {
        self.chain().is_empty() && *self.exchange() == Exchange::PodIdentity
    }

    /// Whether other grants of this caller go on from the exchange's session.
    #[must_use]
    pub fn leads_on(&self) -> bool {
        self.leads_on
    }
}

impl Serialize for Grant {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&*self.plan, self.leads_on).serialize(serializer)
    }
}

/// A grant that the policy of another agent of this node made, for what that agent holds by it. It entitles nobody here: an entry
/// is found by the grant that this agent's own policy makes for a caller, and goes if that policy makes none like it.
impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (plan, leads_on) = <(Plan, bool)>::deserialize(deserializer)?;
        Ok(Self { plan: Arc::new(plan), leads_on })
    }
}

impl PartialEq for Grant {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.plan, &other.plan) || self.plan == other.plan
    }
}

impl Eq for Grant {}

impl Hash for Grant {
    /// What tells the grants of one caller apart; whole plans would make every look-up slow.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.target().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::base::parcel::Parcel;

    fn hop() -> impl Strategy<Value = Hop> {
        let texts = (".*", proptest::option::of(".*"), vec((".*", ".*"), 0..3), vec(".*", 0..3));
        (texts, 0..u64::MAX).prop_map(|((session_name, external_id, tags, policy_arns), seconds)| Hop {
            role: RoleArn::parse("arn:aws:iam::111122223333:role/path/r").unwrap(),
            session_name,
            duration: Duration::from_secs(seconds),
            source_identity: external_id.clone(),
            external_id,
            transitive_tags: tags.iter().map(|(key, _): &(String, String)| key.clone()).collect(),
            tags,
            policy_arns,
        })
    }

    proptest! {
        #[test]
        fn a_grant_is_the_same_on_the_other_side(
            names in (".*", proptest::option::of(".*")), chain in vec(hop(), 0..3), web in any::<bool>(), leads_on in any::<bool>()
        ) {
            let web_identity = chain.first().filter(|_| web).map(|hop| WebIdentity {
                role: hop.role.clone(),
                session_name: hop.session_name.clone(),
                duration: hop.duration,
                policy_arns: hop.policy_arns.clone(),
            });
            let exchange = web_identity.map_or(Exchange::PodIdentity, Exchange::WebIdentity);
            let grant = Grant::new(names.0.into(), names.1.map(Arc::from), exchange, chain).leading_on(leads_on);
            let parcel = Parcel::pack(1, &grant);
            let there: Grant = parcel.open(1).unwrap();
            prop_assert_eq!(&there, &grant);
            prop_assert_eq!(there.leads_on(), leads_on);
        }
    }
}
