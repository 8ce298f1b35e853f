//! What is wrong with a policy file or with annotations, told so that a person can mend it.

use std::fmt;

/// How much of a wrong value is shown, in characters.
const SHOWN: usize = 80;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// The line of the file, from 1; `None` for annotations, and for the file as a whole.
    pub line: Option<usize>,
    /// Where it is: `rules[2].targets.target-env.chain[0].duration`, with indices from 0, or an annotation's key; empty for the
    /// file as a whole.
    pub path: String,
    /// What is wrong and what is expected: one line, in which values are quoted, escaped and cut.
    pub message: String,
}

impl Fault {
    /// The fault without its line.
    #[must_use]
    pub fn what(&self) -> String {
        let Self { path, message, .. } = self;
        if path.is_empty() { message.clone() } else { format!("{path}: {message}") }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line.map_or(Ok(()), |line| write!(f, "line {line}: "))?;
        f.write_str(&self.what())
    }
}

/// All that is wrong, in the order of lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    /// A line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Faults {}

/// A value as a message shows it: quoted, escaped, and no longer than a line.
pub(super) fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start:?}…")
}

/// `one, two or three`.
pub(super) fn listed(words: &[impl AsRef<str>]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
