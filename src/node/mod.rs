//! What the process asks of the kernel, for itself and for the node.

pub mod handover;
pub mod hardening;
pub mod inheritance;
pub mod link;
mod netlink;
pub mod source;
