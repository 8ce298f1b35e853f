//! The constraints of STS's API model (2011-06-15) on parameters, in the words of its own validation.

use std::collections::HashSet;
use std::time::Duration;

use crate::sim::fault::Fault;
use crate::sim::role_request::RoleRequest;

/// What `DurationSeconds` may be of any role.
const DURATION: [u64; 2] = [900, 43_200];

const MOST_TAGS: usize = 50;
const MOST_POLICY_ARNS: usize = 10;
const MOST_POLICY_CHARACTERS: usize = 2048;

/// A constraint on text.
struct Text {
    name: &'static str,
    least: usize,
    most: usize,
    pattern: &'static str,
    allows: fn(char) -> bool,
}

const ROLE_ARN: Text = Text {
    name: "roleArn",
    least: 20,
    most: 2048,
    pattern: r"[\u0009\u000A\u000D\u0020-\u007E\u0085\u00A0-\uD7FF\uE000-\uFFFD\u10000-\u10FFFF]+",
    allows: |c| !c.is_control(),
};
const SESSION_NAME: Text = Text { name: "roleSessionName", least: 2, most: 64, pattern: r"[\w+=,.@-]*", allows: is_name };
const SOURCE_IDENTITY: Text = Text { name: "sourceIdentity", ..SESSION_NAME };
const EXTERNAL_ID: Text =
    Text { name: "externalId", least: 2, most: 1224, pattern: r"[\w+=,.@:\/-]*", allows: |c| is_name(c) || ":/".contains(c) };
const TAG_KEY: Text =
    Text { name: "tags.1.member.key", least: 1, most: 128, pattern: r"[\p{L}\p{Z}\p{N}_.:/=+\-@]+", allows: is_tag };
const TAG_VALUE: Text =
    Text { name: "tags.1.member.value", least: 0, most: 256, pattern: r"[\p{L}\p{Z}\p{N}_.:/=+\-@]*", allows: is_tag };
const TRANSITIVE_KEY: Text = Text { name: "transitiveTagKeys", ..TAG_KEY };
const TOKEN: Text = Text { name: "webIdentityToken", least: 4, most: 20_000, pattern: "", allows: |_| true };

/// The first fault of a request, whoever sent it.
pub(super) fn check(request: &RoleRequest) -> Result<(), Fault> {
    ROLE_ARN.check(&request.role_arn)?;
    SESSION_NAME.check(&request.session_name)?;
    request.external_id.iter().try_for_each(|text| EXTERNAL_ID.check(text))?;
    request.source_identity.iter().try_for_each(|text| SOURCE_IDENTITY.check(text))?;
    request.duration.map_or(Ok(()), duration)?;
    policies(request)?;
    tags(request)
}

/// The first fault of a web identity token's size.
pub(super) fn check_token(token: &str) -> Result<(), Fault> {
    TOKEN.check(token)
}

impl Text {
    fn check(&self, text: &str) -> Result<(), Fault> {
        let length = text.chars().count();
        let rule = match length {
            _ if length < self.least => format!("Member must have length greater than or equal to {}", self.least),
            _ if length > self.most => format!("Member must have length less than or equal to {}", self.most),
            _ if !text.chars().all(self.allows) => format!("Member must satisfy regular expression pattern: {}", self.pattern),
            _ => return Ok(()),
        };
        Err(violation(text, self.name, &rule))
    }
}

fn duration(duration: Duration) -> Result<(), Fault> {
    let (seconds, [least, most]) = (duration.as_secs(), DURATION);
    let rule = match seconds {
        _ if seconds < least => format!("Member must have value greater than or equal to {least}"),
        _ if seconds > most => format!("Member must have value less than or equal to {most}"),
        _ => return Ok(()),
    };
    Err(violation(&seconds.to_string(), "durationSeconds", &rule))
}

fn policies(request: &RoleRequest) -> Result<(), Fault> {
    at_most(MOST_POLICY_ARNS, request.policy_arns.len(), "policyArns")?;
    let arns = request.policy_arns.iter().map(String::len).sum::<usize>();
    let policy = request.policy.as_deref().unwrap_or_default();
    if arns + policy.len() > MOST_POLICY_CHARACTERS {
        return Err(violation(
            policy,
            "policy",
            &format!("Member must have length less than or equal to {MOST_POLICY_CHARACTERS}"),
        ));
    }
    if request.policy.is_none() {
        return Ok(());
    }
    let is_json = serde_json::from_str::<serde_json::Map<_, _>>(policy).is_ok();
    is_json.then_some(()).ok_or_else(Fault::sts_malformed_policy_document)
}

fn tags(request: &RoleRequest) -> Result<(), Fault> {
    at_most(MOST_TAGS, request.tags.len(), "tags")?;
    at_most(MOST_TAGS, request.transitive_tag_keys.len(), "transitiveTagKeys")?;
    for (key, value) in &request.tags {
        TAG_KEY.check(key)?;
        TAG_VALUE.check(value)?;
    }
    request.transitive_tag_keys.iter().try_for_each(|key| TRANSITIVE_KEY.check(key))?;
    let keys: HashSet<String> = request.tags.iter().map(|(key, _)| key.to_lowercase()).collect();
    if keys.len() < request.tags.len() {
        let message = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
        return Err(Fault::sts_invalid_parameter_value(message));
    }
    if !request.transitive_tag_keys.iter().all(|key| keys.contains(&key.to_lowercase())) {
        let message = "The specified transitive tag key must be included in the requested tags.";
        return Err(Fault::sts_invalid_parameter_value(message));
    }
    Ok(())
}

fn at_most(most: usize, count: usize, name: &str) -> Result<(), Fault> {
    let fault = || violation(&format!("{count} members"), name, &format!("Member must have length less than or equal to {most}"));
    if count > most { Err(fault()) } else { Ok(()) }
}

fn violation(value: &str, name: &str, rule: &str) -> Fault {
    Fault::sts_validation(&format!(
        "1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {rule}"
    ))
}

/// `[\w+=,.@-]`.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
}

/// `[\p{L}\p{Z}\p{N}_.:/=+\-@]`.
fn is_tag(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-@".contains(c)
}
