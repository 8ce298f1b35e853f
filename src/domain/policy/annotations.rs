//! What a service account's annotations ask for (`--service-account-roles`): the role of IRSA's annotation, and one more behind it.
//!
//! | annotation | its meaning |
//! |---|---|
//! | `eks.amazonaws.com/role-arn` | the role by web identity, for tokens of audience `sts.amazonaws.com` |
//! | `credlet.io/target-role-arn` | the role to assume from there, or from what EKS Pod Identity gives |
//! | `credlet.io/external-id` | the external id for that |
//! | `credlet.io/session-name` | the name of both sessions, with variables as in the policy file |
//! | `credlet.io/duration` | the life of the web identity session; the one behind it always has an hour, the most there is |
//!
//! The first one is not ours, and charts set it to all sorts of things: empty is absent, and a bad one matters only to a token
//! that needs it. Of our own all is checked, so that a misspelt one is told and does not pass for absent.

use std::collections::BTreeMap;

use crate::domain::policy::arn::RoleArn;
use crate::domain::policy::cursor::{Reading, unknown_key};
use crate::domain::policy::exchange::{ExchangeTemplate, WebIdentityTemplate};
use crate::domain::policy::fault::{Fault, Faults};
use crate::domain::policy::hop::HopTemplate;
use crate::domain::policy::parameter::Parameter;
use crate::domain::policy::recipe::{Origin, Recipe, no_role};
use crate::domain::policy::template::Template;
use crate::domain::policy::{POD_IDENTITY_AUDIENCE, WEB_IDENTITY_AUDIENCE, lifetime};
use crate::domain::refusal::Refusal;

/// IRSA's annotation.
const ROLE: &str = "eks.amazonaws.com/role-arn";

/// How ours begin.
const OURS: &str = "credlet.io/";
const TARGET: &str = "credlet.io/target-role-arn";
const EXTERNAL_ID: &str = "credlet.io/external-id";
const SESSION_NAME: &str = "credlet.io/session-name";
const DURATION: &str = "credlet.io/duration";
const KNOWN: [&str; 4] = [TARGET, EXTERNAL_ID, SESSION_NAME, DURATION];

/// What the annotations of a service account ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// What [`ROLE`] asks for, or what is wrong with it.
    web_identity: Option<Result<ExchangeTemplate, Fault>>,
    /// The hop to [`TARGET`], if there is one.
    chain: Vec<HopTemplate>,
}

impl Annotations {
    /// Reads the annotations of a service account; those of others are left alone.
    ///
    /// # Errors
    /// Every fault, its path being the annotation's key.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, Faults> {
        let reader = Reader { annotations, reading: Reading::default() };
        let annotations = reader.read();
        reader.reading.end(annotations)
    }

    /// Every fault, that of the web identity role too, for which only tokens that need it are refused.
    #[must_use]
    pub fn faults(annotations: &BTreeMap<String, String>) -> Vec<Fault> {
        let reader = Reader { annotations, reading: Reading::default() };
        let role = reader.read().web_identity.and_then(Result::err);
        let others = reader.reading.end(()).err().map(|faults| faults.0).unwrap_or_default();
        role.into_iter().chain(others).collect()
    }

    /// The way that leads from a token of `audience` to a role.
    pub(super) fn recipe(&self, audience: &str) -> Result<Recipe<'_>, Refusal> {
        let exchange = match audience {
            POD_IDENTITY_AUDIENCE => &ExchangeTemplate::PodIdentity,
            WEB_IDENTITY_AUDIENCE => self.web_identity()?,
            other => return Err(no_default(other)),
        };
        Ok(Recipe { origin: Origin::Annotations, exchange, chain: &self.chain, leads_on: false })
    }

    fn web_identity(&self) -> Result<&ExchangeTemplate, Refusal> {
        match &self.web_identity {
            Some(Ok(web_identity)) => Ok(web_identity),
            Some(Err(fault)) => Err(faulty(&Faults::from(fault.clone()))),
            None => {
                let advice = format!("Nothing gives this pod a role: annotate its service account with {ROLE}");
                Err(no_role("no role annotation", advice))
            }
        }
    }
}

/// What a caller is told whose service account bears faulty annotations: the first of the faults. The audit has all, in one line.
#[must_use]
pub fn faulty(annotations: &Faults) -> Refusal {
    let faults: Vec<String> = annotations.0.iter().map(Fault::what).collect();
    let first = faults.first().map_or("", String::as_str);
    let more = faults.len().saturating_sub(1);
    let and_more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    no_role(faults.join("; "), format!("An annotation of this pod's service account is wrong: {first}{and_more}"))
}

/// What a caller is told whose token's audience leads nowhere by itself.
pub(super) fn no_default(audience: &str) -> Refusal {
    let advice = format!(
        "Only a rule of this node's policy can give a role to a token for audience {audience}, and none does: ask the cluster's \
         operator for one"
    );
    no_role(format!("audience {audience} has no default"), advice)
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    reading: Reading,
}

impl Reader<'_> {
    fn read(&self) -> Annotations {
        self.check_keys();
        let session_name = self.get(SESSION_NAME, |text| Template::parse(text, Parameter::SessionName));
        let session_name = session_name.unwrap_or_else(Template::default_session_name);
        let duration = self.get(DURATION, lifetime::of_web_identity).unwrap_or(lifetime::HOUR);
        let external_id = self.get(EXTERNAL_ID, |text| Template::parse(text, Parameter::ExternalId));
        let target = self.get(TARGET, RoleArn::parse);
        let web_identity = |role| {
            let session_name = session_name.clone();
            ExchangeTemplate::WebIdentity(WebIdentityTemplate { session_name, duration, ..WebIdentityTemplate::new(role) })
        };
        let web_identity = self.role().map(|role| role.map(web_identity));
        let hop = target.map(|role| HopTemplate { session_name, external_id, ..HopTemplate::new(role) });
        Annotations { web_identity, chain: hop.into_iter().collect() }
    }

    /// Those that are not known, and those that would have no effect.
    fn check_keys(&self) {
        let has = |key: &str| self.annotations.contains_key(key);
        for key in self.annotations.keys().filter(|key| key.starts_with(OURS) && !KNOWN.contains(&key.as_str())) {
            self.reading.note(None, key, unknown_key(key, &KNOWN));
        }
        let role = self.text(ROLE).is_some();
        let without = |missing: &str| format!("has no effect without {missing}");
        if has(EXTERNAL_ID) && !has(TARGET) {
            self.reading.note(None, EXTERNAL_ID, without(TARGET));
        }
        if has(DURATION) && !role {
            self.reading.note(None, DURATION, without(ROLE));
        }
        if has(SESSION_NAME) && !has(TARGET) && !role {
            self.reading.note(None, SESSION_NAME, format!("{} or {TARGET}", without(ROLE)));
        }
    }

    fn role(&self) -> Option<Result<RoleArn, Fault>> {
        let fault = |message| Fault { line: None, path: ROLE.to_owned(), message };
        self.text(ROLE).map(|text| RoleArn::parse(text).map_err(fault))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn get<T>(&self, key: &str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        check(self.annotations.get(key)?).map_err(|message| self.reading.note(None, key, message)).ok()
    }
}
