//! Ports: the right to them, and who holds them. Where an agent runs already, it may be the holder: its own socket tells.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use crate::admin::status::ask;
use crate::checks::link::{SWITCH_ON, without_ipv6};
use crate::checks::{Check, Finding};
use crate::config::Config;
use crate::front::holder;
use crate::front::listener::{Obstacle, claim, obstacle};

/// An agent asks its own addresses before it answers, for 800 ms at most.
const PATIENCE: Duration = Duration::from_secs(3);

/// The running agent, as it tells of itself.
#[derive(Debug, Deserialize)]
struct Agent {
    version: String,
    ready: bool,
    pending: Reasons,
    advice: Reasons,
    listeners: Vec<Listener>,
}

type Reasons = std::collections::BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
struct Listener {
    address: SocketAddr,
    bound: bool,
}

impl Agent {
    /// The agent whose run directory this is, if one answers.
    async fn ask(run_dir: &Path) -> Option<Self> {
        let (_, document) = timeout(PATIENCE, ask(run_dir, "/status")).await.ok()?.ok()?;
        serde_json::from_slice(&document).ok()
    }

    fn holds(&self, address: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| listener.bound && listener.address == address)
    }

    /// Whether it has a port for operators, of which it tells only when it has not.
    fn has(&self, address: SocketAddr) -> bool {
        !self.advice.keys().any(|part| part.ends_with(&format!(" {address}")))
    }
}

/// The agent, the right, then each address.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let run_dir = &config.admin.run_dir;
    let agent = Agent::ask(run_dir).await;
    let (hosts, port) = (&config.front.hosts, config.front.port);
    let claims: Vec<_> = hosts.iter().map(|host| SocketAddr::new(*host, port)).map(|address| (address, claim(address))).collect();
    let required = |address: &SocketAddr| config.front.requires(address.ip());
    let served = claims.iter().filter_map(|(address, claim)| served(*address, claim, agent.as_ref(), required(address)));
    let own = [of_agent(agent.as_ref(), run_dir), right(&claims)];
    let beside = claims.iter().any(|(address, claim)| is_taken(*address, claim, agent.as_ref()));
    own.into_iter().chain(served).chain(operators(config, agent.as_ref(), beside)).collect()
}

fn of_agent(agent: Option<&Agent>, run_dir: &Path) -> Finding {
    match agent {
        None => Finding::ok(Check::Agent, format!("none answers at {}", run_dir.display())),
        Some(Agent { ready: true, version, .. }) => {
            Finding::ok(Check::Agent, format!("credlet {version} runs here and is ready"))
        }
        Some(Agent { version, pending, .. }) => {
            let waits: Vec<_> = pending.iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
            let detail = format!("credlet {version} runs here and is not ready: {}", waits.join("; "));
            Finding::warning(Check::Agent, detail, "see the other lines, and `credlet status`")
        }
    }
}

fn right(claims: &[(SocketAddr, io::Result<()>)]) -> Finding {
    let refused = |claim: &io::Result<()>| claim.as_ref().is_err_and(|error| obstacle(error) == Obstacle::NoRight);
    match claims.iter().find(|(_, claim)| refused(claim)) {
        None => Finding::ok(Check::Right, "the ports may be bound"),
        Some((address, _)) => Finding::failed(
            Check::Right,
            format!("no right to bind {address}"),
            "grant the capability NET_BIND_SERVICE, or choose a port above 1023",
        ),
    }
}

/// Whether somebody else than the agent that runs here serves pods.
fn is_taken(address: SocketAddr, claim: &io::Result<()>, agent: Option<&Agent>) -> bool {
    let taken = claim.as_ref().is_err_and(|error| obstacle(error) == Obstacle::Taken);
    taken && !agent.is_some_and(|agent| agent.holds(address))
}

/// An address for pods; `None` where [`right`] says it all.
fn served(address: SocketAddr, claim: &io::Result<()>, agent: Option<&Agent>, required: bool) -> Option<Finding> {
    let Err(error) = claim else { return Some(Finding::ok(Check::Port, format!("{address} is free"))) };
    Some(match obstacle(error) {
        Obstacle::NoRight => return None,
        Obstacle::Taken if is_taken(address, claim, agent) => Finding::failed(
            Check::Port,
            held(address),
            "end it, as by removing the EKS Pod Identity Agent: the port is served the moment it is free",
        ),
        Obstacle::Taken => Finding::ok(Check::Port, format!("{address} is held by the agent that runs here")),
        Obstacle::Absent if !required => Finding::warning(Check::Port, without_ipv6(address.ip()), SWITCH_ON),
        Obstacle::Absent | Obstacle::Other => {
            Finding::failed(Check::Port, format!("{address}: {error}"), "compare --bind-hosts with the node's addresses")
        }
    })
}

/// Ports that only operators ask: pods do without. One who serves pods `beside` this agent holds them too, as long as it runs.
fn operators(config: &Config, agent: Option<&Agent>, beside: bool) -> Vec<Finding> {
    let probes = config.admin.probe_addresses().map(|address| ("probe-port", address));
    let metrics = config.admin.metrics.map(|address| ("metrics-port", address));
    let lost = |address: &SocketAddr| {
        let taken = claim(*address).is_err_and(|error| obstacle(&error) == Obstacle::Taken);
        taken && !agent.is_some_and(|agent| agent.has(*address))
    };
    let lost = probes.into_iter().chain(metrics).filter(|(_, address)| address.port() != 0 && lost(address));
    let remedy = |flag| match beside {
        true => format!("none if that is the agent that credlet replaces: served the moment it is free; else another --{flag}"),
        false => format!("choose another --{flag}"),
    };
    lost.map(|(flag, address)| Finding::warning(Check::Port, held(address), remedy(flag))).collect()
}

fn held(address: SocketAddr) -> String {
    match holder::uid(address) {
        Some(uid) => format!("{address} is held by another process, of uid {uid}"),
        None => format!("{address} is held by another process"),
    }
}
