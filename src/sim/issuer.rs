//! The cluster's issuer: its discovery document and key set, as Kubernetes publishes them (KEP-1393).

use serde_json::{Value, json};

use crate::sim::state::State;

/// Where the key set lies under the issuer's address.
pub(super) const JWKS_PATH: &str = "/openid/v1/jwks";

pub(super) fn discovery(state: &State) -> Value {
    json!({
        "issuer": state.issuer,
        "jwks_uri": format!("{}{JWKS_PATH}", state.issuer),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256", "ES384"],
    })
}

pub(super) fn jwks(state: &State) -> Value {
    state.keys.jwks()
}
