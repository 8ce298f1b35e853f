//! One agent follows another on a node, and no request is lost.

pub mod folder;
pub mod machine;
#[cfg(test)]
mod search;
