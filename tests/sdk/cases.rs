//! What is tried with every SDK. A case fails where credlet owes something whatever the SDK is; what differs by SDK is the
//! outcome that it returns, which the table of expectations holds.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use credlet::sim::fault::Fault;
use credlet::sim::script::{Behaviour, Operation};
use serde::Deserialize;
use strum::{Display, EnumIter};

use crate::client::Fetched;
use crate::world::World;

/// How often an application is started until it has credentials, as a kubelet would, which waits longer between.
const RUNS: usize = 3;
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Between looks at the agent's metrics.
const POLL: Duration = Duration::from_millis(20);

/// For so long nobody serves when an agent is exchanged: what a rollout of the chart takes on a real kubelet.
const GAP: Duration = Duration::from_secs(2);

/// Sessions that most SDKs think are about to end, and the agent serves.
const SHORT_SECONDS: i64 = 240;

/// A fetch in the background begins with the call that needed it, and is at the agent long before this.
const BACKGROUND_LIMIT: Duration = Duration::from_secs(1);

/// What a pod of an IPv6 cluster is told.
const IPV6_URL: (&str, &str) = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://[fd00:ec2::23]/v1/credentials");

/// As EKS has it said to containers with a proxy.
const NO_PROXY: &str = "169.254.170.23,fd00:ec2::23";

/// The cases, as rows of the table name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumIter, Display)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Case {
    /// Nothing is cached anywhere.
    Cold,
    /// The same at the IPv6 address.
    ColdIpv6,
    /// The kubelet rotates the token between two fetches.
    RotatedToken,
    /// The session has four minutes to live.
    ShortSession,
    /// AWS fails the first call only, which the agent's own second attempt hides.
    FailedOnce,
    /// AWS fails until an SDK has met a 503, and is well from then on.
    UnavailableThenWell,
    /// AWS takes three seconds, longer than an agent may keep an SDK waiting.
    SlowFirstCall,
    /// AWS fails for good, and then the token is rotated.
    DownAfterRotation,
    /// A fetch begins when the agent has ended, and the next one is not there yet.
    AgentRestarted,
    /// The token has expired.
    ExpiredToken,
    /// The service account has no association.
    Denied,
    /// The pod is told to use a proxy for everything.
    Proxy,
    /// The pod is told to use a proxy, but not for the agent.
    ProxyExcepted,
}

impl Case {
    /// Tries it, and says what the SDK did.
    pub(crate) async fn outcome(self, world: World) -> anyhow::Result<String> {
        match self {
            Self::Cold => cold(&world).await,
            Self::ColdIpv6 => cold_ipv6(&world).await,
            Self::RotatedToken => rotated_token(&world).await,
            Self::ShortSession => short_session(&world).await,
            Self::FailedOnce => failed_once(&world).await,
            Self::UnavailableThenWell => unavailable_then_well(&world).await,
            Self::SlowFirstCall => slow_first_call(&world).await,
            Self::DownAfterRotation => down_after_rotation(&world).await,
            Self::AgentRestarted => agent_restarted(world).await,
            Self::ExpiredToken => expired_token(&world).await,
            Self::Denied => denied(&world).await,
            Self::Proxy => proxy(&world).await,
            Self::ProxyExcepted => proxy_excepted(&world).await,
        }
    }
}

async fn cold(world: &World) -> anyhow::Result<String> {
    world.identity(&mut world.client()?).await?;
    world.ensure_exchanges(1)?;
    Ok("ok".to_owned())
}

async fn cold_ipv6(world: &World) -> anyhow::Result<String> {
    let fetched = world.client_with(&[IPV6_URL])?.fetch().await?;
    if fetched.is_err() && world.agent.all_requests().await? == 0 {
        return Ok("never asks".to_owned());
    }
    world.check(fetched)?;
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

async fn short_session(world: &World) -> anyhow::Result<String> {
    world.cloud.script().next(Operation::EksAuth, [Behaviour::ExpiresIn(SHORT_SECONDS)]);
    let mut client = world.client()?;
    world.identity(&mut client).await?;
    world.check(client.reuse().await?)?;
    let again = tokio::time::timeout(BACKGROUND_LIMIT, until(async || Ok(world.agent.all_requests().await? > 1))).await;
    Ok(again.map_or("keeps it", |_| "fetches again").to_owned())
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
        until(async || Ok(world.agent.requests("unavailable").await? > 0)).await?;
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

async fn agent_restarted(mut world: World) -> anyhow::Result<String> {
    let mut client = world.client()?;
    world.identity(&mut client).await?;
    world.agent.stop().await?;
    let (fetched, ()) = tokio::try_join!(client.fetch(), world.start_agent_after(GAP))?;
    let outcome = match fetched {
        Ok(identity) => world.check(Ok(identity)).map(|_| "ok in run 1")?,
        Err(_) => world.identity(&mut world.client()?).await.map(|_| "ok in run 2")?,
    };
    // What the first agent held is lost with it.
    world.ensure_exchanges(2)?;
    Ok(outcome.to_owned())
}

async fn expired_token(world: &World) -> anyhow::Result<String> {
    world.expire()?;
    let seen = refused(world).await?;
    world.ensure_exchanges(0)?;
    // The last request was not the SDK's.
    let tries = world.agent.all_requests().await?.saturating_sub(1);
    Ok(format!("{seen} ({tries})"))
}

async fn denied(world: &World) -> anyhow::Result<String> {
    world.dissociate();
    refused(world).await
}

async fn proxy(world: &World) -> anyhow::Result<String> {
    let proxy = world.proxy().await?;
    let url = format!("http://{}", proxy.address);
    let fetched = world.client_with(&[("HTTP_PROXY", &url), ("http_proxy", &url)])?.fetch().await?;
    let token = world.token()?;
    if proxy.heads().iter().any(|head| head.contains(&token)) {
        ensure!(fetched.is_err() && world.agent.refusals("proxied").await? > 0, "served through a proxy: {fetched:?}");
        return Ok("token to the proxy, 403".to_owned());
    }
    world.check(fetched)?;
    Ok("past it".to_owned())
}

async fn proxy_excepted(world: &World) -> anyhow::Result<String> {
    let proxy = world.proxy().await?;
    let url = format!("http://{}", proxy.address);
    let variables = [("HTTP_PROXY", url.as_str()), ("http_proxy", &url), ("NO_PROXY", NO_PROXY), ("no_proxy", NO_PROXY)];
    world.identity(&mut world.client_with(&variables)?).await?;
    let token = world.token()?;
    ensure!(!proxy.heads().iter().any(|head| head.contains(&token)), "the token went to the proxy");
    Ok("past it".to_owned())
}

/// How much of the agent's refusal the application sees, all of whose tries cost one call to EKS Auth at most.
async fn refused(world: &World) -> anyhow::Result<String> {
    let Fetched::Err(error) = world.client()?.fetch().await? else { bail!("credentials") };
    let calls = world.cloud.count(Operation::EksAuth);
    ensure!(calls <= 1, "{calls} calls to EKS Auth");
    let answer = world.agent.ask(&world.token()?).await?;
    let refusal: Refusal = serde_json::from_str(&answer.body).context("no refusal")?;
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

async fn until(done: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    while !done().await? {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
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
