//! Conditions of a trust policy, and what they are judged by.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_multi-key-or-value-conditions.html>

use std::collections::BTreeMap;

use serde::Deserialize;

/// Operators that compare text, over one value or over a set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(in crate::sim) enum Operator {
    StringEquals,
    StringLike,
    #[serde(rename = "ForAnyValue:StringEquals")]
    AnyEquals,
    #[serde(rename = "ForAnyValue:StringLike")]
    AnyLike,
    #[serde(rename = "ForAllValues:StringEquals")]
    AllEqual,
    #[serde(rename = "ForAllValues:StringLike")]
    AllLike,
}

/// One line of a `Condition` block.
#[derive(Debug)]
pub(in crate::sim) struct Condition {
    operator: Operator,
    /// In lower case: keys are not case-sensitive, values are.
    key: String,
    values: Vec<String>,
}

impl Condition {
    /// Refuses what [`Condition::holds`] would not judge as IAM does.
    pub(in crate::sim) fn new(operator: Operator, key: &str, values: Vec<String>) -> Result<Self, String> {
        let lower = key.to_lowercase();
        if !is_known(&lower) {
            return Err(format!("the condition key {key:?} is not simulated"));
        }
        if values.iter().any(|value| value.contains("${")) {
            return Err(format!("policy variables, as in {key:?}, are not simulated"));
        }
        Ok(Self { operator, key: lower, values })
    }

    pub(in crate::sim) fn holds(&self, context: &Context) -> bool {
        let asked = context.values(&self.key);
        let equal = |asked: &String| self.values.contains(asked);
        let like = |asked: &String| self.values.iter().any(|pattern| matches(pattern, asked));
        match self.operator {
            Operator::StringEquals => asked.len() == 1 && asked.iter().all(equal),
            Operator::StringLike => asked.len() == 1 && asked.iter().all(like),
            Operator::AnyEquals => asked.iter().any(equal),
            Operator::AnyLike => asked.iter().any(like),
            Operator::AllEqual => asked.iter().all(equal),
            Operator::AllLike => asked.iter().all(like),
        }
    }
}

fn is_known(key: &str) -> bool {
    let exact = ["sts:externalid", "sts:rolesessionname", "sts:sourceidentity", "aws:tagkeys"];
    let of_tag = ["aws:requesttag/", "aws:principaltag/"];
    let of_provider = [":aud", ":sub"].iter().any(|suffix| key.ends_with(suffix)) && key.contains(['.', '/']);
    exact.contains(&key) || of_tag.iter().any(|prefix| key.starts_with(prefix)) || of_provider
}

/// What a request says, by condition key.
#[derive(Debug, Default)]
pub(in crate::sim) struct Context {
    values: BTreeMap<String, Vec<String>>,
}

impl Context {
    /// With the values of a key; without any the key is absent.
    pub(in crate::sim) fn with(mut self, key: &str, values: impl IntoIterator<Item = String>) -> Self {
        self.values.entry(key.to_lowercase()).or_default().extend(values);
        self
    }

    /// With one key for each tag.
    pub(in crate::sim) fn with_tags<'a>(self, prefix: &str, tags: impl IntoIterator<Item = &'a (String, String)>) -> Self {
        tags.into_iter().fold(self, |context, (key, value)| context.with(&format!("{prefix}/{key}"), [value.clone()]))
    }

    fn values(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for any text and `?` for any one character.
pub(in crate::sim) fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text.chars();
    let mut pattern_rest = pattern.chars();
    match (pattern_rest.next(), rest.next()) {
        (None, None) => true,
        (Some('*'), first) => matches(pattern_rest.as_str(), text) || first.is_some() && matches(pattern, rest.as_str()),
        (Some('?'), Some(_)) => matches(pattern_rest.as_str(), rest.as_str()),
        (Some(expected), Some(found)) => expected == found && matches(pattern_rest.as_str(), rest.as_str()),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_text() {
        let table = [
            ("", "", true),
            ("*", "", true),
            ("*", "any", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("system:serviceaccount:team-*:*", "system:serviceaccount:team-a:app", true),
            ("system:serviceaccount:team-*:*", "system:serviceaccount:other:app", false),
            ("A", "a", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn operators_judge_one_value_or_sets_as_iam_does() {
        let table: [(Operator, &[&str], bool); 12] = [
            (Operator::StringEquals, &["a"], true),
            (Operator::StringEquals, &["x1"], false),
            (Operator::StringEquals, &[], false),
            (Operator::StringEquals, &["a", "b"], false),
            (Operator::StringLike, &["x1"], true),
            (Operator::AnyEquals, &["q", "b"], true),
            (Operator::AnyEquals, &[], false),
            (Operator::AnyLike, &["q", "x1"], true),
            (Operator::AllEqual, &["a", "b"], true),
            (Operator::AllEqual, &["a", "q"], false),
            (Operator::AllEqual, &[], true),
            (Operator::AllLike, &["x1", "x2"], true),
        ];
        for (operator, asked, expected) in table {
            let context = Context::default().with("AWS:TagKeys", asked.iter().map(ToString::to_string));
            let condition = Condition::new(operator, "aws:tagkeys", ["a", "b", "x?"].map(str::to_owned).into()).unwrap();
            assert_eq!(condition.holds(&context), expected, "{operator:?} {asked:?}");
        }
    }
}
