//! The agent as a whole: the real binary over real sockets against the simulated cloud, or all of its parts in this process
//! where time has to move. Each module is one face of it; each assertion is on what somebody outside sees.

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "what only other test binaries use")]
mod harness;

// `cfg(test)`, so that clippy takes their functions for tests, which may unwrap.
#[cfg(test)]
mod chains;
#[cfg(test)]
mod check;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod developer;
#[cfg(test)]
mod drop_in;
#[cfg(test)]
mod eks_auth;
#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod grants;
#[cfg(test)]
mod guides;
#[cfg(test)]
mod handover;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod key_sources;
#[cfg(test)]
mod laboratory;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod pod_watch;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod sdk_variables;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod service_accounts;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod succession;
#[cfg(test)]
mod vectors;
#[cfg(test)]
mod wire;
#[cfg(test)]
mod world;
