//! What the failure of an exchange means: a table for each service, beside what any AWS service may answer
//! ([`crate::egress::fault`]), and what the pod's owner is told.

use crate::base::clock::Now;
use crate::domain::identity::Subject;
use crate::domain::mint::Order;

pub(super) mod advice;
pub(super) mod eks_auth;
pub(super) mod sts;

/// What the end of a token's or session's life is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    /// The pod's token, which nobody here has read or whose time is over.
    PodToken,
    /// The clock or the node's credentials, since the pod's token is known to live.
    NodeAccess,
}

impl Expired {
    fn of(order: &Order, now: Now) -> Self {
        match &*order.subject {
            Subject::Verified(_) if order.presented.expires_at.is_some_and(|at| at > now.wall) => Self::NodeAccess,
            Subject::Verified(_) | Subject::Delegated(_) => Self::PodToken,
        }
    }
}
