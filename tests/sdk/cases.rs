//! What is tried with every SDK. A case fails where credlet owes something whatever the SDK is; what differs by SDK is the
//! outcome that it returns, which the table of expectations holds.

use std::time::Duration;

use anyhow::{bail, ensure};
use credlet::sim::fault::Fault;
use credlet::sim::script::{Behaviour, Operation};
use serde::Deserialize;
use strum::{Display, EnumIter};

use crate::client::Sdk;
use crate::world::World;

/// How often an application is started until it has credentials, as a kubelet would, which waits longer between.
const RUNS: usize = 3;
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Between looks at the agent's metrics.
const POLL: Duration = Duration::from_millis(20);

/// The cases, as columns of the table name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumIter, Display)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Case {
    /// Nothing is cached anywhere.
    Cold,
    /// The kubelet rotates the token between two fetches.
    RotatedToken,
    /// AWS fails the first call only, which the agent's own second attempt hides.
    FailedOnce,
    /// AWS fails until an SDK has met a 503, and is well from then on.
    UnavailableThenWell,
    /// The token has expired.
    ExpiredToken,
    /// AWS takes three seconds, longer than an agent may keep an SDK waiting.
    SlowFirstCall,
    /// AWS fails for good, and then the token is rotated.
    DownAfterRotation,
}

impl Case {
    /// Tries it, and says what the SDK did.
    pub(crate) async fn outcome(self, sdk: Sdk) -> anyhow::Result<String> {
        let world = World::start(sdk, &self.to_string()).await?;
        match self {
            Self::Cold => cold(&world).await,
            Self::RotatedToken => rotated_token(&world).await,
            Self::FailedOnce => failed_once(&world).await,
            Self::UnavailableThenWell => unavailable_then_well(&world).await,
            Self::ExpiredToken => expired_token(&world).await,
            Self::SlowFirstCall => slow_first_call(&world).await,
            Self::DownAfterRotation => down_after_rotation(&world).await,
        }
    }
}

async fn cold(world: &World) -> anyhow::Result<String> {
    world.identity(&mut world.client()?).await?;
    world.ensure_exchanges(1)?;
    Ok("ok".to_owned())
}

async fn rotated_token(world: &World) -> anyhow::Result<String> {
    let mut client = world.client()?;
    let before = world.identity(&mut client).await?;
    world.rotate()?;
    ensure!(world.identity(&mut client).await? == before, "another session after the rotation");
    world.ensure_exchanges(1)?;
    Ok("ok".to_owned())
}

async fn failed_once(world: &World) -> anyhow::Result<String> {
    world.cloud.script().next(Operation::EksAuth, [Fault::service_unavailable().into()]);
    world.identity(&mut world.client()?).await?;
    world.ensure_exchanges(2)?;
    ensure!(world.agent.requests("unavailable").await? == 0, "the SDK met the failure");
    Ok("ok".to_owned())
}

async fn unavailable_then_well(world: &World) -> anyhow::Result<String> {
    world.cloud.script().always(Operation::EksAuth, Fault::service_unavailable().into());
    let mended = async {
        while world.agent.requests("unavailable").await? == 0 {
            tokio::time::sleep(POLL).await;
        }
        world.cloud.script().clear();
        Ok(())
    };
    let (outcome, ()) = tokio::try_join!(run_until_ok(world), mended)?;
    Ok(outcome)
}

async fn slow_first_call(world: &World) -> anyhow::Result<String> {
    world.cloud.script().next(Operation::EksAuth, [Behaviour::delayed(Duration::from_secs(3))]);
    let outcome = run_until_ok(world).await?;
    world.ensure_exchanges(1)?;
    Ok(outcome)
}

async fn down_after_rotation(world: &World) -> anyhow::Result<String> {
    let mut client = world.client()?;
    let before = world.identity(&mut client).await?;
    world.cloud.script().always(Operation::EksAuth, Fault::internal_server().into());
    world.rotate()?;
    ensure!(world.identity(&mut client).await? == before, "another session while AWS is down");
    Ok("ok".to_owned())
}

/// How much of the agent's answer the application sees.
async fn expired_token(world: &World) -> anyhow::Result<String> {
    let token = world.expire()?;
    let answer = world.agent.ask(&token).await?;
    let refusal: Refusal = serde_json::from_str(&answer.body)?;
    let Err(error) = world.client()?.fetch().await? else { bail!("credentials for an expired token") };
    world.ensure_exchanges(0)?;
    Ok(refusal.seen_in(answer.status, &error).to_owned())
}

/// Starts the application anew until it has credentials, and says in which run that was.
async fn run_until_ok(world: &World) -> anyhow::Result<String> {
    for run in 1..RUNS {
        if let Ok(identity) = world.client()?.fetch().await? {
            world.check(Ok(identity))?;
            return Ok(format!("ok in run {run}"));
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
    world.identity(&mut world.client()?).await?;
    Ok(format!("ok in run {RUNS}"))
}

/// The agent's error body.
#[derive(Deserialize)]
struct Refusal {
    code: String,
    message: String,
}

impl Refusal {
    fn seen_in(&self, status: u16, error: &str) -> &'static str {
        let parts = [(self.message.as_str(), "message"), (&self.code, "code"), (&status.to_string(), "status")];
        parts.into_iter().find(|(part, _)| error.contains(part)).map_or("nothing", |(_, name)| name)
    }
}
