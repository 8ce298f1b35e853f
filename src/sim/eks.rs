//! The EKS control plane (API model 2017-11-01): `DescribeCluster`, which tells a cluster's issuer.

use bytes::Bytes;
use hyper::Request;
use serde_json::{Value, json};

use crate::sim::caller::require_node;
use crate::sim::fault::Fault;
use crate::sim::script::described_in;
use crate::sim::sessions::ACCOUNT;
use crate::sim::state::State;

/// Base64 of a certificate that nobody reads.
const CERTIFICATE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==";

pub(super) fn describe_cluster(state: &State, request: &Request<Bytes>) -> Result<Value, Fault> {
    let name = described_in(request.uri().path()).unwrap_or_default();
    let (region, cluster) = (&state.config.region, &state.config.cluster);
    let arn = cluster_arn(region, name);
    require_node(state, request, "eks", |caller| denied(caller, &arn))?;
    if name != cluster {
        return Err(Fault::no_cluster(name));
    }
    Ok(json!({ "cluster": {
        "name": name,
        "arn": arn,
        "createdAt": 1_767_225_600.0,
        "version": "1.33",
        "endpoint": format!("https://{name}.{region}.eks.amazonaws.com"),
        "identity": { "oidc": { "issuer": state.issuer } },
        "certificateAuthority": { "data": CERTIFICATE },
        "status": "ACTIVE",
        "platformVersion": "eks.1",
        "tags": {},
    } }))
}

fn denied(caller: &str, cluster: &str) -> Fault {
    let message = format!("User: {caller} is not authorized to perform: eks:DescribeCluster on resource: {cluster}");
    Fault::new(403, "AccessDeniedException", &message)
}

pub(super) fn cluster_arn(region: &str, name: &str) -> String {
    format!("arn:aws:eks:{region}:{ACCOUNT}:cluster/{name}")
}
