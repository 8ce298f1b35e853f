//! `credlet check`: whether this node can serve, a line each, and what to do where it can't.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use tracing::level_filters::LevelFilter;

use crate::app::access;
use crate::base::clock::Clock;
use crate::checks::{self, Finding, Outcome};
use crate::cli::USAGE;
use crate::cli::server::run;
use crate::config::Config;
use crate::config::flags::ServerFlags;
use crate::egress::aws::Aws;
use crate::node::hardening;
use crate::observe::Context;

/// What `credlet check` can be told: all that the server can be.
#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    #[command(flatten)]
    server: ServerFlags,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(flags: &CheckFlags) -> anyhow::Result<ExitCode> {
    let (findings, code, causes) = match Config::of_server(&flags.server, &|name| std::env::var(name).ok()) {
        Ok(config) => {
            let causes = config.logging.level >= LevelFilter::DEBUG;
            let findings = run(findings(config))?;
            let failed = findings.iter().any(|finding| finding.outcome == Outcome::Failed);
            (findings, if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }, causes)
        }
        Err(faults) => (checks::of_faults(faults), USAGE.into(), false),
    };
    let text = if flags.json { format!("{:#}\n", serde_json::to_value(&findings)?) } else { lines(&findings, causes) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(code)
}

async fn findings(config: Config) -> anyhow::Result<Vec<Finding>> {
    hardening::keep_memory_private();
    let context = Context::new(Clock::System);
    let aws = Aws::new(config.https.clone(), config.node_credentials.clone(), &context);
    let access = access(&config, aws, &context);
    Ok(checks::run(&config, access, &context).await)
}

/// Outcome, check, detail, remedy: aligned, and a line each whatever an error says. With `causes`, long ones are told, too.
fn lines(findings: &[Finding], causes: bool) -> String {
    let mut out = String::new();
    for Finding { check, outcome, detail, cause, remedy } in findings {
        let (outcome, check): (&str, &str) = (outcome.into(), check.into());
        let remedy = remedy.as_deref().map(|remedy| format!(". Remedy: {remedy}")).unwrap_or_default();
        let cause = cause.as_deref().filter(|_| causes).map(|cause| format!(" ({cause})")).unwrap_or_default();
        let told = format!("{detail}{cause}{remedy}");
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(out, "{outcome:7}  {check:13}  {told}");
    }
    out
}
