//! What EKS Auth's codes mean (API version 2023-11-26).

use crate::domain::mint::{Failure, Order};
use crate::egress::fault::Answer;
use crate::exchange::fault::Expired;

/// The action that the node's own role must allow. A refusal that names it is about the node and not about the pod.
const ACTION: &str = "eks-auth:AssumeRoleForPodIdentity";

/// What `answer` means for `order`, if EKS Auth has given it. Its model refuses access with 400; the same by 403 means the same.
pub(in crate::exchange) fn meaning(answer: &Answer<'_>, order: &Order) -> Option<Failure> {
    match (answer.status, answer.code) {
        (400 | 403, "AccessDeniedException") if answer.message.contains(ACTION) => Some(answer.misconfigured()),
        (400 | 403, "AccessDeniedException") => Some(answer.denied()),
        (400, "InvalidTokenException") => Some(answer.denied()),
        (400 | 404, "ResourceNotFoundException") => Some(answer.denied()),
        (400, "ExpiredTokenException") => Some(match Expired::of(order, answer.now) {
            Expired::PodToken => answer.denied(),
            Expired::NodeAccess => answer.misconfigured(),
        }),
        _ => None,
    }
}
