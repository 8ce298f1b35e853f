//! What the process asks of the kernel for itself.

pub mod hardening;
