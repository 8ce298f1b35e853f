//! Text that is not the YAML that was meant: what a person should write instead. The parser's own words tell what it came upon.

use granit_parser::{ErrorKind, ScanError};

/// What begins something else than text, where there are no quotes around it (YAML 1.2.2 §5.3, "Indicator Characters").
const INDICATORS: [char; 8] = ['{', '[', '@', '%', '`', '*', '&', '!'];

/// What `git merge` writes around what it could not merge.
const CONFLICTS: [&str; 3] = ["<<<<<<< ", "=======", ">>>>>>> "];

pub(super) const TOO_DEEP: &str = "is nested too deeply to be a policy";

/// The line, from 1, where a merge was left unfinished.
pub(super) fn conflict(text: &str) -> Option<usize> {
    let is_marker = |line: &str| CONFLICTS.iter().any(|marker| line.starts_with(marker));
    text.lines().position(is_marker).map(|before| before + 1)
}

/// What is wrong with `text`, of which the parser says `error`.
#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's own words say enough of all others")]
pub(super) fn message(error: &ScanError, text: &str) -> String {
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar
        | ErrorKind::TabAtBlockScalarStart => "a tab: YAML is indented with spaces".into(),
        ErrorKind::RecursionLimitExceeded => TOO_DEEP.into(),
        _ => {
            let remedy = remedy(error, text).map(|remedy| format!(": {remedy}")).unwrap_or_default();
            format!("is not YAML: {}{remedy}", error.info())
        }
    }
}

/// What to write in the line of the error, or in the one before, whose text YAML has read on.
fn remedy(error: &ScanError, text: &str) -> Option<String> {
    let at = error.marker();
    let nth = |back| text.lines().nth(at.line().checked_sub(back)?);
    let line = nth(1)?;
    let read: String = line.chars().take(at.col() + 1).collect();
    let quotes = unquoted(&read).map(|first| format!("put text that begins with {first} in double quotes"));
    quotes.or_else(|| missing_space(line)).or_else(|| missing_space(nth(2)?))
}

/// The character that begins the last value of `line`, if it needs quotes.
fn unquoted(line: &str) -> Option<char> {
    let begin = [": ", "- ", ", "].iter().filter_map(|gap| Some(line.rfind(gap)? + gap.len())).max()?;
    let value = line.get(begin..)?.trim_start();
    let indicator = |text: &str| text.chars().next().filter(|first| INDICATORS.contains(first));
    indicator(value.trim_start_matches(['[', ' '])).or_else(|| indicator(value))
}

/// What to write for `key:value`, which YAML takes for one word.
pub(super) fn missing_space(text: &str) -> Option<String> {
    let (key, value) = text.trim_start_matches(['-', ' ']).split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic()) && key != "arn";
    let is_joined = value.starts_with(|first: char| !first.is_whitespace());
    (is_key && is_joined).then(|| format!("a space is missing after {key}:"))
}
