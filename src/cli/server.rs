//! `credlet server`: check the configuration, serve until told to stop.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::base::clock::Clock;
use crate::cli::USAGE;
use crate::config::Config;
use crate::config::flags::ServerFlags;
use crate::egress::aws::Aws;
use crate::observe::Context;
use crate::observe::logging;
use crate::observe::panics;

/// Threads for connections: one core serves a hundred thousand requests a second, and each idle thread costs memory on every
/// node.
const WORKERS: usize = 2;

/// `notes` are logged with the configuration's own warnings.
pub(super) fn main(flags: &ServerFlags, notes: Vec<String>) -> anyhow::Result<ExitCode> {
    match Config::of_server(flags, &|name| std::env::var(name).ok()) {
        Ok(config) => serve(Config { warnings: [notes, config.warnings].concat(), ..config }),
        Err(faults) => {
            let lines = notes.into_iter().chain(faults.0).collect::<Vec<_>>().join("\n");
            let _ = writeln!(std::io::stderr(), "{lines}");
            Ok(USAGE.into())
        }
    }
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    logging::init(config.logging)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    run(async {
        let context = Context::new(Clock::System);
        panics::watch(Arc::clone(&context.metrics));
        let aws = Aws::new(config.https.clone(), config.node_credentials.clone(), &context);
        let app = App::start(config, aws, context)?;
        let signal = stop_signal().await?;
        tracing::info!(signal, "told to stop");
        app.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Runs an agent to its end, and waits for nothing else: a file that can't be read to its end must not keep the process.
pub(super) fn run<T>(agent: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().context("no runtime")?;
    let ended = runtime.block_on(agent);
    runtime.shutdown_background();
    ended
}

/// The name of the signal that ends the process, once it comes.
pub(super) async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hangup.recv() => "SIGHUP",
    })
}
