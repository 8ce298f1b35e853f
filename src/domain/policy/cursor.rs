//! A place in a tree of YAML: what stands there is asked for as what it should be, and what it is not is noted with line and path.
//! A check that fails notes its fault and goes on, so that one reading tells all of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::domain::policy::fault::{Fault, Faults, listed, shown};
use crate::domain::policy::syntax::missing_space;
use crate::domain::policy::yaml::{Kind, Node, Value};

/// How alike a key and a known one are that is meant: clap's threshold, which suits misspelt words of this length.
const ALIKE: f64 = 0.7;

/// Faults that are told: a file that has more is not a policy with mistakes in it.
const MOST: usize = 100;

/// One reading: what is known beforehand, and the faults noted so far.
#[derive(Debug, Default)]
pub(super) struct Reading {
    cluster: bool,
    faults: RefCell<Vec<Fault>>,
    /// How many were not kept.
    more: Cell<usize>,
}

impl Reading {
    pub(super) fn new(cluster: bool) -> Self {
        Self { cluster, ..Self::default() }
    }

    /// Notes that something is wrong at `path`.
    pub(super) fn note(&self, line: Option<usize>, path: impl Into<String>, message: impl Into<String>) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < MOST {
            faults.push(Fault { line, path: path.into(), message: message.into() });
        } else {
            self.more.update(|more| more + 1);
        }
    }

    /// `value`, unless there were faults.
    pub(super) fn end<T>(self, value: T) -> Result<T, Faults> {
        let (mut faults, more) = (self.faults.into_inner(), self.more.get());
        faults.sort_by_key(|fault| fault.line);
        if more > 0 {
            faults.push(Fault { line: None, path: String::new(), message: format!("and {more} more") });
        }
        if faults.is_empty() { Ok(value) } else { Err(Faults(faults)) }
    }
}

/// A value of the tree, and how it was reached.
#[derive(Debug, Clone)]
pub(super) struct At<'a> {
    node: &'a Node,
    path: String,
    reading: &'a Reading,
}

/// A map all of whose keys are known.
#[derive(Debug)]
pub(super) struct Map<'a> {
    at: At<'a>,
    members: Vec<(&'a str, At<'a>)>,
}

impl<'a> At<'a> {
    pub(super) fn root(node: &'a Node, reading: &'a Reading) -> Self {
        Self { node, path: String::new(), reading }
    }

    /// Whether the cluster has a name here.
    pub(super) fn knows_cluster(&self) -> bool {
        self.reading.cluster
    }

    /// From 1.
    pub(super) fn line(&self) -> usize {
        self.node.line
    }

