//! One agent follows another on a node, and no request is lost.

pub mod machine;
#[cfg(test)]
mod search;
