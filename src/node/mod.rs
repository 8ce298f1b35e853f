//! What the process asks of the kernel, for itself and about its node.

pub mod hardening;
pub mod source;
