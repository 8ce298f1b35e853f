//! A hundred agents of a node, one after the other, while sixteen clients ask without a pause: what fails, what AWS is asked for
//! beyond the clients' first credentials, and the longest time that a client waited. Fails unless both are nothing, or when a client
//! gets credentials of another one.
//!
//! Without `--bench` (as `cargo test --benches` runs it) three agents show that it works.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "../tests/harness/mod.rs"]
#[allow(dead_code, reason = "what only tests use")]
mod harness;

use credlet::base::clock::Clock;
use tokio::runtime::Runtime;

use crate::harness::succession::{Outcome, Succession, quantile};

const CLIENTS: usize = 16;

/// How often, and under how many requests.
struct Plan {
    handovers: usize,
    requests: usize,
}

const WHOLE: Plan = Plan { handovers: 100, requests: 1_000_000 };
const SMOKE: Plan = Plan { handovers: 2, requests: 1_000 };

fn main() -> anyhow::Result<()> {
    let plan = if std::env::args().any(|argument| argument == "--bench") { WHOLE } else { SMOKE };
    let begin = Clock::System.now().mono;
    let outcome = Runtime::new()?.block_on(run(&plan))?;
    let took = (Clock::System.now().mono - begin).as_secs();
    let (Outcome { requests, failed, .. }, calls) = (&outcome, outcome.calls.len());
    println!(
        "{} handovers, {requests} requests of {CLIENTS} clients in {took} s: {failed} failed, {calls} calls to AWS",
        plan.handovers
    );
    let three = |times| [500, 990, 1000].map(|of_thousand| quantile(times, of_thousand));
    println!("from an answer to the client's next (median, p99, longest): {:?}", three(&outcome.pauses));
    println!("from the start of an agent until it has taken over: {:?}", three(&outcome.handovers));
    outcome.is_without_loss(plan.requests)
}

async fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let mut succession = Succession::start(CLIENTS).await?;
    for handovers in 1..=plan.handovers {
        succession.wait_for_requests(plan.requests * handovers / (plan.handovers + 1)).await?;
        succession.hand_over().await?;
    }
    succession.wait_for_requests(plan.requests).await?;
    succession.stop()
}
