//! Names of what IAM and STS know.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html>

use crate::domain::credential::account_of;
use crate::sim::random::stable_id;

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sim) struct RoleArn {
    text: String,
    partition: String,
    account: String,
    name: String,
}

impl RoleArn {
    pub(in crate::sim) fn parse(text: &str) -> Option<Self> {
        let [partition, account, path] = iam_parts(text)?;
        let name = path.strip_prefix("role/")?.rsplit('/').next().filter(|name| !name.is_empty())?;
        Some(Self { text: text.to_owned(), partition: partition.into(), account: account.into(), name: name.into() })
    }

    pub(in crate::sim) fn as_str(&self) -> &str {
        &self.text
    }

    pub(in crate::sim) fn account(&self) -> &str {
        &self.account
    }

    /// The assumed-role ARN of a session, which leaves out the role's path.
    pub(in crate::sim) fn session(&self, name: &str) -> String {
        format!("arn:{}:sts::{}:assumed-role/{}/{name}", self.partition, self.account, self.name)
    }

    /// `AROA…`, always the same for a role.
    pub(in crate::sim) fn unique_id(&self) -> String {
        stable_id("AROA", &self.text).to_uppercase()
    }

    /// The OpenID Connect provider of `issuer` in the role's account.
    pub(in crate::sim) fn provider(&self, issuer: &str) -> String {
        format!("arn:{}:iam::{}:oidc-provider/{}", self.partition, self.account, provider_name(issuer))
    }
}

/// How IAM names an issuer in ARNs and condition keys: its URL without the scheme.
pub(in crate::sim) fn provider_name(issuer: &str) -> &str {
    issuer.split_once("://").map_or(issuer, |(_, name)| name)
}

/// Whether `text` names a root, role or user of an account, or a role session: what a trust policy may name as `AWS`.
pub(in crate::sim) fn is_aws_principal(text: &str) -> bool {
    let is_session = || account_of(text).is_some() && text.contains(":sts::") && text.contains(":assumed-role/");
    let is_identity = |path: &str| path == "root" || path.starts_with("user/");
    is_session() || RoleArn::parse(text).is_some() || iam_parts(text).is_some_and(|[_, _, path]| is_identity(path))
}

/// Whether `text` names an account's OpenID Connect provider.
pub(in crate::sim) fn is_provider(text: &str) -> bool {
    iam_parts(text).is_some_and(|[_, _, path]| path.starts_with("oidc-provider/"))
}

/// The account whose root `text` names.
pub(in crate::sim) fn account_of_root(text: &str) -> Option<&str> {
    iam_parts(text).filter(|[_, _, path]| *path == "root").map(|[_, account, _]| account)
}

/// Partition, account and resource.
fn iam_parts(text: &str) -> Option<[&str; 3]> {
    let account = account_of(text)?;
    let (partition, rest) = text.strip_prefix("arn:")?.split_once(":iam::")?;
    Some([partition, account, rest.strip_prefix(account)?.strip_prefix(':')?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_arn_names_role_sessions_and_providers() {
        let role = RoleArn::parse("arn:aws-cn:iam::111111111111:role/teams/a/reader").unwrap();
        assert_eq!(role.account(), "111111111111");
        assert_eq!(role.session("s"), "arn:aws-cn:sts::111111111111:assumed-role/reader/s");
        assert_eq!(role.provider("https://oidc.test/id/A"), "arn:aws-cn:iam::111111111111:oidc-provider/oidc.test/id/A");
        assert_eq!((role.unique_id().len(), &role.unique_id()[..4]), (21, "AROA"));
        for bad in ["", "role/x", "arn:aws:iam::1:role/x", "arn:aws:iam::111111111111:role/", "arn:aws:iam::111111111111:user/x"]
        {
            assert_eq!(RoleArn::parse(bad), None, "{bad}");
        }
    }
}
