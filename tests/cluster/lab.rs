//! The process that holds the cluster (`lab/`): it lives as long as its input, and says where things are.

use std::fs::File;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/lab");

/// It ends within this, or something holds it.
const END_LIMIT: Duration = Duration::from_secs(30);

/// What the cluster says about itself.
#[derive(Debug, Deserialize)]
pub(crate) struct Description {
    pub(crate) nodes: Vec<Node>,
    /// The command line of an admin's kubectl, to be run on the first node.
    pub(crate) kubectl: Vec<String>,
    /// The same of Helm.
    pub(crate) helm: Vec<String>,
    /// The virtual environment of Python with packages for tests: boto3, kubernetes-validate.
    pub(crate) python: String,
}

/// A node, which is a set of namespaces.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Of its first process.
    pub(crate) pid: u32,
    /// At which its own pods reach it.
    pub(crate) address: IpAddr,
}

impl Node {
    /// Its network namespace.
    pub(crate) fn network(&self) -> anyhow::Result<File> {
        Ok(File::open(format!("/proc/{}/ns/net", self.pid))?)
    }

    /// A command in the node's mounts, network and process namespaces.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid)).args(["--mount", "--net", "--pid", "--", program]).kill_on_drop(true);
        command
    }
}

/// The running process.
pub(crate) struct Lab {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Lab {
    /// Starts a cluster, after having made what it needs. One runs at a time on a machine: others wait.
    pub(crate) async fn start(nodes: usize) -> anyhow::Result<(Self, Description)> {
        let mut command = Command::new("python3");
        command.arg(LAB).arg("up").arg(format!("--nodes={nodes}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("start python3")?;
        let orders = process.stdin.take().context("no input")?;
        let answers = BufReader::new(process.stdout.take().context("no output")?).lines();
        let mut lab = Self { process, orders, answers };
        let description = lab.answer().await.context("the cluster does not start; what it said is above")?;
        Ok((lab, serde_json::from_str(&description)?))
    }

    /// Has the lab do something, and returns when it is done.
    pub(crate) async fn order(&mut self, order: &str) -> anyhow::Result<()> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await?;
        let answer = self.answer().await?;
        ensure!(answer == "done", "{order}: {answer}");
        Ok(())
    }

    /// Ends the cluster and everything in it.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self { mut process, orders, answers } = self;
        drop((orders, answers));
        let status = tokio::time::timeout(END_LIMIT, process.wait()).await.context("the cluster does not end")??;
        ensure!(status.success(), "the cluster ended: {status}");
        Ok(())
    }

    async fn answer(&mut self) -> anyhow::Result<String> {
        self.answers.next_line().await?.context("the lab has ended")
    }
}
