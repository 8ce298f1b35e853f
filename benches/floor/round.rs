//! The rounds: contenders and modes in turn, in short slices, each in a fresh process.

use std::time::Duration;

use anyhow::Context;
use strum::IntoEnumIterator;

use crate::client::{Client, Mode};
use crate::contender::Contender;
use crate::pods::Pods;
use crate::process::Process;
use crate::{cpu, strace};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    pub(crate) open_loop: Duration,
}

/// What was measured of one contender in one mode.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    pub(crate) mode: Mode,
    /// CPU time of the server for a request in microseconds, round by round.
    pub(crate) cpu_micros: Vec<f64>,
    /// Allocations of the server for a request.
    pub(crate) allocations: f64,
    /// Its system calls for a request, if strace is there to count them.
    pub(crate) syscalls: Option<f64>,
}

/// One contender that serves hits, beside its client.
struct Stage<'a> {
    process: Process,
    client: &'a Client,
    mode: Mode,
}

/// Measures everything. The contenders take turns at being first.
pub(crate) fn play(plan: Plan, cpus: &[usize], pods: &Pods, client: &Client) -> anyhow::Result<Vec<Measured>> {
    let cpu = *cpus.last().context("no CPU")?;
    cpu::pin(cpu)?;
    let mut all: Vec<Measured> =
        Mode::iter().flat_map(|mode| Contender::iter().map(move |who| Measured::new(who, mode))).collect();
    for _ in 0..plan.rounds {
        all.reverse();
        for measured in &mut all {
            let stage = Stage::set(measured, pods, client, cpu)?;
            measured.run(stage, plan.slice)?;
        }
    }
    for measured in &mut all {
        let stage = Stage::set(measured, pods, client, cpu)?;
        measured.syscalls = strace::count(stage.process, |process| client.ask(process.address, stage.mode, plan.slice))?;
    }
    all.sort_by_key(|measured| (measured.mode == Mode::Fresh, measured.contender == Contender::Credlet));
    Ok(all)
}

impl Measured {
    fn new(contender: Contender, mode: Mode) -> Self {
        Self { contender, mode, cpu_micros: Vec::new(), allocations: 0.0, syscalls: None }
    }

    fn run(&mut self, mut stage: Stage<'_>, slice: Duration) -> anyhow::Result<()> {
        let (cpu, allocations) = (stage.process.cpu_time()?, stage.process.allocations()?);
        let requests = f64::from(stage.client.ask(stage.process.address, self.mode, slice)?);
        self.cpu_micros.push((stage.process.cpu_time()? - cpu).as_secs_f64() * 1e6 / requests);
        self.allocations = f64::from(u32::try_from(stage.process.allocations()? - allocations)?) / requests;
        Ok(())
    }
}

impl<'a> Stage<'a> {
    fn set(of: &Measured, pods: &Pods, client: &'a Client, cpu: usize) -> anyhow::Result<Self> {
        let process = Process::start(of.contender, &pods.key_set(), cpu)?;
        client.warm_up(process.address)?;
        client.ask(process.address, of.mode, WARM_UP)?;
        Ok(Self { process, client, mode: of.mode })
    }
}

/// Enough for caches, branch predictors and the allocator to have seen it all.
const WARM_UP: Duration = Duration::from_millis(40);
