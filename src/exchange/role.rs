//! The ARNs that follow from that of a role: of its sessions, and of the provider that it trusts.

use crate::domain::policy::RoleArn;

/// Whether `answered` is `arn:PARTITION:sts::ACCOUNT:assumed-role/NAME/SESSION` of this role and this session name. The role's path
/// is of no concern to STS, and IAM tells no names of roles apart by case.
pub(super) fn is_session(answered: &str, role: &RoleArn, session_name: &str) -> bool {
    let of_role = format!("arn:{}:sts::{}:assumed-role/{}", role.partition(), role.account(), role.name());
    answered.rsplit_once('/').is_some_and(|(role, session)| role.eq_ignore_ascii_case(&of_role) && session == session_name)
}

/// The ARN of the IAM OIDC provider of `issuer` in the account of `role`.
pub(super) fn oidc_provider(role: &RoleArn, issuer: &str) -> String {
    let provider = issuer.strip_prefix("https://").unwrap_or(issuer);
    format!("arn:{}:iam::{}:oidc-provider/{provider}", role.partition(), role.account())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_of_one_role_and_one_name() {
        let role = RoleArn::parse("arn:aws-cn:iam::111122223333:role/a/path/Deploy").unwrap();
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
            assert_eq!(is_session(arn, &role, "ci"), of_it, "{arn}");
        }
        let role = RoleArn::parse("arn:aws:iam::111122223333:role/a:b/r").unwrap();
        assert!(is_session("arn:aws:sts::111122223333:assumed-role/r/ci", &role, "ci"), "a path may hold a colon");
    }

    #[test]
    fn the_provider_of_an_issuer_bears_its_address() {
        let role = RoleArn::parse("arn:aws:iam::111122223333:role/ci").unwrap();
        assert_eq!(oidc_provider(&role, "https://k3s.example/x"), "arn:aws:iam::111122223333:oidc-provider/k3s.example/x");
    }
}
