//! The real binary as a child process: how it is started, asked, and read, for every test binary that runs it.

// `cfg(test)`, so that clippy takes their functions for tests, which may print.
#[cfg(test)]
pub(crate) mod abuse;
pub(crate) mod agent;
pub(crate) mod api_server;
pub(crate) mod asker;
pub(crate) mod canned;
pub(crate) mod checker;
pub(crate) mod config_map;
pub(crate) mod http;
#[cfg(test)]
pub(crate) mod isolation;
pub(crate) mod laptop;
#[cfg(test)]
pub(crate) mod neighbour;
pub(crate) mod network;
pub(crate) mod owner;
pub(crate) mod pods;
pub(crate) mod ports;
pub(crate) mod relay;
pub(crate) mod setup;
pub(crate) mod succession;
