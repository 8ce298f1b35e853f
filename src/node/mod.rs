//! What the process asks of the kernel, for itself and for the node.

pub mod hardening;
pub mod link;
