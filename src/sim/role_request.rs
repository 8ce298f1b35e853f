//! What a caller asks for when it assumes a role.

use std::time::Duration;

use crate::sim::form::Form;

/// The parameters that `AssumeRole` and `AssumeRoleWithWebIdentity` share; those that were not sent are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleRequest {
    /// `RoleArn`.
    pub role_arn: String,
    /// `RoleSessionName`.
    pub session_name: String,
    /// `DurationSeconds`; zero if it is no number.
    pub duration: Option<Duration>,
    /// `ExternalId`.
    pub external_id: Option<String>,
    /// `Tags`: key and value.
    pub tags: Vec<(String, String)>,
    /// `TransitiveTagKeys`.
    pub transitive_tag_keys: Vec<String>,
    /// `SourceIdentity`.
    pub source_identity: Option<String>,
    /// `Policy`.
    pub policy: Option<String>,
    /// `PolicyArns`.
    pub policy_arns: Vec<String>,
}

impl RoleRequest {
    pub(super) fn of(form: &Form) -> Self {
        let seconds = form.get("DurationSeconds").map(|text| text.parse().unwrap_or_default());
        let (keys, values) = (form.list("Tags", ".Key"), form.list("Tags", ".Value"));
        Self {
            role_arn: form.get("RoleArn").unwrap_or_default(),
            session_name: form.get("RoleSessionName").unwrap_or_default(),
            duration: seconds.map(Duration::from_secs),
            external_id: form.get("ExternalId"),
            tags: keys.into_iter().zip(values).collect(),
            transitive_tag_keys: form.list("TransitiveTagKeys", ""),
            source_identity: form.get("SourceIdentity"),
            policy: form.get("Policy"),
            policy_arns: form.list("PolicyArns", ".arn"),
        }
    }
}
