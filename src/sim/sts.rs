//! STS (2011-06-15, query protocol): `GetCallerIdentity`, by which a client proves that its credentials are good.

use bytes::Bytes;
use hyper::Request;

use crate::sim::fault::{Fault, escaped};
use crate::sim::sessions::{ACCOUNT, Principal};
use crate::sim::sigv4::{Scope, Signature, Unauthenticated};
use crate::sim::state::State;

/// The XML answer to `request`.
pub(super) fn answer(state: &State, request: &Request<Bytes>, request_id: &str) -> Result<String, Fault> {
    let parameters = url::form_urlencoded::parse(request.body());
    let action = parameters.into_owned().find_map(|(name, value)| (name == "Action").then_some(value));
    match action.as_deref() {
        Some("GetCallerIdentity") => Ok(caller_identity(&caller(state, request)?, request_id)),
        Some(other) => Err(Fault::new(400, "InvalidAction", &format!("Could not find operation {other} for version 2011-06-15"))),
        None => Err(Fault::new(400, "MissingAction", "The request is missing an action")),
    }
}

/// The access key by which a request claims to be signed.
pub(super) fn access_key_of(request: &Request<Bytes>) -> Option<String> {
    Signature::of(request).ok().map(|signature| signature.access_key_id.to_owned())
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

fn caller_identity(caller: &Principal, request_id: &str) -> String {
    let (arn, user_id) = (escaped(&caller.arn), escaped(&caller.user_id));
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <GetCallerIdentityResult>\n    \
         <Arn>{arn}</Arn>\n    <UserId>{user_id}</UserId>\n    <Account>{ACCOUNT}</Account>\n  </GetCallerIdentityResult>\n  \
         <ResponseMetadata>\n    <RequestId>{request_id}</RequestId>\n  </ResponseMetadata>\n</GetCallerIdentityResponse>\n"
    )
}