    /// Notes that something is wrong here.
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.reading.note(Some(self.node.line), self.path.clone(), message);
    }

    fn fault_of_key(&self, key: &Node, message: String) {
        self.reading.note(Some(key.line), self.path.clone(), message);
    }

    /// Text, and nothing that another reader of YAML would take for something else.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value()? {
            Value::Text(text) => return Some(text),
            Value::Other(Kind::Number, word) => self.fault(not_text(word, "a number in YAML")),
            Value::Other(Kind::Boolean, word) if word.len() == 1 => {
                self.fault(not_text(word, "a boolean in some parsers of YAML"))
            }
            Value::Other(Kind::Boolean, word) => self.fault(not_text(word, "a boolean in YAML")),
            Value::Other(Kind::Empty, _) => self.fault("is empty"),
            Value::List(_) | Value::Map(_) if self.node.untaken.is_some() => (),
            Value::List(_) => self.fault("is a list, where text is expected: text that begins with a bracket needs quotes"),
            Value::Map(_) => {
                self.fault("is a map, where text is expected: text that begins with a brace needs quotes, as in \"{namespace}\"");
            }
            Value::Nothing => (),
        }
        None
    }

    /// The text's meaning, or what is wrong with it.
    pub(super) fn parse<T>(&self, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        check(self.text()?).map_err(|message| self.fault(message)).ok()
    }

    /// As [`At::parse`], of what may stand without quotes though YAML takes it for something else.
    pub(super) fn parse_word<T>(&self, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match &self.node.value {
            Value::Other(Kind::Number | Kind::Boolean, word) => check(word).map_err(|message| self.fault(message)).ok(),
            Value::Other(Kind::Empty, _) | Value::Text(_) | Value::List(_) | Value::Map(_) | Value::Nothing => self.parse(check),
        }
    }

    /// The items of a list; none if no list stands here.
    pub(super) fn list(&self) -> Vec<Self> {
        match self.value() {
            Some(Value::List(items)) => return items.iter().enumerate().map(|(index, item)| self.item(index, item)).collect(),
            Some(Value::Other(Kind::Empty, _)) => self.fault("is empty: write [] for an empty list, or leave it out"),
            Some(Value::Map(_)) => self.fault("is a map, where a list is expected: begin each item with a dash"),
            Some(Value::Text(_) | Value::Other(..)) => self.fault("is text, where a list is expected"),
            Some(Value::Nothing) | None => (),
        }
        Vec::new()
    }

    /// The items of a list that have a meaning.
    pub(super) fn parse_list<T>(&self, check: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.list().iter().filter_map(|item| item.parse(&check)).collect()
    }

    /// Whether a list stands here that has no items.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// A map with these keys at most; `None` if none stands here.
    pub(super) fn map(&self, known: &[&str]) -> Option<Map<'a>> {
        let (members, unknown): (Vec<_>, Vec<_>) = self.members()?.into_iter().partition(|(key, _)| known.contains(key));
        for (key, at) in unknown {
            at.fault(unknown_key(key, known));
        }
        Some(Map { at: self.clone(), members })
    }

    /// The members of a map whose keys are free, each key once; `None` if no map stands here.
    pub(super) fn members(&self) -> Option<Vec<(&'a str, Self)>> {
        match self.value()? {
            Value::Map(members) => return Some(self.distinct(members)),
            Value::Other(Kind::Empty, _) => self.fault("is empty, where a map is expected"),
            Value::List(_) => self.fault("is a list, where a map is expected: leave the dashes out"),
            Value::Text(text) | Value::Other(_, text) => {
                let remedy = missing_space(text).map(|remedy| format!(": {remedy}")).unwrap_or_default();
                self.fault(format!("is text, where a map of keys and values is expected{remedy}"));
            }
            Value::Nothing => (),
        }
        None
    }

    /// `None` for what is not taken of YAML, which is noted, but where lists and maps can be read all the same.
    fn value(&self) -> Option<&'a Value> {
        let Some(untaken) = self.node.untaken else { return Some(&self.node.value) };
        self.fault(untaken);
        Some(&self.node.value).filter(|value| matches!(value, Value::List(_) | Value::Map(_)))
    }

    fn distinct(&self, members: &'a [(Node, Node)]) -> Vec<(&'a str, Self)> {
        let mut lines = BTreeMap::new();
        let mut distinct = Vec::new();
        for (key, value) in members {
            let Some(name) = self.key(key) else { continue };
            let at = self.member(name, value);
            match lines.entry(name) {
                Entry::Occupied(first) => at.fault_of_key(key, format!("is there in line {} already", first.get())),
                Entry::Vacant(first) => {
                    first.insert(key.line);
                    distinct.push((name, at));
                }
            }
        }
        distinct
    }

    fn key(&self, key: &'a Node) -> Option<&'a str> {
        let at = Self { node: key, ..self.clone() };
        match &key.value {
            Value::Text(name) if name == "<<" => at.fault("merge keys (<<) are not taken: write the values out"),
            Value::Text(_) | Value::Other(..) => return at.text(),
            Value::List(_) | Value::Map(_) => at.fault("a key is text"),
            Value::Nothing => at.fault("a key is text, and an alias (*name) is none: put it in quotes"),
        }
        None
    }

    fn item(&self, index: usize, node: &'a Node) -> Self {
        Self { node, path: format!("{}[{index}]", self.path), reading: self.reading }
    }

    fn member(&self, name: &str, node: &'a Node) -> Self {
        let name = if is_plain(name) { name.to_owned() } else { shown(name) };
        let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
        Self { node, path, reading: self.reading }
    }
}

impl<'a> Map<'a> {
    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&At<'a>> {
        self.members.iter().find(|(name, _)| *name == key).map(|(_, at)| at)
    }

    /// The value of `key`, whose absence is a fault.
    pub(super) fn need(&self, key: &str) -> Option<&At<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.at.fault(format!("{key} is missing"));
        }
        found
    }
}

fn not_text(word: &str, kind: &str) -> String {
    format!("is {kind}, where text is expected: write {} in quotes", shown(word))
}

fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// What to write for a key that is not known.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let word = |key: &str| key.to_ascii_lowercase().replace(['-', '_'], "");
    let likeness = |name: &&&str| strsim::jaro_winkler(&word(key), &word(name));
    let closest = known.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match closest.filter(|name| likeness(name) > ALIKE) {
        Some(name) if key.split(':').next() == Some(name) => format!("is not known: a space is missing after {name}:"),
        Some(name) => format!("is not known: did you mean {name}?"),
        None => format!("is not known here: {} may stand here", listed(known)),
    }
}
