//! The `credlet` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    credlet::cli::main()
}
