//! One link of a chain with its variables still open, and what its session passes on to the next link: an `AssumeRole` that goes
//! against that is refused by AWS each time, so it is refused here once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::policy::Hop;
use crate::domain::policy::arn::{RoleArn, policy_account};
use crate::domain::policy::cursor::{At, Map};
use crate::domain::policy::fault::shown;
use crate::domain::policy::lifetime;
use crate::domain::policy::parameter::Parameter;
use crate::domain::policy::template::{Template, Unrendered, Values, Variable};

const KEYS: [&str; 8] =
    ["role", "sessionName", "duration", "externalId", "sourceIdentity", "tags", "transitiveTags", "policyArns"];

/// Of one call (STS API, `Tags`).
const MOST_TAGS: usize = 50;

/// Of one call (STS API, `PolicyArns`): their number, and their characters together.
const MOST_POLICIES: usize = 10;
const MOST_POLICY_CHARACTERS: usize = 2048;

/// A [`Hop`] before its variables are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HopTemplate {
    pub(super) role: RoleArn,
    pub(super) session_name: Template,
    pub(super) duration: Duration,
    pub(super) external_id: Option<Template>,
    pub(super) source_identity: Option<Template>,
    pub(super) tags: Vec<(String, Template)>,
    pub(super) transitive_tags: Vec<String>,
    pub(super) policy_arns: Vec<String>,
}

/// What the session before a link brings along.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    /// The partition of its role, where the policy names it.
    pub(super) partition: Option<String>,
    /// The keys of its transitive tags, in lower case: AWS does not tell `Team` from `team`.
    pub(super) transitive: Vec<String>,
    pub(super) source_identity: Option<Template>,
}

impl HopTemplate {
    /// An `AssumeRole` of `role` with nothing but what it must have.
    pub(super) fn new(role: RoleArn) -> Self {
        Self {
            role,
            session_name: Template::default_session_name(),
            duration: lifetime::HOUR,
            external_id: None,
            source_identity: None,
            tags: Vec::new(),
            transitive_tags: Vec::new(),
            policy_arns: Vec::new(),
        }
    }

    /// Reads a chain that `session` begins.
    pub(super) fn read_chain(at: &At<'_>, mut session: Session) -> Vec<Self> {
        at.list().iter().filter_map(|at| Self::read(at, &mut session)).collect()
    }

    /// Reads the link behind `session`, which becomes what the next one finds.
    fn read(at: &At<'_>, session: &mut Session) -> Option<Self> {
        let map = at.map(&KEYS)?;
        let role = map.need("role").and_then(|at| read_role(at, session));
        let duration = map.get("duration").map(|at| at.parse_word(lifetime::of_hop));
        let session_name = read_session_name(&map);
        let external_id = map.get("externalId").and_then(|at| read_template(at, Parameter::ExternalId));
        let source_identity = map.get("sourceIdentity").and_then(|at| read_source_identity(at, session));
        let tags = map.get("tags").map(|at| read_tags(at, session)).unwrap_or_default();
        let transitive_tags = map.get("transitiveTags").map(|at| read_transitive(at, &tags)).unwrap_or_default();
        let policy_arns = read_policies(&map, role.as_ref());
        session.pass(role.as_ref(), &transitive_tags, source_identity.as_ref());
        let tags = tags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let duration = duration.unwrap_or(Some(lifetime::HOUR))?;
        Some(Self { role: role?, session_name, duration, external_id, source_identity, tags, transitive_tags, policy_arns })
    }

    /// The link for one claimant.
    pub(super) fn render(&self, values: &Values<'_>) -> Result<Hop, Unrendered> {
        let optional = |template: &Option<Template>| template.as_ref().map(|template| template.render(values)).transpose();
        let tag = |(key, value): &(String, Template)| Ok((key.clone(), value.render(values)?));
        Ok(Hop {
            role: self.role.clone(),
            session_name: self.session_name.render(values)?,
            duration: self.duration,
            external_id: optional(&self.external_id)?,
            source_identity: optional(&self.source_identity)?,
            tags: self.tags.iter().map(tag).collect::<Result<_, _>>()?,
            transitive_tags: self.transitive_tags.clone(),
            policy_arns: self.policy_arns.clone(),
        })
    }
}

