//! With which rights the chart runs credlet on a real kubelet, read where the kernel enforces them.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::cluster::printed;
use crate::pod::{self, Pod};
use crate::process::{Process, Rights};
use crate::world::World;

/// Of credlet's own (the chart's `runAsUser`).
const UID: u32 = 17023;

/// Capabilities as the kernel writes them: one bit each.
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

/// On the second node, of its release.
const HANDOVER_FOLDER: &str = "/run/credlet/kube-system/credlet-node-2";

const SIDECAR: &str = "watch-link";

/// Installed with nothing but what must be said, and the sidecar.
pub(crate) async fn as_installed(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    let mut values = agent.least_values();
    values["link"]["watch"] = json!(true);
    agent.release.put(&values).await?;
    let pod = agent.pod().await?;
    agent_is_confined(&pod).await?;
    links_makers_are_confined(&pod).await?;
    handover_folder_is_private(agent).await?;
    link_comes_back(&world, agent).await
}

async fn agent_is_confined(pod: &Pod) -> anyhow::Result<()> {
    let process = Process::of(pod, "credlet").await?;
    let rights = process.rights()?;
    ensure!(rights == Rights::confined(UID, NET_BIND_SERVICE), "{rights:?}");
    ensure!(process.owner_of_files()? == 0, "it is dumpable");
    let core = process.limit("Max core file size")?;
    ensure!(core == ("0".to_owned(), "0".to_owned()), "core dumps: {core:?}");
    let (soft, hard) = process.limit("Max open files")?;
    ensure!(soft == hard, "{soft} of {hard} descriptors");
    let token = process.mounts()?.into_iter().find(|(point, _)| point.contains("kubernetes.io/serviceaccount"));
    ensure!(token.is_none(), "{token:?}");
    let spec = pod.object().await?["spec"].take();
    ensure!(!spec["volumes"].to_string().contains("serviceAccountToken"), "{spec}");
    Ok(())
}

/// The init container has ended: it was given what the sidecar has, and the right to give the folder for handovers away.
async fn links_makers_are_confined(pod: &Pod) -> anyhow::Result<()> {
    let process = Process::of(pod, SIDECAR).await?;
    let rights = process.rights()?;
    ensure!(rights == Rights::confined(0, NET_ADMIN | NET_BIND_SERVICE), "{rights:?}");
    let object = pod.object().await?;
    let contexts = ["containers", "initContainers"].map(|kind| object["spec"][kind].clone());
    let sidecar = contexts[0].as_array().into_iter().flatten().find(|container| container["name"] == SIDECAR);
    let mut expected = sidecar.context("no sidecar")?["securityContext"].clone();
    expected["capabilities"]["add"] = json!(["CHOWN", "NET_ADMIN", "NET_BIND_SERVICE"]);
    let init = &contexts[1][0]["securityContext"];
    ensure!(expected == *init && init["privileged"] == Value::Null, "{init}");
    Ok(())
}

/// What an init container without any right over files has made of what the kubelet had made.
async fn handover_folder_is_private(agent: &Agent) -> anyhow::Result<()> {
    let stat = agent.node.command("stat").args(["--format=%u %a", HANDOVER_FOLDER]).output().await?;
    let found = printed(stat)?;
    ensure!(found.trim() == format!("{UID} 700"), "{found}");
    Ok(())
}

async fn link_comes_back(world: &World, agent: &Agent) -> anyhow::Result<()> {
    world.cluster.namespace("rights").await?;
    let client = world.cluster.run(&pod::asking(pod::on_second_node(pod::injected("rights", "client")))).await?;
    client.is_served_again().await?;
    let deleted = agent.node.command("ip").args(["link", "delete", "pod-id-link0"]).status().await?;
    ensure!(deleted.success(), "there was no link");
    world.cluster.wait_until("the link", async || agent.has_link().await).await?;
    client.is_served_again().await
}
