//! STS (2011-06-15, query protocol): the roles that a chain assumes, and `GetCallerIdentity`, by which a client proves that its
//! credentials are good.

pub(super) mod assume_role;
mod constraints;
mod packed_policy;
mod web_identity;

use std::time::SystemTime;

use bytes::Bytes;
use hyper::Request;
use serde_json::{Value, json};

use crate::domain::credential::rfc3339;
use crate::sim::fault::Fault;
use crate::sim::form::Form;
use crate::sim::role_request::RoleRequest;
use crate::sim::sessions::Principal;
use crate::sim::sigv4::{Scope, Unauthenticated};
use crate::sim::state::State;
use crate::sim::sts::assume_role::Granted;

/// `AssumeRole`: a session that ends when it asks, or at `expires_at`.
pub(super) fn assume_role(state: &State, request: &Request<Bytes>, expires_at: Option<SystemTime>) -> Result<Value, Fault> {
    let caller = caller(state, request)?;
    let granted = assume_role::assume_role(state, &caller.identity, &RoleRequest::of(&Form::of(request.body())))?;
    Ok(issued(state, &granted, expires_at))
}

/// `AssumeRoleWithWebIdentity`, likewise.
pub(super) fn assume_role_with_web_identity(
    state: &State,
    request: &Request<Bytes>,
    expires_at: Option<SystemTime>,
) -> Result<Value, Fault> {
    let (granted, provenance) = web_identity::assume_role(state, &Form::of(request.body()))?;
    let mut answer = issued(state, &granted, expires_at);
    if let (Value::Object(answer), Value::Object(provenance)) = (&mut answer, provenance) {
        answer.extend(provenance);
    }
    Ok(answer)
}

pub(super) fn get_caller_identity(state: &State, request: &Request<Bytes>) -> Result<Value, Fault> {
    let caller = caller(state, request)?.identity;
    Ok(json!({ "Arn": caller.arn, "UserId": caller.user_id, "Account": caller.account() }))
}

/// The answer to any other action.
pub(super) fn unknown_action(request: &Request<Bytes>) -> Fault {
    Form::of(request.body()).get("Action").map_or_else(
        || Fault::new(400, "MissingAction", "The request is missing an action"),
        |action| Fault::new(400, "InvalidAction", &format!("Could not find operation {action} for version 2011-06-15")),
    )
}

fn caller(state: &State, request: &Request<Bytes>) -> Result<Principal, Fault> {
    let scope = Scope { region: &state.config.region, service: "sts" };
    state.sessions.authenticate(request, scope, state.config.clock.now()).map_err(unauthenticated)
}

fn unauthenticated(why: Unauthenticated) -> Fault {
    match why {
        Unauthenticated::Missing => Fault::new(403, "MissingAuthenticationToken", "Request is missing Authentication Token"),
        Unauthenticated::Malformed => Fault::new(400, "IncompleteSignature", "Authorization header is incomplete"),
        Unauthenticated::UnknownKey => Fault::sts_invalid_client_token_id(),
        Unauthenticated::Expired => Fault::sts_expired_token(),
        Unauthenticated::Skewed => Fault::sts_signature_does_not_match("Signature expired, or not yet current"),
        Unauthenticated::Mismatch => Fault::sts_signature_does_not_match("The request signature we calculated does not match"),
    }
}

fn issued(state: &State, granted: &Granted, expires_at: Option<SystemTime>) -> Value {
    let expires_at = expires_at.unwrap_or_else(|| state.config.clock.now().wall + granted.duration);
    let session = state.sessions.issue(&granted.identity, expires_at);
    let credentials = json!({
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret_access_key.expose(),
        "SessionToken": session.session_token.expose(),
        "Expiration": rfc3339(session.expires_at),
    });
    json!({
        "Credentials": credentials,
        "AssumedRoleUser": { "Arn": granted.identity.arn, "AssumedRoleId": granted.identity.user_id },
        "PackedPolicySize": granted.packed_policy_percent,
        "SourceIdentity": granted.identity.source_identity,
    })
}