impl Session {
    /// Takes over what the link behind it hands on.
    fn pass(&mut self, role: Option<&RoleArn>, transitive: &[String], source_identity: Option<&Template>) {
        self.partition = role.map(|role| role.partition().to_owned()).or(self.partition.take());
        self.transitive.extend(transitive.iter().map(|key| key.to_lowercase()));
        self.source_identity = source_identity.cloned().or(self.source_identity.take());
    }
}

/// Reads a text with variables.
fn read_template(at: &At<'_>, parameter: Parameter) -> Option<Template> {
    let template = at.parse(|text| Template::parse(text, parameter))?;
    if template.names(Variable::Cluster) && !at.knows_cluster() {
        at.fault("names {cluster}, which needs the cluster's name: start the agent with --cluster-name");
    }
    Some(template)
}

/// Reads `sessionName`, or makes the default one.
pub(super) fn read_session_name(map: &Map<'_>) -> Template {
    let given = map.get("sessionName").and_then(|at| read_template(at, Parameter::SessionName));
    given.unwrap_or_else(Template::default_session_name)
}

fn read_role(at: &At<'_>, session: &Session) -> Option<RoleArn> {
    let role = at.parse(RoleArn::parse)?;
    if let Some(before) = session.partition.as_deref().filter(|before| *before != role.partition()) {
        at.fault(format!("is of partition {}, and no session of {before} can assume it", role.partition()));
    }
    Some(role)
}

fn read_source_identity(at: &At<'_>, session: &Session) -> Option<Template> {
    let identity = read_template(at, Parameter::SourceIdentity)?;
    if session.source_identity.as_ref().is_some_and(|before| *before != identity) {
        at.fault("differs from that of an earlier hop, and AWS lets nobody change a source identity: leave it out");
    }
    Some(identity)
}

/// All tags with keys that can be, a value that can't be as `None`.
fn read_tags(at: &At<'_>, session: &Session) -> Vec<(String, Option<Template>)> {
    let members = at.members().unwrap_or_default();
    if members.len() > MOST_TAGS {
        at.fault(format!("has {} tags: AWS takes {MOST_TAGS} at most", members.len()));
    }
    let mut keys = BTreeMap::new();
    let mut tags = Vec::new();
    for (key, at) in members {
        if let Err(fault) = check_tag_key(key, session) {
            at.fault(fault);
        }
        if let Some(earlier) = keys.insert(key.to_lowercase(), key) {
            at.fault(format!("is the same key as {}: AWS does not tell upper from lower case", shown(earlier)));
        }
        tags.push((key.to_owned(), read_template(&at, Parameter::TagValue)));
    }
    tags
}

fn check_tag_key(key: &str, session: &Session) -> Result<(), String> {
    let lower = key.to_lowercase();
    if lower.starts_with("aws:") {
        return Err("begins with aws:, which is AWS's own".into());
    }
    if session.transitive.contains(&lower) {
        return Err("is inherited: it is transitive in the session before, and AWS refuses to be passed it again".into());
    }
    Parameter::TagKey.check(key)
}

fn read_transitive(at: &At<'_>, tags: &[(String, Option<Template>)]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for at in at.list() {
        let Some(key) = at.text() else { continue };
        if !tags.iter().any(|(known, _)| known == key) {
            at.fault(format!("{} is none of this hop's tags", shown(key)));
        } else if keys.iter().any(|earlier| earlier == key) {
            at.fault(format!("{} is there already", shown(key)));
        } else {
            keys.push(key.to_owned());
        }
    }
    keys
}

/// Reads `policyArns` of a session of `role`.
pub(super) fn read_policies(map: &Map<'_>, role: Option<&RoleArn>) -> Vec<String> {
    let Some(at) = map.get("policyArns") else { return Vec::new() };
    let policies = at.parse_list(|text| check_policy(text, role));
    if policies.len() > MOST_POLICIES {
        at.fault(format!("has {} policies: AWS takes {MOST_POLICIES} at most", policies.len()));
    }
    let characters: usize = policies.iter().map(String::len).sum();
    if characters > MOST_POLICY_CHARACTERS {
        at.fault(format!("has {characters} characters in all: AWS takes {MOST_POLICY_CHARACTERS} at most"));
    }
    policies
}

/// IAM finds a session's policies in the account of its role.
fn check_policy(text: &str, role: Option<&RoleArn>) -> Result<String, String> {
    let account = policy_account(text)?;
    match role.map(RoleArn::account).filter(|own| account != "aws" && account != *own) {
        Some(own) => Err(format!("{} is not of the role's account {own}", shown(text))),
        None => Ok(text.to_owned()),
    }
}
