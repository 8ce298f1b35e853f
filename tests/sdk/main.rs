//! The AWS SDKs themselves as clients of the real agent, each a process of its own: only they can say whether credlet's answers
//! are the ones that they take.
//!
//! `tests/sdk/install` first, then `cargo test --test sdk`. What each SDK did is written to `tests/sdk/report.md` and must be
//! what `tests/sdk/expected.md` says. An SDK that is not installed fails.

mod cases;
mod client;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "what only other test binaries use")]
mod harness;
#[path = "clients/rust/client.rs"]
mod rust_client;
mod table;
mod third_party;
mod wire;
mod world;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Trial};
use parking_lot::Mutex;
use strum::IntoEnumIterator;
use tokio::runtime::{Handle, Runtime};

use crate::cases::Case;
use crate::client::Sdk;
use crate::table::Table;

/// No trial takes longer, whatever hangs.
const TRIAL_LIMIT: Duration = Duration::from_secs(90);

/// Trials mostly wait, so more of them than there are cores.
const TRIALS_AT_ONCE: usize = 8;

fn main() -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new()?;
    if std::env::args().nth(1).as_deref() == Some(client::RUST_CLIENT) {
        runtime.block_on(rust_client::run())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TRIALS_AT_ONCE);
    let report = Report::default();
    let mut trials = wire_trials(runtime.handle());
    trials.extend(third_party_trials(runtime.handle()));
    trials.extend(case_trials(runtime.handle(), &report)?);
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        report.publish()?;
    }
    Ok(conclusion.exit_code())
}

fn wire_trials(runtime: &Handle) -> Vec<Trial> {
    vec![
        trial(runtime, "wire::answer", wire::answer()),
        trial(runtime, "wire::errors", wire::errors()),
        trial(runtime, "wire::strangers", wire::strangers()),
    ]
}

fn third_party_trials(runtime: &Handle) -> Vec<Trial> {
    vec![
        trial(runtime, "third_party::chains", third_party::chains()),
        trial(runtime, "third_party::profiles", third_party::profiles()),
        trial(runtime, "third_party::missing_tag_session", third_party::missing_tag_session()),
        trial(runtime, "third_party::another_subject", third_party::another_subject()),
    ]
}

fn case_trials(runtime: &Handle, report: &Report) -> anyhow::Result<Vec<Trial>> {
    let expected = Arc::new(Table::expected()?);
    let pairs = Sdk::iter().flat_map(|sdk| Case::iter().map(move |case| (sdk, case)));
    let trials = pairs.map(|(sdk, case)| {
        let (expected, report) = (expected.clone(), report.clone());
        trial(runtime, &format!("{sdk}::{case}"), async move {
            let outcome = case.outcome(sdk).await;
            report.note(sdk, case, &outcome);
            let (outcome, expected) = (outcome?, expected.cell(sdk, case));
            ensure!(table::allows(expected, &outcome), "{outcome}; expected: {expected}");
            Ok(())
        })
    });
    Ok(trials.collect())
}

fn trial(runtime: &Handle, name: &str, body: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> Trial {
    let runtime = runtime.clone();
    Trial::test(name, move || {
        let outcome = runtime.block_on(async { tokio::time::timeout(TRIAL_LIMIT, body).await });
        outcome.context("no end").flatten().map_err(|error| format!("{error:#}").into())
    })
}

/// What this run saw. Clones share it.
#[derive(Clone, Default)]
struct Report(Arc<Mutex<Table>>);

impl Report {
    fn note(&self, sdk: Sdk, case: Case, outcome: &anyhow::Result<String>) {
        let outcome = outcome.as_ref().map_or_else(|_| "failed".to_owned(), Clone::clone);
        self.0.lock().insert(sdk, case, outcome);
    }

    fn publish(&self) -> anyhow::Result<()> {
        let table = self.0.lock().to_string();
        write!(std::io::stdout(), "{table}")?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/report.md");
        Ok(std::fs::write(file, table)?)
    }
}
