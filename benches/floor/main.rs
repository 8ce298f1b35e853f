//! A served hit against the floor: hyper that answers with the same bytes and does nothing else, side by side in one run.
//!
//! What is compared is the CPU time that the server spends on a request. Wall time says little on a shared machine, and the
//! average of a run says little when its neighbours come and go; so both contenders take turns in short slices, each in a fresh
//! process, on one CPU with their client, and each round gives one ratio. The same binary against itself gives 0.98 to 1.03.
//! Allocations and system calls are exact whatever the machine does.
//!
//! Without `--bench` (as `cargo test --benches` runs it) one short round shows that it works.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "../fixture/agent.rs"]
mod agent;
mod client;
#[path = "../fixture/constant.rs"]
mod constant;
mod contender;
mod cpu;
mod open_loop;
#[path = "../fixture/parts.rs"]
mod parts;
#[path = "../fixture/pods.rs"]
mod pods;
mod process;
mod report;
mod round;
mod strace;

use std::alloc::System;
use std::time::Duration;

use credlet::sim::keys::Algorithm;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crate::client::Client;
use crate::pods::Pods;
use crate::round::Plan;

/// Counts allocations, which costs an atomic addition each, in both contenders alike.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Pods that ask in turn: as many as EKS lets run on most nodes.
const PODS: usize = 110;

const WHOLE: Plan = Plan { rounds: 20, slice: Duration::from_millis(400), open_loop: Duration::from_secs(5) };
const SMOKE: Plan = Plan { rounds: 1, slice: Duration::from_millis(50), open_loop: Duration::from_millis(100) };

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, contender, key_set, cpu] = arguments.as_slice()
        && role == process::ROLE
    {
        return contender::run(contender.parse()?, key_set.as_ref(), cpu.parse()?);
    }
    let cpus = cpu::allowed()?;
    let plan = if arguments.iter().any(|argument| argument == "--bench") { WHOLE } else { SMOKE };
    let pods = Pods::new(PODS, Algorithm::Rs256)?;
    let client = Client::new(&pods.tokens)?;
    report::print(&round::play(plan, &cpus, &pods, &client)?);
    report::print_latency(&open_loop::run(plan.open_loop, &cpus, &pods, &client)?);
    Ok(())
}
