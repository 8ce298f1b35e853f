//! Patterns of names: `*` stands for any number of characters, none included, and everything else for itself.

use std::fmt;

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    text: String,
}

impl Glob {
    /// The pattern as it is written.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// Whether all of `name` is matched. Each piece between asterisks is taken where it comes first, which is never a wrong choice,
    /// so no pattern costs more than its length times the name's.
    pub(super) fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.text.split_once('*') else { return self.text == name };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(inner) = name.strip_prefix(first).and_then(|name| name.strip_suffix(last)) else { return false };
        middle.split('*').try_fold(inner, |name, piece| name.find(piece).and_then(|at| name.get(at + piece.len()..))).is_some()
    }

    /// Whether every name that `other` matches is matched here too. An asterisk is no character of names, so only an asterisk
    /// here can match one there.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.matches(&other.text)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => naive(rest, name) || name.split_first().is_some_and(|(_, name)| naive(pattern, name)),
            (Some((one, pattern)), Some((other, name))) => one == other && naive(pattern, name),
            _ => false,
        }
    }

    #[test]
    fn asterisks_match_anything_and_nothing() {
        let matched = [("*", ""), ("*", "a"), ("a*", "a"), ("a*c", "abc"), ("*a*b*", "xaxbx"), ("**", ""), ("a**a", "aa")];
        assert!(matched.iter().all(|(pattern, name)| Glob::new(*pattern).matches(name)), "{matched:?}");
        let unmatched = [("", "a"), ("a", ""), ("a*a", "a"), ("a*", "ba"), ("*ab*ab*", "ab"), ("a", "A"), ("*a*a", "a")];
        assert!(!unmatched.iter().any(|(pattern, name)| Glob::new(*pattern).matches(name)), "{unmatched:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

        #[test]
        fn matching_is_what_it_is_by_definition(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(Glob::new(&*pattern).matches(&name), naive(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn what_covers_matches_all_that_is_covered(wide in "[ab*]{0,6}", narrow in "[ab*]{0,6}", name in "[abc]{0,8}") {
            let (wide, narrow) = (Glob::new(wide), Glob::new(narrow));
            prop_assert!(!(wide.covers(&narrow) && narrow.matches(&name)) || wide.matches(&name));
        }
    }
}
