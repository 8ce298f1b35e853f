//! One agent of a node follows the other on a real kubelet, while pods ask without a pause and never again: by `helm upgrade`, with
//! an old one that stands by, with a new one that is no good, and from a release that could not hand over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use credlet::base::clock::Clock;
use serde_json::{Value, json};

use crate::agent::{Agent, CREDLET};
use crate::harness::asker::{Asked, Asker, Asking, Connections};
use crate::pod::{self, Pod};
use crate::process::Process;
use crate::world::World;

/// Pods that ask; each by a connection a question, and by one that it keeps.
const PODS: usize = 3;

/// Seconds for which an old agent stands by.
const STANDING_BY: u32 = 30;

/// The same where it must not be told to end: longer than a trial.
const UNTIL_THE_END: u32 = 600;

/// From the end of the new agent to the first answer of the old one.
const BACK: Duration = Duration::from_millis(100);

/// From the end of the old agent to the first answer of the new one that waited for its port.
const FREE_PORT: Duration = Duration::from_millis(50);

/// Clients of one namespace on the second node.
struct Load {
    namespace: String,
    askers: Vec<Asker>,
    /// To AWS for them, before anything was done with the agent.
    calls: usize,
}

impl Load {
    async fn start(world: &World, namespace: &str) -> anyhow::Result<Self> {
        world.cluster.namespace(namespace).await?;
        let mut askers = Vec::new();
        for number in 0..PODS {
            let manifest = pod::on_second_node(pod::with_identity(namespace, &format!("app-{number}"), "default"));
            let client = world.cluster.run(&manifest).await?;
            let (token, process) = (client.token().await?, Process::of(&client, "app").await?);
            for connections in [Connections::Each, Connections::Kept] {
                askers.push(Asker::start_in(process.network()?, Asking::nodes_agent(&token, connections)));
            }
        }
        let are_served = async || Ok(askers.iter().all(|asker| asker.so_far(|asked| asked.served > 0)));
        world.cluster.wait_until("credentials", are_served).await?;
        Ok(Self { namespace: namespace.to_owned(), calls: world.other_agent.calls(namespace), askers })
    }

    /// Ends it: what its clients saw, and how many calls to AWS were made more.
    fn stop(self, agent: &Agent) -> anyhow::Result<(Asked, usize)> {
        let mut all = Asked::default();
        for asker in self.askers {
            let asked = asker.stop()?;
            all.served += asked.served;
            all.failed += asked.failed;
            all.gap = all.gap.max(asked.gap);
            all.slowest = all.slowest.max(asked.slowest);
            all.last_failure = if asked.failed > 0 { asked.last_failure } else { all.last_failure };
        }
        eprintln!("{}: {all:?}", self.namespace);
        Ok((all, agent.calls(&self.namespace) - self.calls))
    }

    /// Ends it, and checks that nobody noticed anything.
    fn end_without_loss(self, agent: &Agent) -> anyhow::Result<()> {
        let (asked, calls) = self.stop(agent)?;
        ensure!(asked.failed == 0 && calls == 0, "{calls} calls to AWS; {asked:?}");
        Ok(())
    }
}

/// Upgrades it so often, and goes back once.
pub(crate) async fn upgrades(world: Arc<World>, times: usize) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    agent.release.put(&version(agent, "0", 0)).await?;
    let load = Load::start(&world, &format!("upgrades-{times}")).await?;
    for number in 1..=times {
        agent.release.put(&version(agent, &number.to_string(), 0)).await?;
    }
    agent.release.roll_back().await?;
    let annotations = agent.pod().await?.object().await?["metadata"]["annotations"].take();
    ensure!(annotations["example.com/version"] == (times - 1).to_string(), "{annotations}");
    load.end_without_loss(agent)
}

/// The same agent under another template.
fn version(agent: &Agent, version: &str, standing_by: u32) -> Value {
    let mut values = agent.least_values();
    values["minReadySeconds"] = json!(standing_by);
    values["podAnnotations"] = json!({ "example.com/version": version });
    values
}

