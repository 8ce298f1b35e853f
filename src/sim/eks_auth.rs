//! EKS Auth `AssumeRoleForPodIdentity` (API model 2023-11-26).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::identity::TokenDigest;
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::sim::fault::Fault;
use crate::sim::keys::Rejected;
use crate::sim::pod::Kubernetes;
use crate::sim::random;
use crate::sim::script::cluster_in;
use crate::sim::sessions::ACCOUNT;
use crate::sim::sigv4::{Scope, Unauthenticated};
use crate::sim::state::State;

#[derive(Deserialize)]
struct Body {
    token: String,
}

/// The answer to `request`, with a session that ends at `expires_at`.
pub(super) fn assume_role(state: &State, request: &Request<Bytes>, expires_at: SystemTime) -> Result<Value, Fault> {
    authorize(state, request)?;
    let cluster = cluster_in(request.uri().path()).unwrap_or_default();
    if cluster != state.config.cluster {
        return Err(Fault::resource_not_found(&format!("No cluster found for name: {cluster}.")));
    }
    let token = token_in(request.body()).ok_or_else(Fault::invalid_request)?;
    let claims = state.keys.verify(&token, POD_IDENTITY_AUDIENCE).map_err(rejected)?;
    let pod = claims.kubernetes;
    let name = (pod.namespace.clone(), pod.serviceaccount.name.clone());
    if state.dissociated.lock().contains(&name) {
        let (namespace, service_account) = name;
        let message = format!("No pod identity association found for {namespace}/{service_account} in cluster {cluster}");
        return Err(Fault::resource_not_found(&message));
    }
    Ok(answer(state, &pod, expires_at))
}

/// The token in a request body.
pub(super) fn token_in(body: &[u8]) -> Option<String> {
    serde_json::from_slice(body).ok().map(|body: Body| body.token)
}

/// Only the node may call.
fn authorize(state: &State, request: &Request<Bytes>) -> Result<(), Fault> {
    let scope = Scope { region: &state.config.region, service: "eks-auth" };
    let caller = state.sessions.authenticate(request, scope, state.config.clock.now()).map_err(unauthenticated)?;
    let is_node = caller.arn == state.sessions.node.arn;
    is_node.then_some(()).ok_or_else(|| Fault { message: not_allowed(&caller.arn), ..Fault::access_denied() })
}

fn not_allowed(arn: &str) -> String {
    format!("User: {arn} is not authorized to perform: eks-auth:AssumeRoleForPodIdentity")
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

fn rejected(why: Rejected) -> Fault {
    match why {
        Rejected::Expired => Fault::expired_token(),
        Rejected::Invalid(reason) => Fault::invalid_token(reason),
    }
}

fn answer(state: &State, pod: &Kubernetes, expires_at: SystemTime) -> Value {
    let (namespace, service_account) = (&pod.namespace, &pod.serviceaccount.name);
    let (region, cluster) = (&state.config.region, &state.config.cluster);
    let session_name = format!("eks-{cluster}-{}-{}", pod.pod.name, random::uuid());
    let arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/{namespace}-{service_account}/{session_name}");
    let user_id = format!("{}:{session_name}", stable_id("AROA", namespace, service_account).to_uppercase());
    let association = stable_id("a-", namespace, service_account);
    let session = state.sessions.issue(&arn, &user_id, expires_at);
    json!({
        "subject": { "namespace": namespace, "serviceAccount": service_account },
        "audience": POD_IDENTITY_AUDIENCE,
        "podIdentityAssociation": {
            "associationArn": format!("arn:aws:eks:{region}:{ACCOUNT}:podidentityassociation/{cluster}/{association}"),
            "associationId": association,
        },
        "assumedRoleUser": { "arn": arn, "assumeRoleId": user_id },
        "credentials": {
            "accessKeyId": session.access_key_id,
            "secretAccessKey": session.secret_access_key.expose(),
            "sessionToken": session.session_token.expose(),
            "expiration": fractional_seconds(session.expires_at),
        },
    })
}

/// An identifier that is always the same for a service account.
fn stable_id(prefix: &str, namespace: &str, service_account: &str) -> String {
    let name = format!("{namespace}/{service_account}");
    format!("{prefix}{}0", TokenDigest::of(name.as_bytes()).fingerprint())
}

/// Unix seconds with milliseconds, as the rest-json protocol writes a timestamp.
fn fractional_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000).as_secs_f64()
}
