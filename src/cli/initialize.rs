//! `credlet initialize`: the node's link with its addresses and routes; made, kept, or taken away.

use std::convert::Infallible;
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
    #[arg(long)]
    remove: bool,
    /// Stay, and put back at once what disappears; with --remove, take it away again
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
    let InitializeFlags { remove, watch, link_kind, log } = flags;
    if *watch {
        return match log.check() {
            Ok(config) => {
                logging::init(config)?;
                runtime.block_on(stay(link_kind, *remove))
            }
            Err(faults) => {
                writeln!(std::io::stderr(), "{faults}")?;
                Ok(USAGE.into())
            }
        };
    }
    runtime.block_on(async { if *remove { take_away(link_kind).await } else { make(link_kind).await } })
}

async fn take_away(kind: &str) -> anyhow::Result<ExitCode> {
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
        link::keep_away(kind, || tracing::info!("removed: link {NAME}")).await
    } else {
        link::keep(kind, &Clock::System, |step| log.tell(step)).await
    }
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
