//! A rule of the policy: whom it is about, which role is theirs, and which further ones they may ask for by name.

use std::collections::BTreeMap;

use crate::domain::policy::Claimant;
use crate::domain::policy::cursor::{At, Map};
use crate::domain::policy::exchange::{ExchangeTemplate, WEB_IDENTITY_KEYS};
use crate::domain::policy::fault::shown;
use crate::domain::policy::glob::Glob;
use crate::domain::policy::hop::{HopTemplate, Session};

/// Keys of a rule besides those of its exchange.
const KEYS: [&str; 4] = ["match", "exchange", "chain", "targets"];

/// Characters of a target's name, which is the last segment of a URL.
const NAME: usize = 64;

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    line: usize,
    namespace: Glob,
    service_account: Glob,
    pub(super) exchange: ExchangeTemplate,
    /// From the exchange's session to the default role; empty when the exchange gives it.
    pub(super) chain: Vec<HopTemplate>,
    /// By name, each from the exchange's session too, never from the default role.
    pub(super) targets: BTreeMap<String, Vec<HopTemplate>>,
}

impl Rule {
    /// Where it stands in the file, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The patterns of namespace and service account.
    #[must_use]
    pub fn patterns(&self) -> [String; 2] {
        [&self.namespace, &self.service_account].map(ToString::to_string)
    }

    /// The names of its targets, sorted.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.targets.keys().map(String::as_str)
    }

    /// Whether anything that it grants comes from STS.
    #[must_use]
    pub fn needs_sts(&self) -> bool {
        self.exchange != ExchangeTemplate::PodIdentity || !self.chain.is_empty() || !self.targets.is_empty()
    }

    /// Whether it is about `who`.
    pub(super) fn matches(&self, who: &Claimant) -> bool {
        self.namespace.matches(&who.namespace) && self.service_account.matches(&who.service_account)
    }

    /// Whether it is about everybody whom `other` is about.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.namespace.covers(&other.namespace) && self.service_account.covers(&other.service_account)
    }

    /// Reads a rule.
    pub(super) fn read(at: &At<'_>) -> Option<Self> {
        let map = at.map(&[KEYS, WEB_IDENTITY_KEYS].concat())?;
        let patterns = map.need("match").and_then(read_match);
        let exchange = ExchangeTemplate::read(at, &map);
        let session = exchange.as_ref().map(ExchangeTemplate::session).unwrap_or_default();
        let chain = map.get("chain").map(|at| HopTemplate::read_chain(at, session.clone())).unwrap_or_default();
        let targets = map.get("targets").map(|at| read_targets(at, &session)).unwrap_or_default();
        let (namespace, service_account) = patterns?;
        Some(Self { line: at.line(), namespace, service_account, exchange: exchange?, chain, targets })
    }
}

fn read_match(at: &At<'_>) -> Option<(Glob, Glob)> {
    let map = at.map(&["namespace", "serviceAccount"])?;
    let (namespace, service_account) = (read_glob(&map, "namespace", "-*"), read_glob(&map, "serviceAccount", "-.*"));
    Some((namespace?, service_account?))
}

/// What no name of Kubernetes has can't match, and would lie there unnoticed (Kubernetes, "Object Names and IDs").
fn read_glob(map: &Map<'_>, key: &str, punctuation: &str) -> Option<Glob> {
    let known = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || punctuation.contains(character);
    map.need(key)?.parse(|text| match text.chars().find(|character| !known(*character)) {
        Some(odd) => Err(format!("{} can't match: no name of Kubernetes has {odd:?} here", shown(text))),
        None if text.is_empty() => Err("is empty and can't match: write \"*\" for any".into()),
        None => Ok(Glob::new(text)),
    })
}

fn read_targets(at: &At<'_>, session: &Session) -> BTreeMap<String, Vec<HopTemplate>> {
    at.members().into_iter().flatten().map(|(name, at)| (name.to_owned(), read_target(name, &at, session))).collect()
}

fn read_target(name: &str, at: &At<'_>, session: &Session) -> Vec<HopTemplate> {
    if let Err(fault) = check_name(name) {
        at.fault(fault);
    }
    let Some(map) = at.map(&["chain"]) else { return Vec::new() };
    let Some(at) = map.need("chain") else { return Vec::new() };
    if at.is_empty_list() {
        at.fault("is empty: a target is the end of a chain");
    }
    HopTemplate::read_chain(at, session.clone())
}

fn check_name(name: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !(1..=NAME).contains(&name.len()) || !name.bytes().all(known) {
        return Err(format!("is no name for a target: 1 to {NAME} ASCII letters, digits and ._- are"));
    }
    if [".", ".."].contains(&name) {
        return Err("is no name for a target: clients take it out of the path".into());
    }
    Ok(())
}
