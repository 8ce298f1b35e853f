//! System calls, counted by strace where it is installed.

use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::process::Process;

/// How many system calls `process` makes for a request of those that `work` says it has served. It ends with that.
pub(crate) fn count(process: Process, work: impl FnOnce(&Process) -> anyhow::Result<u32>) -> anyhow::Result<Option<f64>> {
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--summary-only", "--attach", &process.id().to_string()]).stderr(Stdio::piped());
    let mut strace = match command.spawn() {
        Ok(strace) => strace,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut lines = BufReader::new(strace.stderr.take().context("no pipe")?).lines();
    let attached = lines.next().context("strace has ended")??;
    ensure!(attached.contains(" attached"), "{attached}");
    let requests = f64::from(work(&process)?);
    drop(process);
    let summary: Vec<String> = lines.collect::<Result<_, _>>()?;
    strace.wait()?;
    let total = summary.iter().find(|line| line.ends_with(" total")).context("strace has counted nothing")?;
    // % time, seconds, usecs/call, calls, errors where there were some.
    let calls: u32 = total.split_whitespace().nth(3).context("a summary without calls")?.parse()?;
    Ok(Some(f64::from(calls) / requests))
}
