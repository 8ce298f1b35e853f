//! The commands: parse, call, exit code. What they do stands elsewhere.

#[cfg(feature = "dev")]
mod dev;
mod initialize;
mod policy;
mod server;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::flags::ServerFlags;

/// `EX_USAGE` of sysexits.h: the configuration is at fault, and starting again won't help.
const USAGE: u8 = 64;

#[derive(Debug, Parser)]
#[command(name = "credlet", version, about = "The AWS credential agent of a Kubernetes node", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve credentials on this node
    #[command(alias = "serve")]
    Server(Box<ServerFlags>),
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

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // Help goes to standard output and is no fault.
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let done = match command {
        Command::Server(flags) => return server::main(&flags),
        Command::Initialize(flags) => initialize::main(&flags),
        #[cfg(feature = "dev")]
        Command::Dev(flags) => dev::main(&flags),
        Command::Policy(flags) => policy::main(&flags),
        Command::Status(flags) => status::main(&flags),
        Command::Version => version(),
    };
    done.unwrap_or_else(|error| fail(&error))
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
