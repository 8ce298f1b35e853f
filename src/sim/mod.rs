//! A simulated cluster and AWS, over real HTTP on loopback: what tests, benches and `credlet dev` talk to.
//!
//! It checks what AWS checks (SigV4, the token, the association, trust policies) with code of its own, so that a mistake of the agent can't
//! cancel itself out, answers in AWS's own shapes, misbehaves as scripted, and records every call, so that "no call to AWS" is
//! an assertion. Feature `dev`; not in the container image.

pub mod association;
mod caller;
pub mod calls;
pub mod cloud;
mod eks;
mod eks_auth;
pub mod fault;
mod form;
pub mod iam;
mod issuer;
mod issuers;
mod jwt;
mod key;
pub mod keys;
pub mod kubelet;
mod one_or_many;
pub mod pod;
mod public_key;
mod random;
mod response;
pub mod role_request;
pub mod script;
mod server;
pub mod sessions;
mod sigv4;
mod state;
mod sts;
#[cfg(test)]
mod tests;
mod xml;
