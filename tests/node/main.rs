//! A node's own addresses and port 80, each test in a network namespace of its own. Needs root and iproute2: `cargo test --test
//! node`. What can't be tried fails.

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "what only other test binaries use")]
mod harness;

// `cfg(test)`, so that clippy takes their functions for tests, which may unwrap.
#[cfg(test)]
mod abuse;
#[cfg(test)]
mod binding;
#[cfg(test)]
mod check;
#[cfg(test)]
mod drop_in;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod initialize;
#[cfg(test)]
mod laptop;
#[cfg(test)]
mod link;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod node;
#[cfg(test)]
mod presence;
#[cfg(test)]
mod source;
