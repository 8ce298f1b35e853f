//! `credlet policy`: what a policy file is worth before an agent reads it, and what it means for one service account.

mod check;
mod explain;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use crate::domain::policy::{Fault, Policy};
use crate::grants;

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
        grants::file::text_of(std::io::stdin())
    } else {
        grants::file::text_of(File::open(file).with_context(|| file.display().to_string())?)
    };
    text.map_err(|fault| anyhow!("{}: {fault}", file.display()))
}
