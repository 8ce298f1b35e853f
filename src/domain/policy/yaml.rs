//! YAML as a tree whose nodes know their lines, so that every fault can be told with its own.
//!
//! serde would end at the first fault and hide the next. The parser is the one that kube brings along; its events bear positions.
//! What makes YAML surprising is not taken: aliases, anchors, tags, merge keys, directives, further documents.

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::domain::policy::fault::Fault;
use crate::domain::policy::syntax::{self, TOO_DEEP};

/// Bytes of a policy: a `ConfigMap` holds 1 MiB.
pub const MOST_BYTES: usize = 1 << 20;

/// A policy has eight levels.
const MOST_LEVELS: usize = 16;

const CONFLICT: &str = "a merge was left unfinished here: keep one side, and delete the lines of <<<<<<<, ======= and >>>>>>>";
const ANCHOR: &str = "anchors (&name) are not taken: write the value out";
const ALIAS: &str = "aliases (*name) are not taken: put text that begins with an asterisk in quotes, else write the value out";
const TAG: &str = "tags (!name) are not taken: put text that begins with an exclamation mark in quotes";
const SECOND_DOCUMENT: &str = "a second document begins here, and a policy is one";

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    /// From 1.
    pub(super) line: usize,
    /// What is not taken of YAML, at this node.
    pub(super) untaken: Option<&'static str>,
    pub(super) value: Value,
}

/// What stands there.
#[derive(Debug)]
pub(super) enum Value {
    /// Text in quotes, or what any YAML reader takes for text.
    Text(String),
    /// What YAML readers take for something else, as it is written.
    Other(Kind, String),
    List(Vec<Node>),
    /// Keys and values, doubled ones too.
    Map(Vec<(Node, Node)>),
    /// An alias.
    Nothing,
}

/// What YAML 1.1 or 1.2 takes a word without quotes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Empty,
    Boolean,
    Number,
}

/// Reads one document; `None` when there is none.
///
/// # Errors
/// The first fault of syntax: what follows it could be anything.
pub(super) fn read(text: &str) -> Result<Option<Node>, Fault> {
    if text.len() > MOST_BYTES {
        return Err(fault(None, format!("the file is larger than 1 MiB: {} bytes", text.len())));
    }
    if let Some(line) = syntax::conflict(text) {
        return Err(fault(Some(line), CONFLICT.into()));
    }
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
        flow_nesting_limit: MOST_LEVELS,
        block_nesting_limit: MOST_LEVELS,
    };
    Reader { text, events: Parser::new_from_str_with_options(text, options), levels: 0 }.documents()
}

struct Reader<'a> {
    text: &'a str,
    events: Parser<'a, StrInput<'a>>,
    levels: usize,
}

