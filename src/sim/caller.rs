//! Who signs requests to EKS and EKS Auth: nobody but the node may.

use bytes::Bytes;
use hyper::Request;

use crate::sim::fault::Fault;
use crate::sim::sigv4::{Scope, Unauthenticated};
use crate::sim::state::State;

/// Refuses a `request` that the node did not sign for `service`; each service words it in its own way when the caller of an ARN is
/// somebody else.
pub(super) fn require_node(
    state: &State,
    request: &Request<Bytes>,
    service: &str,
    denied: impl FnOnce(&str) -> Fault,
) -> Result<(), Fault> {
    let scope = Scope { region: &state.config.region, service };
    let caller = state.sessions.authenticate(request, scope, state.config.clock.now()).map_err(unauthenticated)?;
    let is_node = caller.identity.arn == state.sessions.node.identity.arn;
    is_node.then_some(()).ok_or_else(|| denied(&caller.identity.arn))
}

fn unauthenticated(why: Unauthenticated) -> Fault {
    match why {
        Unauthenticated::Missing => Fault::new(403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
        Unauthenticated::Malformed => Fault::new(400, "IncompleteSignatureException", "Authorization header is incomplete"),
        Unauthenticated::UnknownKey => Fault::unrecognized_client(),
        Unauthenticated::Expired => Fault::expired_caller(),
        Unauthenticated::Skewed => Fault::invalid_signature("Signature expired, or not yet current"),
        Unauthenticated::Mismatch => Fault::invalid_signature("The request signature we calculated does not match"),
    }
}
