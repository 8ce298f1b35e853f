//! ARNs of roles and managed policies (IAM User Guide, "IAM identifiers"; STS API, `RoleArn`, `PolicyArns`). What is not one is told
//! what it looks like instead: each of these mistakes is an `AccessDenied` hours later otherwise.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::parcel::text;
use crate::domain::policy::fault::shown;

/// Partitions, and how those of intelligence services begin.
const PARTITIONS: [&str; 4] = ["aws", "aws-cn", "aws-us-gov", "aws-eusc"];
const ISOLATED: &str = "aws-iso";

/// Bytes of an ARN.
const LENGTH: std::ops::RangeInclusive<usize> = 20..=2048;

/// Characters of a role's name, and of a managed policy's.
const ROLE_NAME: usize = 64;
const POLICY_NAME: usize = 128;

/// Characters of a path, its slashes included.
const PATH: usize = 512;

/// The ARN of a role, `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`. Clones share its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoleArn(#[serde(with = "text")] Arc<str>);

impl RoleArn {
    /// Reads the ARN of a role.
    ///
    /// # Errors
    /// What the text looks like instead, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = Parts::of(text, "a role's, arn:aws:iam::ACCOUNT:role/NAME")?;
        let name = parts.resource.strip_prefix("role/").filter(|_| parts.service == "iam");
        let Some(name) = name else { return Err(parts.other_than_role(text)) };
        is_account(parts.account)?;
        is_name(name, ROLE_NAME)?;
        Ok(Self(text.into()))
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `aws`, `aws-cn`…
    #[must_use]
    pub fn partition(&self) -> &str {
        self.field(1)
    }

    /// Twelve digits.
    #[must_use]
    pub fn account(&self) -> &str {
        self.field(4)
    }

    /// The name without the path, which may hold colons and slashes, as a name may not.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    fn field(&self, index: usize) -> &str {
        self.0.split(':').nth(index).unwrap_or_default()
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the ARN of a managed policy, `arn:PARTITION:iam::ACCOUNT:policy/PATH/NAME`, and returns its account, `aws` for those of AWS.
pub(super) fn policy_account(text: &str) -> Result<&str, String> {
    let parts = Parts::of(text, "a managed policy's, arn:aws:iam::aws:policy/NAME")?;
    let name = parts.resource.strip_prefix("policy/").filter(|_| parts.service == "iam");
    let Some(name) = name else { return Err(format!("{} is not the ARN of a managed policy", shown(text))) };
    if parts.account != "aws" {
        is_account(parts.account)?;
    }
    is_name(name, POLICY_NAME)?;
    Ok(parts.account)
}

struct Parts<'a> {
    service: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str, expected: &str) -> Result<Self, String> {
        if text.contains(['{', '}']) {
            return Err(format!("{} has a variable, but an ARN is plain text here", shown(text)));
        }
        if text.contains(['*', '?']) {
            return Err(format!("{} has a wildcard: name one", shown(text)));
        }
        let mut fields = text.splitn(6, ':');
        let mut field = || fields.next();
        let (Some("arn"), Some(partition), Some(service), Some(region), Some(account), Some(resource)) =
            (field(), field(), field(), field(), field(), field())
        else {
            return Err(format!("{} is not an ARN: {expected} is expected", shown(text)));
        };
        if !LENGTH.contains(&text.len()) {
            return Err(format!("{} has {} characters: an ARN has 20 to 2048", shown(text), text.len()));
        }
        is_partition(partition)?;
        if !region.is_empty() {
            return Err(format!("names region {}, but IAM has none: leave the field empty", shown(region)));
        }
        Ok(Self { service, account, resource })
    }

    fn other_than_role(&self, text: &str) -> String {
        let kind = self.resource.split('/').next().unwrap_or_default();
        let what = match (self.service, kind) {
            ("sts", "assumed-role") => "is the ARN of a session: name its role, arn:aws:iam::ACCOUNT:role/NAME",
            ("sts", "federated-user") => "is the ARN of a federated user, which can't be assumed: name a role",
            ("iam", "user") => "is the ARN of a user, which can't be assumed: name a role",
            ("iam", "root") => "is the ARN of an account: name one of its roles",
            ("iam", "group") => "is the ARN of a group, which can't be assumed: name a role",
            ("iam", "policy") => "is the ARN of a policy: name a role, and policies in policyArns",
            ("iam", "instance-profile") => "is the ARN of an instance profile: name its role",
            ("iam", "oidc-provider") => "is the ARN of an OIDC provider: name a role that trusts it",
            _ => "is not the ARN of a role: arn:aws:iam::ACCOUNT:role/NAME is expected",
        };
        format!("{} {what}", shown(text))
    }
}