impl<'a> Reader<'a> {
    fn documents(&mut self) -> Result<Option<Node>, Fault> {
        let mut root: Option<Node> = None;
        while let Some((event, span)) = self.next()? {
            if !event.is_node() {
                continue;
            }
            let node = self.node(event, &span)?;
            match &mut root {
                Some(first) => (first.line, first.untaken) = (node.line, Some(SECOND_DOCUMENT)),
                None => root = Some(node),
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Fault> {
        let next = self.events.next().transpose();
        next.map_err(|error| fault(Some(error.marker().line()), syntax::message(&error, self.text)))
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Fault> {
        let untaken = untaken(&event);
        let value = self.value(event, span)?;
        Ok(Node { line: span.start.line(), untaken, value })
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "no other event is a value")]
    fn value(&mut self, event: Event<'a>, span: &Span) -> Result<Value, Fault> {
        match event {
            Event::Scalar(text, style, ..) => Ok(scalar(text.into_owned(), style)),
            Event::SequenceStart(..) => self.nested(span, Self::list),
            Event::MappingStart(..) => self.nested(span, Self::map),
            _ => Ok(Value::Nothing),
        }
    }

    fn nested(&mut self, span: &Span, read: fn(&mut Self) -> Result<Value, Fault>) -> Result<Value, Fault> {
        if self.levels == MOST_LEVELS {
            return Err(fault(Some(span.start.line()), TOO_DEEP.into()));
        }
        self.levels += 1;
        let value = read(self);
        self.levels -= 1;
        value
    }

    fn list(&mut self) -> Result<Value, Fault> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()?.filter(|(event, _)| event.is_node()) {
            items.push(self.node(event, &span)?);
        }
        Ok(Value::List(items))
    }

    fn map(&mut self) -> Result<Value, Fault> {
        let mut members = Vec::new();
        while let Some((event, span)) = self.next()?.filter(|(event, _)| event.is_node()) {
            let key = self.node(event, &span)?;
            let Some((event, span)) = self.next()? else { break };
            let mut value = self.node(event, &span)?;
            if value.untaken.is_some() || matches!(value.value, Value::Other(Kind::Empty, _)) {
                // An anchor or a tag stands before its value, and an empty value where the next token does.
                value.line = key.line;
            }
            members.push((key, value));
        }
        Ok(Value::Map(members))
    }
}

fn untaken(event: &Event<'_>) -> Option<&'static str> {
    if event.is_alias() {
        return Some(ALIAS);
    }
    event.tag().map(|_| TAG).or(event.anchor_id().map(|_| ANCHOR))
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    match kind(&text).filter(|_| style == ScalarStyle::Plain) {
        Some(kind) => Value::Other(kind, text),
        None => Value::Text(text),
    }
}

/// What a word without quotes is to readers of YAML 1.1 (most in use) or 1.2.
fn kind(text: &str) -> Option<Kind> {
    match text.to_ascii_lowercase().as_str() {
        "" | "~" | "null" => Some(Kind::Empty),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" => Some(Kind::Boolean),
        word if is_number(word) => Some(Kind::Number),
        _ => None,
    }
}

fn is_number(word: &str) -> bool {
    let unsigned = word.trim_start_matches(['+', '-']).replace('_', "");
    let all = |text: &str, radix| !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    let of_base = |prefix, radix| unsigned.strip_prefix(prefix).is_some_and(|digits| all(digits, radix));
    let is_sexagesimal = unsigned.contains(':') && unsigned.split(':').all(|part| all(part, 10));
    let is_decimal =
        unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') && unsigned.parse::<f64>().is_ok();
    is_decimal
        || is_sexagesimal
        || of_base("0x", 16)
        || of_base("0o", 8)
        || of_base("0b", 2)
        || [".inf", ".nan"].contains(&&*unsigned)
}

fn fault(line: Option<usize>, message: String) -> Fault {
    Fault { line, path: String::new(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_other_readers_take_for_something_else() {
        let of = |words: &[&str], kind_expected| words.iter().all(|word| kind(word) == kind_expected);
        assert!(of(&["", "~", "null", "NULL"], Some(Kind::Empty)));
        assert!(of(&["no", "Yes", "off", "TRUE", "n"], Some(Kind::Boolean)));
        assert!(of(&["012", "1e3", "1_000", "-5", "0x1f", "0o17", "3.", ".5", "1:30", "+.inf", ".NaN"], Some(Kind::Number)));
        assert!(of(&["1h", "a", "nan", "inf", "1-2", "1.2.3", "0xg", "12:3a", "none", "-", "123456789012:role"], None));
    }

    #[test]
    fn nodes_know_their_lines() {
        let Some(Node { value: Value::Map(members), .. }) = read("# first\na:\nb:\n  - x\n  - {c: 'no'}\n").unwrap() else {
            panic!("a map")
        };
        let lines: Vec<usize> = members.iter().map(|(_, value)| value.line).collect();
        assert_eq!(lines, [2, 4]);
        let Value::List(items) = &members[1].1.value else { panic!("a list") };
        assert_eq!(items[1].line, 5);
    }
}
