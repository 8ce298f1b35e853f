//! A contender's process, as its parent sees it.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::contender::Contender;

/// The argument that makes this binary a contender.
pub(crate) const ROLE: &str = "contender";

/// A running contender. Dropping it ends it.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(contender: Contender, key_set: &Path, cpu: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ROLE, contender.into()]).arg(key_set).arg(cpu.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("no pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let address = stdout.next().context("the contender has ended")??.parse()?;
        Ok(Self { address, child, stdin, stdout })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Allocations since it started.
    pub(crate) fn allocations(&mut self) -> anyhow::Result<u64> {
        writeln!(self.stdin)?;
        Ok(self.stdout.next().context("the contender has ended")??.parse()?)
    }

    /// How long all its threads have run (Linux, `Documentation/scheduler/sched-stats.rst`: the first figure, nanoseconds).
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut sum = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
            sum += Duration::from_nanos(schedstat.split(' ').next().unwrap_or_default().parse()?);
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
