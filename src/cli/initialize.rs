//! `credlet initialize`: what the agent needs of the node. The link with its addresses and routes, made, kept, or taken away; the
//! folder for handovers, made the agent's own.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::base::clock::Clock;
use crate::cli::USAGE;
use crate::cli::server::stop_signal;
use crate::config::flags::LogFlags;
use crate::node::handover::folder::{self, Given};
use crate::node::link::state::{Piece, Unfit};
use crate::node::link::{self, LinkError, NAME, Step};
use crate::observe::logging;

/// What `credlet initialize` can be told.
#[derive(Debug, Args)]
#[command(after_help = "Without --watch it prints plain lines: --verbosity and --log-format are checked, and change nothing.")]
pub(super) struct InitializeFlags {
    /// Take the link away, with its addresses and routes
    #[arg(long)]
    remove: bool,
    /// Leave the link alone: nothing but --handover-dir
    #[arg(long, requires = "handover_dir")]
    no_link: bool,
    /// Stay, and put back at once what disappears; with --remove, take it away again
    #[arg(long)]
    watch: bool,
    /// Kind of the link, for kernels without `dummy`
    #[arg(long, env = "CREDLET_LINK_KIND", value_name = "KIND", default_value = "dummy")]
    link_kind: String,
    /// Make this folder the agent's own, for handovers: 0700, of the uid of --handover-owner
    #[arg(long, env = "CREDLET_HANDOVER_DIR", value_name = "DIR", value_parser = absolute, conflicts_with_all = ["remove", "watch"])]
    handover_dir: Option<PathBuf>,
    /// Uid that the agent runs as
    #[arg(long, env = "CREDLET_HANDOVER_OWNER", value_name = "UID", default_value_t = folder::AGENT)]
    handover_owner: u32,
    #[command(flatten)]
    log: LogFlags,
}

pub(super) fn main(flags: &InitializeFlags) -> anyhow::Result<ExitCode> {
    match flags.log.check() {
        Ok(log) => run(flags, log),
        Err(faults) => {
            writeln!(std::io::stderr(), "{faults}")?;
            Ok(USAGE.into())
        }
    }
}

fn run(flags: &InitializeFlags, log: logging::Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let InitializeFlags { remove, watch, link_kind, no_link, .. } = flags;
    if *watch {
        logging::init(log)?;
        return runtime.block_on(stay(link_kind, *remove));
    }
    if let Some(dir) = &flags.handover_dir {
        give(dir, flags.handover_owner);
    }
    if *no_link {
        return Ok(ExitCode::SUCCESS);
    }
    runtime.block_on(async { if *remove { take_away(link_kind).await } else { make(link_kind).await } })
}

/// It has to mean the same for every agent.
fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("it is no absolute path: begin it with /") }
}

/// Agents serve without it.
fn give(dir: &Path, owner: u32) {
    let folder = format!("folder {} of uid {owner}", dir.display());
    // As of the link: nobody may read it.
    let _ = match folder::give(dir, owner) {
        Ok(Given::Now) => writeln!(std::io::stdout(), "made: {folder}"),
        Ok(Given::Before) => writeln!(std::io::stdout(), "there already: {folder}"),
        Err(error) => {
            let why = anyhow::Error::new(error);
            writeln!(std::io::stderr(), "credlet: warning: {folder} is left out, agents will not hand over: {why:#}")
        }
    };
}

async fn take_away(kind: &str) -> anyhow::Result<ExitCode> {
    let removed = if link::remove(kind).await? { "removed" } else { "not there" };
    writeln!(std::io::stdout(), "{removed}: link {NAME}")?;
    Ok(ExitCode::SUCCESS)
}

async fn make(kind: &str) -> anyhow::Result<ExitCode> {
    link::make(kind, |step| {
        // Nobody may read it; the node needs its link all the same.
        let _ = match step {
            Step::Made(piece) => writeln!(std::io::stdout(), "made: {piece}"),
            Step::Found(piece) => writeln!(std::io::stdout(), "there already: {piece}"),
            Step::Removed(unfit) => writeln!(std::io::stderr(), "credlet: warning: {}", removed(unfit)),
            Step::Without(piece, why) => writeln!(std::io::stderr(), "credlet: warning: {}", without(piece, why)),
        };
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Ends with a signal, or with an error.
async fn stay(kind: &str, away: bool) -> anyhow::Result<ExitCode> {
    tokio::select! {
        ended = watch(kind, away) => match ended? {},
        signal = stop_signal() => tracing::info!(signal = signal?, "told to stop"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn watch(kind: &str, away: bool) -> Result<Infallible, LinkError> {
    let mut log = Log::default();
    if away {
        link::keep_away(kind, &Clock::System, |step| log.tell_removal(step)).await
    } else {
        link::keep(kind, &Clock::System, |step| log.tell(step)).await
    }
}

fn removed(unfit: Unfit) -> String {
    format!("removed: {unfit}, which is of no use in this form")
}

fn without(piece: Piece, why: LinkError) -> String {
    format!("{piece} is left out: {:#}", anyhow::Error::new(why))
}

/// One line a thing done; a fault that stays is told once.
#[derive(Debug, Default)]
struct Log {
    faults: HashSet<String>,
}

impl Log {
    fn tell(&mut self, step: Result<Step, LinkError>) {
        match step {
            Ok(Step::Made(piece)) => self.done(&format!("made: {piece}")),
            Ok(Step::Found(piece)) => tracing::debug!("there already: {piece}"),
            Ok(Step::Removed(unfit)) => tracing::warn!("{}", removed(unfit)),
            Ok(Step::Without(piece, why)) => self.fault(without(piece, why)),
            Err(error) => self.fault(format!("can't put back what is missing, trying again: {:#}", anyhow::Error::new(error))),
        }
    }

    fn tell_removal(&mut self, step: Result<(), LinkError>) {
        match step {
            Ok(()) => self.done(&format!("removed: link {NAME}")),
            Err(error) => self.fault(format!("can't keep link {NAME} away, trying again: {:#}", anyhow::Error::new(error))),
        }
    }

    fn done(&mut self, text: &str) {
        self.faults.clear();
        tracing::info!("{text}");
    }

    fn fault(&mut self, text: String) {
        if !self.faults.contains(&text) {
            tracing::warn!("{text}");
            self.faults.insert(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Initialize {
        #[command(flatten)]
        flags: InitializeFlags,
    }

    #[test]
    fn a_folder_that_depends_on_where_it_is_made_is_refused() {
        let parse = |dir: &str| Initialize::try_parse_from(["initialize", "--handover-dir", dir]);
        assert_eq!(parse("/run/handover").unwrap().flags.handover_dir, Some(PathBuf::from("/run/handover")));
        for dir in ["handover", "./handover", "../handover", ""] {
            let error = parse(dir).unwrap_err().to_string();
            assert!(error.contains("'--handover-dir <DIR>'") && error.contains("no absolute path"), "{error}");
        }
    }
}
