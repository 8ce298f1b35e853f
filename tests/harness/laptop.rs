//! `credlet dev` in a shell of a laptop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use crate::harness::http::{self, Answer};
use crate::harness::setup::credlet;

/// No start, and no end that comes by itself, takes longer.
const LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A running `credlet dev`. Dropping it kills it.
pub(crate) struct Laptop {
    _process: Child,
    log: PathBuf,
}

impl Laptop {
    /// Starts it and waits for what it tells to type in another shell. Its log is in `folder`, which is also its home.
    pub(crate) async fn start(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let log = folder.join("dev.log");
        let file = std::fs::File::create(&log)?;
        let mut command = command(folder, arguments, variables);
        let mut process = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        let started = async {
            while !std::fs::read_to_string(&log)?.contains("Ctrl-C ends it") {
                if let Some(status) = process.try_wait()? {
                    bail!("credlet ended: {status}");
                }
                tokio::time::sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        let started = tokio::time::timeout(LIMIT, started).await.context("it does not start").flatten();
        started.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Self { _process: process, log })
    }

    /// Runs it to its end, which must come by itself.
    pub(crate) async fn end(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Output> {
        let output = tokio::time::timeout(LIMIT, command(folder, arguments, variables).output()).await;
        Ok(output.context("credlet does not end")??)
    }

    /// The value of a variable that it told to export.
    pub(crate) fn exported(&self, name: &str) -> String {
        let log = self.log();
        let value = log.lines().find_map(|line| line.strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
    }

    /// Its answer to who reads the token file.
    pub(crate) async fn ask(&self) -> anyhow::Result<Answer> {
        let token = std::fs::read_to_string(self.exported("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"))?;
        self.ask_with(&[("authorization", &token)]).await
    }

    /// Its answer to a request with these headers.
    pub(crate) async fn ask_with(&self, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        http::get(self.address()?, "/v1/credentials", headers).await
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        let uri = self.exported("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        let address = uri.strip_prefix("http://").and_then(|uri| uri.strip_suffix("/v1/credentials"));
        Ok(address.context("it told no URI")?.parse()?)
    }

    /// All that it has written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn command(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = credlet("dev");
    command
        .args(arguments)
        .env("HOME", folder)
        .env("TMPDIR", folder)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(variables.iter().copied());
    command
}
