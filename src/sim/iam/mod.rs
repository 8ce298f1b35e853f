//! IAM, as far as a chain of roles needs it: roles with trust policies, the accounts' OpenID Connect providers, and the decision
//! who may assume what.

pub(super) mod arn;
mod authorization;
pub(super) mod condition;
mod directory;
pub(super) mod policy;
pub mod role;

pub(super) use directory::Iam;
