//! `AssumeRole`, for whoever signs and, by way of EKS, for pods.

use std::time::Duration;

use crate::sim::fault::Fault;
use crate::sim::iam::arn::RoleArn;
use crate::sim::iam::policy::{Action, Asker};
use crate::sim::iam::role::Role;
use crate::sim::role_request::RoleRequest;
use crate::sim::sessions::Identity;
use crate::sim::state::State;
use crate::sim::sts::constraints;
use crate::sim::sts::packed_policy;

/// What is granted if nothing else is asked for, and the most that a role session is granted ("role chaining").
const HOUR: Duration = Duration::from_secs(3600);

/// A session that is granted and not issued yet.
#[derive(Debug)]
pub(in crate::sim) struct Granted {
    pub(in crate::sim) identity: Identity,
    pub(in crate::sim) duration: Duration,
    pub(in crate::sim) packed_policy_percent: usize,
}

/// What `caller` is granted.
pub(in crate::sim) fn assume_role(state: &State, caller: &Identity, request: &RoleRequest) -> Result<Granted, Fault> {
    constraints::check(request)?;
    let arn = role_arn(request)?;
    keep_inheritance(caller, request)?;
    let is_chained = caller.role_arn.is_some();
    if is_chained && request.duration.is_some_and(|duration| duration > HOUR) {
        let message = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.";
        return Err(Fault::sts_validation(message));
    }
    let role = state.iam.authorize(Asker::Aws(caller), request).map_err(|action| denied(caller, action, &arn))?;
    grant(caller, &role, request)
}

/// The session of `role` that a request which was authorized makes of `parent`.
pub(super) fn grant(parent: &Identity, role: &Role, request: &RoleRequest) -> Result<Granted, Fault> {
    let duration = request.duration.unwrap_or(HOUR);
    if duration > role.maximum {
        return Err(Fault::sts_validation("The requested DurationSeconds exceeds the MaxSessionDuration set for this role."));
    }
    let identity = Identity::assume(parent, &role.arn, request);
    let packed_policy_percent = packed_policy::percent(&identity.tags, request)?;
    Ok(Granted { identity, duration, packed_policy_percent })
}

pub(super) fn role_arn(request: &RoleRequest) -> Result<RoleArn, Fault> {
    RoleArn::parse(&request.role_arn).ok_or_else(|| Fault::sts_validation("Request ARN is invalid"))
}

/// A source identity stays, and what is inherited is not passed again.
fn keep_inheritance(caller: &Identity, request: &RoleRequest) -> Result<(), Fault> {
    if request.tags.iter().any(|(key, _)| caller.hands_on(key)) {
        let message = "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the \
                       calling session.";
        return Err(Fault::sts_invalid_parameter_value(message));
    }
    match (&caller.source_identity, &request.source_identity) {
        (Some(set), Some(asked)) if set != asked => {
            Err(Fault::sts_validation("The source identity is already set for this assume role session"))
        }
        _ => Ok(()),
    }
}

fn denied(caller: &Identity, action: Action, role: &RoleArn) -> Fault {
    let action: &str = action.into();
    Fault::sts_access_denied(&format!(
        "User: {} is not authorized to perform: {action} on resource: {}",
        caller.arn,
        role.as_str()
    ))
}
