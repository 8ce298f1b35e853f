//! The commands: parse, call, exit code. What they do stands elsewhere.

mod check;
#[cfg(feature = "dev")]
mod dev;
mod drop_in;
mod go_runner;
mod initialize;
mod policy;
mod server;
mod status;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::drop_in::Name;
use crate::config::flags::ServerFlags;

/// `EX_USAGE` of sysexits.h: the configuration is at fault, and starting again won't help.
const USAGE: u8 = 64;

#[derive(Debug, Parser)]
#[command(
    name = "credlet",
    version,
    about = "The AWS credential agent of a Kubernetes node",
    disable_help_subcommand = true,
    // The last one counts, as with Go's flags: charts add arguments to those that they have.
    args_override_self = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve credentials on this node
    #[command(alias = "serve")]
    Server(Box<ServerFlags>),
    /// Whether this node can serve, and what to do where it can't
    Check(Box<check::CheckFlags>),
    /// Make this node's link with the addresses to serve on
    #[command(alias = "init")]
    Initialize(initialize::InitializeFlags),
    /// The same agent on loopback with a simulated cluster and AWS
    #[cfg(feature = "dev")]
    Dev(dev::DevFlags),
    /// What a policy file is worth, and what it means for a service account
    Policy(policy::PolicyFlags),
    /// What this node's agent holds and what ails it
    Status(status::StatusFlags),
    /// Version, commit and build features
    Version,
}

/// Runs the command line of this process, as whatever it was started.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let (program, arguments) = words.split_first().map_or((OsString::new(), &[][..]), |(first, rest)| (first.clone(), rest));
    match Name::of(&program) {
        Name::Credlet => parsed(Cli::try_parse_from(words).map(|cli| (cli, Vec::new()))),
        Name::Incumbent => parsed(drop_in::read(words)),
        Name::GoRunner => go_runner::main(arguments),
    }
}

/// Runs a command, whose line gave cause for `notes`.
fn parsed(line: Result<(Cli, Vec<String>), clap::Error>) -> ExitCode {
    match line {
        Ok((cli, notes)) => run(cli.command, notes).unwrap_or_else(|error| fail(&error)),
        Err(error) => {
            // Help goes to standard output and is no fault.
            let _ = error.print();
            if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS }
        }
    }
}

fn run(command: Command, notes: Vec<String>) -> anyhow::Result<ExitCode> {
    if !matches!(command, Command::Server(_)) {
        notes.iter().try_for_each(|note| writeln!(std::io::stderr(), "{note}"))?;
    }
    match command {
        Command::Server(flags) => server::main(&flags, notes),
        Command::Check(flags) => check::main(&flags),
        Command::Initialize(flags) => initialize::main(&flags),
        #[cfg(feature = "dev")]
        Command::Dev(flags) => dev::main(&flags),
        Command::Policy(flags) => policy::main(&flags),
        Command::Status(flags) => status::main(&flags),
        Command::Version => version(),
    }
}

/// Tells an error with all its causes.
fn fail(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "credlet: {error:#}");
    ExitCode::FAILURE
}

fn version() -> anyhow::Result<ExitCode> {
    let features = if cfg!(feature = "dev") { "dev" } else { "none" };
    writeln!(
        std::io::stdout(),
        "credlet {} (commit {}, features: {features})",
        env!("CARGO_PKG_VERSION"),
        env!("CREDLET_COMMIT")
    )?;
    Ok(ExitCode::SUCCESS)
}