fn is_partition(partition: &str) -> Result<(), String> {
    let isolated = partition.strip_prefix(ISOLATED).is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('-'));
    if isolated || PARTITIONS.contains(&partition) {
        return Ok(());
    }
    Err(format!("{} is not a partition of AWS: {} and aws-iso… are", shown(partition), PARTITIONS.join(", ")))
}

fn is_account(account: &str) -> Result<(), String> {
    if account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!("{} is not an account: 12 digits are", shown(account)))
}

/// `PATH/NAME`: the path of visible ASCII, the name of `[\w+=,.@-]`.
fn is_name(path_and_name: &str, longest: usize) -> Result<(), String> {
    let (path, name) = path_and_name.rsplit_once('/').unwrap_or(("", path_and_name));
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    if !(1..=longest).contains(&name.len()) || !name.bytes().all(known) {
        return Err(format!("{} is not a name of 1 to {longest} letters, digits and _+=,.@-", shown(name)));
    }
    if path.len() + "//".len() > PATH || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{} is not a path of at most {PATH} visible ASCII characters", shown(path)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_every_partition_are_taken() {
        for partition in ["aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-iso-f", "aws-eusc"] {
            let text = format!("arn:{partition}:iam::123456789012:role/a/b/my-role_+=,.@");
            let role = RoleArn::parse(&text).unwrap();
            assert_eq!((role.as_str(), role.partition(), role.account()), (&*text, partition, "123456789012"));
            assert_eq!(role.name(), "my-role_+=,.@");
        }
        for (path, name) in [("r", "r"), ("a:b/r", "r"), ("a:b/role/c:d/r", "r")] {
            let role = RoleArn::parse(&format!("arn:aws:iam::123456789012:role/{path}")).unwrap();
            assert_eq!((role.partition(), role.account(), role.name()), ("aws", "123456789012", name));
        }
    }

    #[test]
    fn what_is_no_role_is_told_what_it_is() {
        let long = format!("arn:aws:iam::123456789012:role/{}", "a".repeat(65));
        let rows = [
            ("my-role", "not an ARN"),
            ("arn:aws:iam::123456789012:user/bob", "a user"),
            ("arn:aws:iam::123456789012:root", "an account"),
            ("arn:aws:iam::123456789012:policy/p", "a policy"),
            ("arn:aws:iam::123456789012:instance-profile/p", "an instance profile"),
            ("arn:aws:sts::123456789012:assumed-role/r/s", "a session"),
            ("arn:aws:s3:::123456789012:bucket", "not the ARN of a role"),
            ("arn:aws:eks::123456789012:role/r", "not the ARN of a role"),
            ("arn:aws:iam:eu-west-1:123456789012:role/r", "region"),
            ("arn:aws:iam::123456789012:role/*", "wildcard"),
            ("arn:aws:iam::123456789012:role/{namespace}", "variable"),
            ("arn:aws:iam::12345678901:role/r", "12 digits"),
            ("arn:aws:iam::ACCOUNT_ID:role/r", "12 digits"),
            ("arn:amazon:iam::123456789012:role/r", "partition"),
            ("arn:aws-isolated:iam::123456789012:role/r", "partition"),
            ("arn:aws:iam::123456789012:role/", "not a name"),
            ("arn:aws:iam::123456789012:role/my role", "not a name"),
            ("arn:aws:iam::123456789012:role/a b/r", "not a path"),
            (&*long, "not a name"),
        ];
        for (text, expected) in rows {
            let message = RoleArn::parse(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn managed_policies_are_of_aws_or_of_an_account() {
        assert_eq!(policy_account("arn:aws:iam::aws:policy/job-function/ViewOnlyAccess"), Ok("aws"));
        assert_eq!(policy_account("arn:aws:iam::123456789012:policy/p"), Ok("123456789012"));
        assert!(policy_account("arn:aws:iam::123456789012:role/p").unwrap_err().contains("not the ARN of a managed policy"));
        assert!(policy_account("ReadOnlyAccess").unwrap_err().contains("not an ARN"));
    }
}
