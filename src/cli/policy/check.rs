//! `credlet policy check`: every fault of policy files, for people and pipelines.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::cli::policy::{read, tell, text_of};
use crate::domain::policy::{Fault, Policy};

#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    /// The files; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The --cluster-name of the agents that will read them; without it, what needs one is told but is no fault
    #[arg(long, env = "CREDLET_CLUSTER_NAME", value_name = "NAME")]
    cluster_name: Option<String>,
    /// What is only told else, such as rules that never decide, is a fault
    #[arg(long)]
    strict: bool,
}

/// Fails if any file has a fault or can't be read.
pub(super) fn main(flags: &CheckFlags) -> anyhow::Result<ExitCode> {
    let mut fine = true;
    for file in &flags.files {
        fine &= match check(file, flags) {
            Ok(fine) => fine,
            Err(error) => {
                writeln!(std::io::stderr(), "credlet: {error:#}")?;
                false
            }
        };
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a file has no faults.
fn check(file: &Path, flags: &CheckFlags) -> anyhow::Result<bool> {
    let text = text_of(file)?;
    let Some(policy) = read(file, &text, flags.cluster_name.as_deref().unwrap_or("CLUSTER"))? else { return Ok(false) };
    let mut warnings = policy.warnings();
    if flags.cluster_name.is_none() {
        warnings.extend(needs_of_cluster(&text));
    }
    if flags.strict && !warnings.is_empty() {
        tell(std::io::stdout(), file, &warnings)?;
        return Ok(false);
    }
    tell(std::io::stderr(), file, &warnings)?;
    let targets: usize = policy.rules().iter().map(|rule| rule.targets().count()).sum();
    let rules = policy.rules().len();
    writeln!(std::io::stdout(), "{}: no faults: rules: {rules}, targets: {targets}", file.display())?;
    Ok(true)
}

/// What would be a fault to an agent without a `--cluster-name`.
fn needs_of_cluster(text: &str) -> Vec<Fault> {
    Policy::parse(text, None).err().map(|faults| faults.0).unwrap_or_default()
}
