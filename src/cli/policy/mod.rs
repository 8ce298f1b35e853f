//! `credlet policy`: what a policy file is worth before an agent reads it, and what it means for one service account.

mod check;
mod explain;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::domain::policy::{Fault, MOST_BYTES, Policy};

/// `credlet policy …`.
#[derive(Debug, Args)]
pub(super) struct PolicyFlags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every fault of policy files, a line each; exit 1 if there are any
    Check(check::CheckFlags),
    /// What one service account gets: the rule that matches, the chain that results, all targets
    Explain(explain::ExplainFlags),
}

pub(super) fn main(flags: &PolicyFlags) -> anyhow::Result<ExitCode> {
    match &flags.command {
        Command::Check(flags) => check::main(flags),
        Command::Explain(flags) => explain::main(flags),
    }
}

/// The policy in `file`, which says `text`; `None` when it has faults, which are told.
fn read(file: &Path, text: &str, cluster: &str) -> anyhow::Result<Option<Policy>> {
    match Policy::parse(text, Some(cluster.into())) {
        Ok(policy) => Ok(Some(policy)),
        Err(faults) => {
            tell(std::io::stdout(), file, &faults.0)?;
            Ok(None)
        }
    }
}

/// `FILE:LINE: path: message` of each fault, as editors and pipelines find places.
fn tell(mut out: impl Write, file: &Path, faults: &[Fault]) -> anyhow::Result<()> {
    for fault in faults {
        let line = fault.line.map(|line| format!("{line}:")).unwrap_or_default();
        writeln!(out, "{}:{line} {}", file.display(), fault.what())?;
    }
    Ok(())
}

/// What a file says; - is standard input.
fn text_of(file: &Path) -> anyhow::Result<String> {
    let text = if file == Path::new("-") {
        text(std::io::stdin())
    } else {
        File::open(file).map_err(anyhow::Error::from).and_then(text)
    };
    text.with_context(|| file.display().to_string())
}

fn text(source: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    source.take(u64::try_from(MOST_BYTES)? + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MOST_BYTES {
        bail!("is larger than 1 MiB, which is all that a ConfigMap holds");
    }
    let is_utf_16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    let encoding = if is_utf_16 { "UTF-16" } else { "perhaps Latin-1 or Windows-1252" };
    String::from_utf8(bytes).with_context(|| format!("is not UTF-8 text, but {encoding}: save it as UTF-8"))
}
