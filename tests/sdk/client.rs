//! One AWS SDK as a process of its own, with the environment that a pod has and nothing of this machine's.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use strum::{Display, EnumIter};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The argument by which this binary becomes the Rust client.
pub(crate) const RUST_CLIENT: &str = "rust-client";

/// Far more than any of these SDKs spends on one fetch, retries and all; the longest is botocore's nine seconds.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// The SDKs, as rows of the table name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumIter, Display)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Sdk {
    Boto3,
    Cli,
    JavaScript,
    Go,
    Java,
    Rust,
    Crt,
    Cpp,
}

/// What one call came to: an identity, or the whole error as the application sees it.
pub(crate) type Fetched = Result<Identity, String>;

/// Whom a call was taken for: by STS, or by the access key alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Identity {
    pub(crate) arn: Option<String>,
    pub(crate) access_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Error { error: String },
    Identity(Identity),
}

/// A running client. Dropping it kills it.
pub(crate) struct Client {
    _process: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts a client with these variables, by `spawn`; what it writes to standard error goes to a file in `home`.
    pub(crate) fn start(
        mut command: Command,
        home: &Path,
        variables: &[(&str, &str)],
        spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> anyhow::Result<Self> {
        let errors = std::fs::File::options().create(true).append(true).open(home.join("client.log"))?;
        command.envs(variables.iter().copied()).env("HOME", home).current_dir(home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut process = spawn(&mut command).context("start the client")?;
        let requests = process.stdin.take().context("no standard input")?;
        let answers = BufReader::new(process.stdout.take().context("no standard output")?).lines();
        Ok(Self { _process: process, requests, answers })
    }

    /// Asks for one call by a new credential chain, and waits for its end.
    pub(crate) async fn fetch(&mut self) -> anyhow::Result<Fetched> {
        self.call("fetch").await
    }

    /// The same by the chain of the call before.
    pub(crate) async fn reuse(&mut self) -> anyhow::Result<Fetched> {
        self.call("use").await
    }

    async fn call(&mut self, request: &str) -> anyhow::Result<Fetched> {
        let line = self.ask(request).await?;
        Ok(match serde_json::from_str(&line).with_context(|| format!("an answer out of protocol: {line}"))? {
            Answer::Identity(identity) => Ok(identity),
            Answer::Error { error } => Err(error),
        })
    }

    /// Sends one line and waits for the one that answers it.
    pub(crate) async fn ask(&mut self, request: &str) -> anyhow::Result<String> {
        self.requests.write_all(format!("{request}\n").as_bytes()).await.context("write to the client")?;
        let line = tokio::time::timeout(FETCH_LIMIT, self.answers.next_line()).await.context("the client hangs")?;
        line?.context("the client ended without an answer")
    }
}

impl Sdk {
    /// The client's program and arguments with an environment that holds nothing but PATH.
    pub(crate) fn command(self) -> anyhow::Result<Command> {
        match self {
            Self::Boto3 => script("python", "python/boto.py"),
            Self::Cli => script("python", "python/cli.py"),
            Self::JavaScript => node(),
            Self::Go => Ok(clean(installed("go")?.join("client"))),
            Self::Java => java(),
            Self::Rust => rust(),
            Self::Crt => script("crt", "python/crt.py"),
            Self::Cpp => script("cpp", "python/cpp.py"),
        }
    }
}

/// A script of `clients/` under the Python that is installed as `name`.
pub(crate) fn script(name: &str, script: &str) -> anyhow::Result<Command> {
    let mut command = clean(installed(name)?.join(".venv/bin/python"));
    command.arg(source(script));
    Ok(command)
}

fn node() -> anyhow::Result<Command> {
    let mut command = clean("node");
    command.arg(source("javascript/client.cjs")).env("NODE_PATH", installed("javascript")?.join("node_modules"));
    Ok(command)
}

/// A JVM set to start fast.
fn java() -> anyhow::Result<Command> {
    let folder = installed("java")?;
    let class_path = format!("{0}/lib/*:{0}/classes", folder.display());
    let mut command = clean("java");
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &class_path, "Client"]);
    Ok(command)
}

fn rust() -> anyhow::Result<Command> {
    let mut command = clean(std::env::current_exe()?);
    command.arg(RUST_CLIENT);
    Ok(command)
}

fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/clients").join(file)
}

/// Where `tests/sdk/install` has put `name`.
fn installed(name: &str) -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("CREDLET_CACHE").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let folder = std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join(cache))?.join("sdk").join(name);
    ensure!(folder.join(".installed").exists(), "{name} is not installed: run tests/sdk/install");
    Ok(folder)
}
