//! The one way out of the node: one HTTPS stack for AWS and for key sources.
//!
//! One, so that an operator's CA bundle and proxy hold for every call or for none. The stack is the AWS SDK's own (rustls over
//! aws-lc): a second HTTP client would bring a second set of rules.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub mod aws;
#[cfg(test)]
pub(crate) mod fake;
pub mod fault;
pub mod fetch;
pub mod https;
pub mod own_endpoint;
mod profile;
#[cfg(test)]
mod tests;
mod trust;

/// Finds an environment variable by its name; `None` when it is unset or not Unicode. Passed in, so that tests need no process
/// of their own.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why calls can't leave the node as configured. No value of a proxy variable is shown: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The CA bundle can't be read.
    #[error("AWS_CA_BUNDLE names {path}, which can't be read: {source}")]
    CaBundleUnreadable {
        /// The bundle's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The CA bundle holds nothing to trust.
    #[error("AWS_CA_BUNDLE names {path}, which holds no usable certificate in PEM form")]
    CaBundleEmpty {
        /// The bundle's path.
        path: PathBuf,
    },
    /// The proxy is not `http://` or `https://`.
    #[error("{0} is not the http:// or https:// URL of a proxy")]
    Proxy(&'static str),
    /// Neither environment, profile nor instance metadata tell the region.
    #[error("no AWS region is known: set AWS_REGION, or region in the profile, or let the node's metadata service be reached")]
    Region,
    /// The agent's own identity would come from the agent.
    #[error(
        "{variable} points at {address}, which this agent itself serves: its own credentials can't come from itself. Unset it for the agent"
    )]
    OwnEndpoint {
        /// The variable at fault.
        variable: &'static str,
        /// The address that is served.
        address: SocketAddr,
    },
}

/// The first of `names` that is set to something, with its value.
fn first_set<'n>(env: Lookup<'_>, names: &[&'n str]) -> Option<(&'n str, String)> {
    names.iter().find_map(|name| Some((*name, env(name).filter(|value| !value.trim().is_empty())?)))
}
