//! The policy file as a whole.

use crate::domain::policy::cursor::{At, Reading};
use crate::domain::policy::fault::{Fault, Faults, shown};
use crate::domain::policy::rule::Rule;
use crate::domain::policy::yaml::{self, Kind, Node, Value};

/// Rules that are read: each request of somebody new tries them in turn.
const MOST_RULES: usize = 10_000;

/// Reads the rules of a file. Where the cluster has no name (`cluster`), what needs it is a fault.
pub(super) fn read(text: &str, cluster: bool) -> Result<Vec<Rule>, Faults> {
    let Some(root) = yaml::read(text)?.filter(|root| !is_empty(root)) else {
        let message = "the file is empty: write `rules: []` for a policy without rules".into();
        return Err(Fault { line: None, path: String::new(), message }.into());
    };
    if let Some(kind) = manifest_kind(&root) {
        return Err(Fault { line: Some(root.line), path: String::new(), message: manifest(kind) }.into());
    }
    let reading = Reading::new(cluster);
    let rules = read_rules(&At::root(&root, &reading));
    reading.end(rules)
}

fn is_empty(root: &Node) -> bool {
    matches!(root.value, Value::Other(Kind::Empty, _))
}

/// The kind of the object of Kubernetes that is written here.
fn manifest_kind(root: &Node) -> Option<&str> {
    let Value::Map(members) = &root.value else { return None };
    let text = |key| {
        members.iter().find_map(|(name, value)| match (&name.value, &value.value) {
            (Value::Text(name), Value::Text(text)) if name == key => Some(&**text),
            _ => None,
        })
    };
    text("apiVersion").and_then(|_| text("kind"))
}

fn manifest(kind: &str) -> String {
    format!("is a whole {} of Kubernetes: the policy is what stands under one of the keys of its data", shown(kind))
}

fn read_rules(root: &At<'_>) -> Vec<Rule> {
    let Some(map) = root.map(&["rules"]) else { return Vec::new() };
    let Some(at) = map.need("rules") else { return Vec::new() };
    let rules = at.list();
    if rules.len() > MOST_RULES {
        at.fault(format!("has {} rules: {MOST_RULES} are read at most", rules.len()));
        return Vec::new();
    }
    rules.iter().filter_map(Rule::read).collect()
}
