//! What a pod notices of what another one does to the agent of their node.

use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use credlet::base::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::abuse::Place;
use crate::harness::owner::Owner;

/// It asks so often, on one connection and on a new one in turn.
const BETWEEN_ASKS: Duration = Duration::from_millis(5);

/// What it noticed.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) asked: usize,
    pub(crate) failed: usize,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

impl Notice {
    fn new(mut took: Vec<Duration>, failed: usize) -> Self {
        took.sort_unstable();
        let last = took.len().saturating_sub(1);
        let at = |percent: usize| took.get((last * percent).div_ceil(100)).copied().unwrap_or_default();
        Self { asked: took.len(), failed, median: at(50), p99: at(99), longest: at(100) }
    }
}

impl Place {
    /// Asks for credentials from here for so long. Those of somebody else are an error.
    pub(crate) async fn ask_for(&self, time: Duration) -> anyhow::Result<Notice> {
        let thread = self.spawn(async move |place| place.asks(time).await);
        tokio::task::spawn_blocking(|| thread.join()).await?.map_err(|_| anyhow!("the neighbour has panicked"))?
    }

    async fn asks(&self, time: Duration) -> anyhow::Result<Notice> {
        let (clock, request) = (Clock::System, self.request("/v1/credentials", &self.token));
        let mut owner = Owner::of(&self.token).context("a token of no pod")?;
        let mut kept = self.connect().await?;
        let mut ticks = interval(BETWEEN_ASKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut took, mut failed, end) = (Vec::new(), 0, clock.now().mono + time);
        while clock.now().mono < end {
            ticks.tick().await;
            let asked = clock.now().mono;
            let answered = if took.len() % 2 == 0 {
                ask(&mut kept, &request).await
            } else {
                match self.connect().await {
                    Ok(mut stream) => ask(&mut stream, &request).await,
                    Err(error) => Err(error),
                }
            };
            took.push(clock.now().mono - asked);
            match answered {
                Ok((200, document)) if owner.owns(&document) => (),
                Ok((200, _)) => bail!("credentials of somebody else"),
                _ => failed += 1,
            }
        }
        Ok(Notice::new(took, failed))
    }
}

/// Status and body of the answer, all of which has come.
async fn ask(stream: &mut TcpStream, request: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 8_192]);
    // A document of credentials and an error both end so, and nothing before their end does.
    while !answer.ends_with(b"\"}") {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "closed");
        answer.extend_from_slice(&buffer[..read]);
    }
    let (head, body) = std::str::from_utf8(&answer)?.split_once("\r\n\r\n").context("no head")?;
    Ok((head.get(9..12).context("no status")?.parse()?, body.into()))
}
