//! The ARN of a role, `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`, and the ARNs that follow from it.

use crate::domain::mint::Failure;

/// The parts of a role's ARN; its path is of no concern to STS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role<'a> {
    pub(super) arn: &'a str,
    pub(super) account: &'a str,
    partition: &'a str,
    name: &'a str,
}

impl<'a> Role<'a> {
    /// Takes a role ARN of a grant apart. That another one gets so far is a bug of the policy.
    pub(super) fn of_grant(arn: &'a str) -> Result<Self, Failure> {
        Self::parse(arn).ok_or_else(|| Failure::Bug("the grant's role is not the ARN of a role".into()))
    }

    fn parse(arn: &'a str) -> Option<Self> {
        let [partition, "iam", "", account, resource] = arn.strip_prefix("arn:")?.split(':').collect::<Vec<_>>()[..] else {
            return None;
        };
        let name = resource.strip_prefix("role/")?.rsplit('/').next()?;
        (!name.is_empty()).then_some(Self { arn, account, partition, name })
    }

    /// Whether `answered` is `arn:PARTITION:sts::ACCOUNT:assumed-role/NAME/SESSION` of this role and this session name. IAM tells
    /// no names of roles apart by case.
    pub(super) fn has_session(&self, answered: &str, session_name: &str) -> bool {
        let Self { partition, account, name, .. } = self;
        let of_role = format!("arn:{partition}:sts::{account}:assumed-role/{name}");
        answered.rsplit_once('/').is_some_and(|(role, session)| role.eq_ignore_ascii_case(&of_role) && session == session_name)
    }

    /// The ARN of the IAM OIDC provider of `issuer` in this role's account.
    pub(super) fn oidc_provider(&self, issuer: &str) -> String {
        let Self { partition, account, .. } = self;
        format!("arn:{partition}:iam::{account}:oidc-provider/{}", issuer.strip_prefix("https://").unwrap_or(issuer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_of_one_role_and_one_name() {
        let role = Role::of_grant("arn:aws-cn:iam::111122223333:role/a/path/Deploy").unwrap();
        for (arn, of_it) in [
            ("arn:aws-cn:sts::111122223333:assumed-role/Deploy/ci", true),
            ("arn:aws-cn:sts::111122223333:assumed-role/deploy/ci", true),
            ("arn:aws-cn:sts::111122223333:assumed-role/Deploy/CI", false),
            ("arn:aws-cn:sts::111122223333:assumed-role/Deploy/ci2", false),
            ("arn:aws-cn:sts::111122223333:assumed-role/a/path/Deploy/ci", false),
            ("arn:aws-cn:sts::111122223333:assumed-role/Deployer/ci", false),
            ("arn:aws-cn:sts::111122223334:assumed-role/Deploy/ci", false),
            ("arn:aws:sts::111122223333:assumed-role/Deploy/ci", false),
            ("arn:aws-cn:iam::111122223333:role/a/path/Deploy", false),
            ("ci", false),
        ] {
            assert_eq!(role.has_session(arn, "ci"), of_it, "{arn}");
        }
    }

    #[test]
    fn nothing_but_the_arn_of_a_role_is_one() {
        for arn in [
            "",
            "arn:aws:iam::1:user/x",
            "arn:aws:sts::1:assumed-role/x/y",
            "arn:aws:iam::1:role",
            "arn:aws:iam::1:role/x/",
            "arn:aws:iam::1:roles/x",
            "arn:aws:iam:x:1:role/x",
        ] {
            assert!(Role::of_grant(arn).is_err(), "{arn}");
        }
    }

    #[test]
    fn the_provider_of_an_issuer_bears_its_address() {
        let role = Role::of_grant("arn:aws:iam::111122223333:role/ci").unwrap();
        assert_eq!(role.oidc_provider("https://k3s.example/x"), "arn:aws:iam::111122223333:oidc-provider/k3s.example/x");
    }
}
