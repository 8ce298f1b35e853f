//! The agent is killed: what its pods miss is what the kubelet takes to start it again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;

use crate::harness::asker::{Asker, Asking, Connections};
use crate::pod;
use crate::process::Process;
use crate::world::World;

/// From the start of the program until it takes requests.
const PROMISE: Duration = Duration::from_millis(50);

/// The same to the first answer with credentials: the request waits for what was in memory, which others have to give anew, the API
/// server the keys and EKS Auth the session.
const ANSWER: Duration = Duration::from_millis(900);

/// With answers that take longer, the machine is too busy to tell.
const TELLING: Duration = Duration::from_millis(250);

/// Kills it so often.
pub(crate) async fn killed(world: Arc<World>, times: usize) -> anyhow::Result<()> {
    let agent = &world.other_agent;
    let namespace = format!("killed-{times}");
    world.cluster.namespace(&namespace).await?;
    let manifest = pod::on_second_node(pod::with_identity(&namespace, "app", "default"));
    let token = world.cluster.run(&manifest).await?.token().await?;
    let mut process = Process::of(&agent.pod().await?, "credlet").await?;
    let asker = Asker::start_in(agent.node.network()?, Asking::nodes_agent(&token, Connections::Each));
    world.cluster.wait_until("credentials", async || Ok(asker.so_far(|asked| asked.served > 0))).await?;
    let mut starts = Vec::new();
    while starts.len() < times {
        let (another, start) = process.replace().await?;
        process = another;
        starts.push(start);
        world.cluster.wait_until("credentials", async || Ok(asker.so_far(|asked| asked.returns.len() >= starts.len()))).await?;
    }
    let asked = asker.stop()?;

    ensure!(asked.returns.len() == times, "failures between the kills: {asked:?}");
    let since_start = |nth: usize| {
        let mut took: Vec<Duration> = starts.iter().zip(&asked.returns).map(|(start, end)| end[nth] - *start).collect();
        took.sort_unstable();
        took
    };
    let [listening, serving] = [since_start(0), since_start(1)];
    // Of a few among other trials, the best one tells what the agent takes; of many, the median.
    let typical = if times < 10 { 0 } else { times / 2 };
    let [listens, serves] = [&listening, &serving].map(|took| [took[typical], took[times - 1]]);
    eprintln!("{times} kills: accepted within {listens:?}, served within {serves:?} of the start (as a rule, longest)");
    eprintln!("the longest time without credentials: {:?}, the slowest answer: {:?}", asked.gap, asked.slowest);
    ensure!(asked.slowest <= TELLING, "this machine is too busy to tell: {:?}", asked.slowest);
    ensure!(listens[0] <= PROMISE && listens[1] <= PROMISE + 2 * asked.slowest, "{listening:?}");
    ensure!(serves[1] <= ANSWER, "{serving:?}");
    Ok(())
}
