//! The simulated AWS of one node: on loopback in the node's network, where only its agent reaches it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use anyhow::Context;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::keys::Algorithm;
use nix::sched::{CloneFlags, setns};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::harness::setup::REGION;
use crate::lab::Node;

/// Starts a cloud in the network of `node`. It serves for as long as this process lives.
pub(crate) async fn start(node: &Node) -> anyhow::Result<Arc<Cloud>> {
    let namespace = File::open(format!("/proc/{}/ns/net", node.pid))?;
    let (sender, started) = oneshot::channel();
    // A network namespace is a thread's own: the cloud's sockets are made on this one, and so must all its connections be.
    std::thread::spawn(move || serve(namespace, sender));
    Ok(Arc::new(started.await.context("the thread of the cloud has ended")??))
}

fn serve(namespace: File, started: oneshot::Sender<io::Result<Cloud>>) {
    let serving = || -> io::Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let config = Config { region: REGION.to_owned(), algorithm: Algorithm::Es256, ..Config::default() };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let _ = started.send(Cloud::start(config).await);
            std::future::pending().await
        })
    };
    if let Err(error) = serving() {
        eprintln!("no cloud: {error}");
    }
}