/// A new agent that never comes to its keys. The other's keys are of another issuer.
pub(crate) async fn no_good(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    agent.release.put(&agent.least_values()).await?;
    let old = agent.pod().await?;
    let load = Load::start(&world, "no-good").await?;
    let mut values = agent.least_values();
    values["agent"] = json!({ "tokenVerification": "local", "issuers": ["http://127.0.0.1:9=http://127.0.0.1:9/keys"] });
    let installed = agent.release.try_put(&values, &[]).await?;
    ensure!(installed.status.success(), "{installed:?}");
    let new = agent.release.next_pod(&old).await?;
    new.waits_for("keys").await?;
    ensure!(old.is_ready().await?, "the old one is not ready");
    agent.release.roll_back().await?;
    ensure!(agent.pod().await?.name == old.name, "the old one is gone");
    load.end_without_loss(agent)
}

/// Under load, an old agent that stands by, and the new one; `minReadySeconds` of the one and of the other.
async fn side_by_side(world: &World, namespace: &str, [before, now]: [u32; 2]) -> anyhow::Result<(Pod, Pod, Load)> {
    let agent = &world.other_agent;
    agent.release.put(&version(agent, "old", before)).await?;
    let old = agent.pod().await?;
    let load = Load::start(world, namespace).await?;
    let installed = agent.release.try_put(&version(agent, "new", now), &[]).await?;
    ensure!(installed.status.success(), "{installed:?}");
    let new = agent.release.next_pod(&old).await?;
    new.become_ready().await?;
    ensure!(!serves(&old).await? && old.is_ready().await?, "the old one does not stand by");
    Ok((old, new, load))
}

/// The old agent is told to end when the new one has been ready for `minReadySeconds`.
pub(crate) async fn old_one_ends(world: Arc<World>) -> anyhow::Result<()> {
    // Of an agent that is not available for so long yet, the DaemonSet controller forgets when to look at the next one again.
    world.other_agent.release.remove().await?;
    let (_, new, load) = side_by_side(&world, "ends-then", [STANDING_BY; 2]).await?;
    let begin = Clock::System.now().mono;
    world.other_agent.release.become_ready().await?;
    let took = Clock::System.now().mono - begin;
    ensure!(took >= Duration::from_secs(u64::from(STANDING_BY)) / 2, "the old one was gone after {took:?}");
    ensure!(world.other_agent.pod().await?.name == new.name, "another pod");
    load.end_without_loss(&world.other_agent)
}

/// The new agent dies in the time in which the old one stands by.
pub(crate) async fn old_one_stands_by(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    let (old, new, load) = side_by_side(&world, "standing-by", [0, UNTIL_THE_END]).await?;
    let killed = Clock::System.now().mono;
    let (_, again) = Process::of(&new, "credlet").await?.replace().await?;
    // The kubelet starts the new one again, which takes over once more.
    world.cluster.wait_until("the new one", async || Ok(serves(&new).await.unwrap_or(false))).await?;
    ensure!(!serves(&old).await? && old.is_ready().await?, "the old one does not stand by any more");
    let (asked, calls) = load.stop(agent)?;
    // A connection that the new one had accepted dies with it.
    ensure!(asked.failed <= 2 * PODS && calls == 0, "{calls} calls to AWS; {asked:?}");
    ensure!(asked.gap <= BACK + 2 * asked.slowest, "{asked:?}");
    ensure!(again - killed > asked.gap, "not the old one's answers: the new one was away for {:?}", again - killed);
    Ok(())
}

/// The old release has nothing to hand over by.
pub(crate) async fn first_with_handover(world: Arc<World>) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    let mut values = agent.least_values();
    values["handover"] = json!({ "enabled": false });
    agent.release.put(&values).await?;
    let old = agent.pod().await?;
    let load = Load::start(&world, "first-with-handover").await?;
    let installed = agent.release.try_put(&agent.least_values(), &[]).await?;
    ensure!(installed.status.success(), "{installed:?}");
    let new = agent.release.next_pod(&old).await?;
    new.waits_for("169.254.170.23:80 is held by a process of uid 17023; waiting for it to leave").await?;
    ensure!(load.askers.iter().all(|asker| asker.so_far(|asked| asked.failed == 0)), "while the new one waits");
    old.delete().await?;
    agent.release.become_ready().await?;
    let (asked, _) = load.stop(agent)?;
    ensure!(asked.gap <= FREE_PORT + 2 * asked.slowest, "{asked:?}");
    Ok(())
}

/// Whether it is the one of two agents that serves.
async fn serves(pod: &Pod) -> anyhow::Result<bool> {
    let status: Value = serde_json::from_str(&pod.exec(&[CREDLET, "status", "--json"]).await?)?;
    Ok(status["handover"]["role"] == "serving")
}
