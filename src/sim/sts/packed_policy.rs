//! How much of what STS allots a session's tags and policies take. AWS compresses them in a format that it does not describe; here
//! their plain bytes count, so that the figure is of the right order and no more.

use crate::sim::fault::Fault;
use crate::sim::role_request::RoleRequest;

/// Bytes that stand for 100 %.
const ALLOTTED: usize = 4096;

/// `PackedPolicySize` of a session with these tags, in percent.
pub(super) fn percent(tags: &[(String, String)], request: &RoleRequest) -> Result<usize, Fault> {
    let of_tags = tags.iter().map(|(key, value)| key.len() + value.len());
    let of_policies = request.policy_arns.iter().chain(&request.policy).map(String::len);
    let bytes: usize = of_tags.chain(of_policies).sum();
    let percent = (bytes * 100).div_ceil(ALLOTTED);
    if percent > 100 { Err(Fault::sts_packed_policy_too_large(percent)) } else { Ok(percent) }
}
