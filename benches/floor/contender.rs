//! The child: one contender on one CPU. It says where it listens, then, at each line it is sent, how often it has allocated.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use credlet::base::clock::Clock;
use credlet::observe::Context;
use strum::{EnumIter, EnumString, IntoStaticStr};
use tokio::net::TcpListener;

use crate::{ALLOCATOR, agent, constant, cpu, parts};

/// As many as `credlet server` has.
const WORKERS: usize = 2;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Contender {
    /// hyper with a constant answer.
    Floor,
    /// The agent's front over its broker.
    Credlet,
}

/// Serves until standard input ends.
pub(crate) fn run(contender: Contender, key_set: &Path, cpu: usize) -> anyhow::Result<()> {
    cpu::pin(cpu)?;
    let name: &str = contender.into();
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name(name).worker_threads(WORKERS).enable_all().build()?;
    let address = runtime.block_on(async {
        match contender {
            Contender::Floor => serve_constant().await,
            Contender::Credlet => serve_agent(key_set),
        }
    })?;
    let mut out = std::io::stdout();
    writeln!(out, "{address}")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", ALLOCATOR.stats().allocations)?;
    }
    Ok(())
}

async fn serve_constant() -> anyhow::Result<SocketAddr> {
    let document = parts::credential(Clock::System.now())?.document();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(accept(listener, document));
    Ok(address)
}

async fn accept(listener: TcpListener, document: Bytes) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(constant::serve(stream, document.clone()));
    }
}

fn serve_agent(key_set: &Path) -> anyhow::Result<SocketAddr> {
    let context = Context::new(Clock::System);
    let front = agent::front(&context)?;
    let address = front.listeners().addresses().first().copied().context("it does not listen")?;
    front.serve(agent::broker(key_set, &context)?);
    Ok(address)
}
