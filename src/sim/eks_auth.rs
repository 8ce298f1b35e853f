//! EKS Auth `AssumeRoleForPodIdentity` (API model 2023-11-26).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::sim::association::{Association, Target};
use crate::sim::caller::require_node;
use crate::sim::eks::cluster_arn;
use crate::sim::fault::Fault;
use crate::sim::iam::arn::RoleArn;
use crate::sim::iam::policy::{Asker, POD_IDENTITY_SERVICE};
use crate::sim::issuers::Known;
use crate::sim::jwt::Rejected;
use crate::sim::pod::Kubernetes;
use crate::sim::random;
use crate::sim::role_request::RoleRequest;
use crate::sim::script::cluster_in;
use crate::sim::sessions::{ACCOUNT, Identity, POD_UID};
use crate::sim::state::State;
use crate::sim::sts::assume_role::assume_role;

/// The longest that a session of a target role lives: it is chained, and EKS leaves a minute for the way.
const LONGEST_OF_TARGET: Duration = Duration::from_secs(59 * 60);

/// What STS takes.
const LONGEST_SESSION_NAME: usize = 64;

#[derive(Deserialize)]
struct Body {
    token: String,
}

/// The answer to `request`, with a session that ends at `expires_at` or when sessions do.
pub(super) fn assume_role_for_pod_identity(
    state: &State,
    request: &Request<Bytes>,
    expires_at: Option<SystemTime>,
) -> Result<Value, Fault> {
    // The caller before what it asks, as AWS evaluates requests.
    require_node(state, request, "eks-auth", denied)?;
    let cluster = cluster_in(request.uri().path()).unwrap_or_default();
    if cluster != state.config.cluster {
        return Err(Fault::no_cluster(cluster));
    }
    let token = token_in(request.body()).ok_or_else(Fault::invalid_request)?;
    let pod = pod_of(state, &token).map_err(rejected)?;
    let association = association_of(state, &pod)?;
    let identity = identity(state, &pod, &association).ok_or_else(Fault::access_denied)?;
    let lifetime = state.conditions.lock().lifetime;
    let lifetime = if association.target.is_some() { lifetime.min(LONGEST_OF_TARGET) } else { lifetime };
    let expires_at = expires_at.unwrap_or_else(|| state.config.clock.now().wall + lifetime);
    Ok(answer(state, &pod, &identity, expires_at))
}

fn denied(caller: &str) -> Fault {
    let message = format!("User: {caller} is not authorized to perform: eks-auth:AssumeRoleForPodIdentity");
    Fault { message, ..Fault::access_denied() }
}

/// The token in a request body.
pub(super) fn token_in(body: &[u8]) -> Option<String> {
    serde_json::from_slice(body).ok().map(|body: Body| body.token)
}

/// The pod that a good token names.
fn pod_of(state: &State, token: &str) -> Result<Kubernetes, Rejected> {
    let claims = state.issuers.verify(token, Known::All, state.config.clock.now().unix())?;
    if claims.aud != [POD_IDENTITY_AUDIENCE] {
        return Err(Rejected::Audience);
    }
    let pod = claims.kubernetes.and_then(|kubernetes| serde_json::from_value(kubernetes).ok());
    pod.ok_or(Rejected::MissingClaims)
}

fn rejected(why: Rejected) -> Fault {
    if matches!(why, Rejected::Expired(_)) { Fault::expired_token() } else { Fault::invalid_token(&why.to_string()) }
}

fn association_of(state: &State, pod: &Kubernetes) -> Result<Association, Fault> {
    let (namespace, service_account) = (&pod.namespace, &pod.serviceaccount.name);
    let none = || {
        let message =
            format!("No pod identity association found for {namespace}/{service_account} in cluster {}", state.config.cluster);
        Fault::resource_not_found(&message)
    };
    match state.associations.lock().get(&(namespace.clone(), service_account.clone())) {
        Some(said) => said.clone().ok_or_else(none),
        None => Ok(Association::new(&default_role(namespace, service_account))),
    }
}

/// The role that a service account has if nothing is said of it. It need not be described, and trusts EKS.
fn default_role(namespace: &str, service_account: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{namespace}-{service_account}")
}

/// The session that EKS makes: of the association's role, and from there of its target. `None` if IAM lets it not.
fn identity(state: &State, pod: &Kubernetes, association: &Association) -> Option<Identity> {
    let session_name = format!("eks-{}-{}-{}", state.config.cluster, pod.pod.name, random::uuid());
    let session_name: String = session_name.chars().take(LONGEST_SESSION_NAME).collect();
    let tags = if association.has_session_tags { session_tags(state, pod) } else { Vec::new() };
    let transitive_tag_keys = tags.iter().map(|(key, _)| key.clone()).collect();
    let role_arn = association.role_arn.clone();
    let request = RoleRequest { role_arn, session_name, tags, transitive_tag_keys, ..RoleRequest::default() };
    let is_default = association.role_arn == default_role(&pod.namespace, &pod.serviceaccount.name);
    if !is_default || state.iam.role(&association.role_arn).is_some() {
        state.iam.authorize(Asker::Service(POD_IDENTITY_SERVICE), &request).ok()?;
    }
    let base = Identity::assume(&Identity::default(), &RoleArn::parse(&association.role_arn)?, &request);
    association.target.as_ref().map_or(Some(base.clone()), |target| chained(state, &base, target, request.session_name))
}

fn chained(state: &State, base: &Identity, target: &Target, session_name: String) -> Option<Identity> {
    let (role_arn, external_id) = (target.role_arn.clone(), target.external_id.clone());
    let request = RoleRequest { role_arn, session_name, external_id, ..RoleRequest::default() };
    assume_role(state, base, &request).ok().map(|granted| granted.identity)
}

/// What EKS says of a pod, all of it transitive.
///
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>
fn session_tags(state: &State, pod: &Kubernetes) -> Vec<(String, String)> {
    let cluster = &state.config.cluster;
    let tags = [
        ("eks-cluster-arn", &cluster_arn(&state.config.region, cluster)),
        ("eks-cluster-name", cluster),
        ("kubernetes-namespace", &pod.namespace),
        ("kubernetes-service-account", &pod.serviceaccount.name),
        ("kubernetes-pod-name", &pod.pod.name),
        (POD_UID, &pod.pod.uid),
    ];
    tags.map(|(key, value)| (key.to_owned(), value.clone())).to_vec()
}

fn answer(state: &State, pod: &Kubernetes, identity: &Identity, expires_at: SystemTime) -> Value {
    let (namespace, service_account) = (&pod.namespace, &pod.serviceaccount.name);
    let (region, cluster) = (&state.config.region, &state.config.cluster);
    let association = random::stable_id("a-", &format!("{namespace}/{service_account}"));
    let session = state.sessions.issue(identity, expires_at);
    json!({
        "subject": { "namespace": namespace, "serviceAccount": service_account },
        "audience": POD_IDENTITY_AUDIENCE,
        "podIdentityAssociation": {
            "associationArn": format!("arn:aws:eks:{region}:{ACCOUNT}:podidentityassociation/{cluster}/{association}"),
            "associationId": association,
        },
        "assumedRoleUser": { "arn": identity.arn, "assumeRoleId": identity.user_id },
        "credentials": {
            "accessKeyId": session.access_key_id,
            "secretAccessKey": session.secret_access_key.expose(),
            "sessionToken": session.session_token.expose(),
            "expiration": fractional_seconds(session.expires_at),
        },
    })
}

/// Unix seconds with milliseconds, as the rest-json protocol writes a timestamp.
fn fractional_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000).as_secs_f64()
}
