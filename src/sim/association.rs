//! Pod Identity associations: which role a service account has.
//!
//! <https://docs.aws.amazon.com/eks/latest/APIReference/API_PodIdentityAssociation.html>

/// What an association says.
#[derive(Debug, Clone)]
pub struct Association {
    pub(super) role_arn: String,
    pub(super) target: Option<Target>,
    pub(super) has_session_tags: bool,
}

/// The role to which EKS goes on from the association's own.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) role_arn: String,
    pub(super) external_id: Option<String>,
}

impl Association {
    /// With a role, which must be one of the cloud's and trust `pods.eks.amazonaws.com` with `sts:AssumeRole` and
    /// `sts:TagSession`.
    #[must_use]
    pub fn new(role_arn: &str) -> Self {
        Self { role_arn: role_arn.to_owned(), target: None, has_session_tags: true }
    }

    /// With a `targetRoleArn` and its `externalId`: EKS assumes the target with the first role's session.
    #[must_use]
    pub fn target(self, role_arn: &str, external_id: Option<&str>) -> Self {
        Self { target: Some(Target { role_arn: role_arn.to_owned(), external_id: external_id.map(str::to_owned) }), ..self }
    }

    /// With `disableSessionTags`.
    #[must_use]
    pub fn without_session_tags(self) -> Self {
        Self { has_session_tags: false, ..self }
    }
}
