//! The AWS SDKs themselves as clients of the real agent, each a process of its own: only they can say whether credlet's answers
//! are the ones that they take.
//!
//! `tests/sdk/install` first, then `cargo test --test sdk` as root: each case is a node of its own, in network namespaces, with the
//! agent on its real addresses and the SDK in a pod. What each SDK did is written to `tests/sdk/report.md` and must be what the table
//! in `README.md` says. An SDK that is not installed fails.

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
use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::geteuid;
use parking_lot::Mutex;
use strum::IntoEnumIterator;
use tokio::runtime::{Handle, Runtime};

use crate::cases::Case;
use crate::client::Sdk;
use crate::harness::network::{Network, on_a_node};
use crate::table::Table;
use crate::world::{Image, World};

/// No trial takes longer, whatever hangs.
const TRIAL_LIMIT: Duration = Duration::from_secs(180);

/// Trials mostly wait, so more of them than there are cores.
const TRIALS_AT_ONCE: usize = 8;

fn main() -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new()?;
    if std::env::args().nth(1).as_deref() == Some(client::RUST_CLIENT) {
        runtime.block_on(rust_client::run())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut arguments = Arguments::from_args();
    ensure!(geteuid().is_root(), "real SDKs run on nodes of network namespaces, which only root can make");
    arguments.test_threads.get_or_insert(TRIALS_AT_ONCE);
    let report = Report::default();
    let mut trials = wire_trials(runtime.handle());
    trials.extend(third_party_trials(runtime.handle()));
    let image = Arc::new(Image::new()?);
    trials.push(rights_trial(Arc::clone(&image)));
    trials.extend(case_trials(&image, &report)?);
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

fn rights_trial(image: Arc<Image>) -> Trial {
    let rights =
        async |network, image: Arc<Image>| World::start(network, &image, Sdk::Rust, "rights").await?.ensure_unprivileged();
    Trial::test("node::rights", move || on_a_node(move |network| limited(rights(network, image))).map_err(failure))
}

fn case_trials(image: &Arc<Image>, report: &Report) -> anyhow::Result<Vec<Trial>> {
    let expected = Arc::new(Table::expected()?);
    let pairs = Case::iter().flat_map(|case| Sdk::iter().map(move |sdk| (sdk, case)));
    let trials = pairs.map(|(sdk, case)| {
        let (image, expected, report) = (image.clone(), expected.clone(), report.clone());
        Trial::test(format!("{sdk}::{case}"), move || {
            let outcome = on_a_node(move |network| limited(on(network, image, sdk, case)));
            report.note(sdk, case, &outcome);
            let (outcome, expected) = (outcome.map_err(failure)?, expected.cell(sdk, case));
            if table::allows(expected, &outcome) { Ok(()) } else { Err(format!("{outcome}; expected: {expected}").into()) }
        })
    });
    Ok(trials.collect())
}

/// What the SDK does in this case, on a node without anything.
async fn on(network: Network, image: Arc<Image>, sdk: Sdk, case: Case) -> anyhow::Result<String> {
    case.outcome(World::start(network, &image, sdk, &case.to_string()).await?).await
}

fn trial(runtime: &Handle, name: &str, body: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> Trial {
    let runtime = runtime.clone();
    Trial::test(name, move || runtime.block_on(limited(body)).map_err(failure))
}

async fn limited<T>(body: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(TRIAL_LIMIT, body).await.context("no end")?
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn failure(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
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
