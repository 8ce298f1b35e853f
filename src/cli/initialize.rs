//! `credlet initialize`: the node's link with its addresses and routes; made, kept, or taken away.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use crate::base::clock::Clock;
use crate::cli::USAGE;
use crate::cli::server::stop_signal;
use crate::config::flags::LogFlags;
use crate::node::link::{self, LinkError, NAME, Step};
use crate::observe::logging;

/// What `credlet initialize` can be told.
#[derive(Debug, Args)]
pub(super) struct InitializeFlags {
    /// Take the link away, with its addresses and routes
    #[arg(long, conflicts_with = "watch")]
    remove: bool,
    /// Stay, and put back at once what disappears
    #[arg(long)]
    watch: bool,
    /// Kind of the link, for kernels without `dummy`
    #[arg(long, env = "CREDLET_LINK_KIND", value_name = "KIND", default_value = "dummy")]
    link_kind: String,
    #[command(flatten)]
    log: LogFlags,
}

pub(super) fn main(flags: &InitializeFlags) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match flags {
        InitializeFlags { remove: true, link_kind, .. } => runtime.block_on(remove(link_kind)),
        InitializeFlags { watch: true, link_kind, log, .. } => match log.check() {
            Ok(config) => {
                logging::init(config)?;
                runtime.block_on(watch(link_kind))
            }
            Err(faults) => {
                writeln!(std::io::stderr(), "{faults}")?;
                Ok(USAGE.into())
            }
        },
        InitializeFlags { link_kind, .. } => runtime.block_on(make(link_kind)),
    }
}

async fn remove(kind: &str) -> anyhow::Result<ExitCode> {
    let removed = if link::remove(kind).await? { "removed" } else { "not there" };
    writeln!(std::io::stdout(), "{removed}: link {NAME}")?;
    Ok(ExitCode::SUCCESS)
}

async fn make(kind: &str) -> anyhow::Result<ExitCode> {
    link::make(kind, |step| {
        // Nobody may read it; the node needs its link all the same.
        let _ = match &step {
            Step::Made(piece) => writeln!(std::io::stdout(), "made: {piece}"),
            Step::Found(piece) => writeln!(std::io::stdout(), "there already: {piece}"),
            Step::Without(host, why) => writeln!(std::io::stderr(), "credlet: warning: {}", without(*host, why)),
        };
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Ends with a signal, or with an error.
async fn watch(kind: &str) -> anyhow::Result<ExitCode> {
    tracing::info!("link {NAME} is watched");
    let mut log = Log::default();
    tokio::select! {
        ended = link::keep(kind, &Clock::System, |step| log.tell(step)) => match ended? {},
        signal = stop_signal() => tracing::info!(signal = signal?, "told to stop"),
    }
    Ok(ExitCode::SUCCESS)
}

fn without(host: IpAddr, why: &LinkError) -> String {
    format!("{host} is left out: {why}")
}

/// One line a thing done; a fault that stays is told once.
#[derive(Debug, Default)]
struct Log {
    fault: Option<String>,
}

impl Log {
    fn tell(&mut self, step: Result<Step, LinkError>) {
        match step {
            Ok(Step::Made(piece)) => {
                self.fault = None;
                tracing::info!("made: {piece}");
            }
            Ok(Step::Found(piece)) => tracing::debug!("there already: {piece}"),
            Ok(Step::Without(host, why)) => self.fault(without(host, &why)),
            Err(error) => self.fault(format!("can't put back what is missing, trying again: {error}")),
        }
    }

    fn fault(&mut self, text: String) {
        if self.fault.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.fault = Some(text);
        }
    }
}
