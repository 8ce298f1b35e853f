//! Refuses the loop: an agent whose own credentials would come from the endpoint that it serves.
//!
//! It arises when a webhook gives the agent's own pod the variables meant for the pods it serves, and would show as an agent that
//! waits for itself. Only the variable that the SDK would read counts: `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` before
//! `…_FULL_URI`, neither while static keys are set, since those come first in the SDK's chain. A profile with
//! `credential_source = EcsContainer` reads the same variables.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use url::{Host, Url};

use crate::egress::{EgressError, Lookup, first_set};

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";

/// Where the SDKs look for a relative URI.
const CONTAINER_HOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)), 80);

/// Refuses an environment in which the agent's own credentials would come from one of the addresses that it serves.
///
/// Names are not looked up, since a start must not wait for DNS: of them only `localhost` is known.
///
/// # Errors
/// [`EgressError::OwnEndpoint`], naming the variable.
pub fn refuse(env: Lookup<'_>, served: &[SocketAddr]) -> Result<(), EgressError> {
    if has_static_keys(env) {
        return Ok(());
    }
    let Some((variable, value)) = first_set(env, &[RELATIVE, FULL]) else { return Ok(()) };
    let reached =
        |served: &&SocketAddr| if variable == RELATIVE { serves(served, CONTAINER_HOST) } else { leads_to(&value, served) };
    match served.iter().find(reached) {
        Some(address) => Err(EgressError::OwnEndpoint { variable, address: *address }),
        None => Ok(()),
    }
}

fn has_static_keys(env: Lookup<'_>) -> bool {
    first_set(env, &["AWS_ACCESS_KEY_ID"]).is_some() && first_set(env, &["AWS_SECRET_ACCESS_KEY"]).is_some()
}

/// Whether a request to `url` arrives at `served`.
fn leads_to(url: &str, served: &SocketAddr) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let Some(port) = url.port_or_known_default() else { return false };
    match url.host() {
        Some(Host::Ipv4(address)) => serves(served, SocketAddr::new(address.into(), port)),
        Some(Host::Ipv6(address)) => serves(served, SocketAddr::new(address.into(), port)),
        Some(Host::Domain(name)) => is_localhost(name) && served.port() == port && is_local(served.ip()),
        None => false,
    }
}

/// A socket on the unspecified address answers on every address of the node.
fn serves(served: &SocketAddr, target: SocketAddr) -> bool {
    let same = served.ip().to_canonical() == target.ip().to_canonical();
    served.port() == target.port() && (same || served.ip().is_unspecified())
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

fn is_local(address: IpAddr) -> bool {
    address.is_unspecified() || address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVED: [&str; 3] = ["169.254.170.23:80", "[fd00:ec2::23]:80", "127.0.0.1:9911"];

    fn refused(variables: &[(&str, &str)], served: &[&str]) -> Option<&'static str> {
        let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let served: Vec<_> = served.iter().map(|address| address.parse().unwrap()).collect();
        match refuse(&env, &served) {
            Ok(()) => None,
            Err(EgressError::OwnEndpoint { variable, .. }) => Some(variable),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn every_spelling_of_a_served_address_is_refused() {
        for url in [
            "http://169.254.170.23/v1/credentials",
            "http://169.254.170.23:80/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://[FD00:0EC2:0:0:0:0:0:23]/v1/credentials",
            "http://[::ffff:169.254.170.23]/",
            "http://localhost:9911/",
            "http://LOCALHOST.:9911/",
            "http://127.0.0.1:9911/",
        ] {
            assert_eq!(refused(&[(FULL, url)], &SERVED), Some(FULL), "{url}");
        }
        assert_eq!(refused(&[(FULL, "http://169.254.170.23/")], &["0.0.0.0:80"]), Some(FULL));
        assert_eq!(refused(&[(RELATIVE, "/v2/x")], &["169.254.170.2:80"]), Some(RELATIVE));
    }

    #[test]
    fn other_addresses_and_variables_that_are_not_read_are_harmless() {
        for url in ["http://169.254.170.23:8080/", "https://169.254.170.23/", "http://127.0.0.1/", "http://example.com/", "", "x"]
        {
            assert_eq!(refused(&[(FULL, url)], &SERVED), None, "{url}");
        }
        let own = (FULL, "http://169.254.170.23/v1/credentials");
        assert_eq!(refused(&[own, (RELATIVE, "/v2/x")], &SERVED), None, "the relative one is read");
        assert_eq!(refused(&[own, ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")], &SERVED), None);
        assert_eq!(refused(&[own, ("AWS_ACCESS_KEY_ID", "k")], &SERVED), Some(FULL), "half a key is none");
    }
}
