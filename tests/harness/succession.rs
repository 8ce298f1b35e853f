//! One agent of a node after the other, by handover, while clients ask without a pause and never again.

use std::time::Duration;

use anyhow::{Context, ensure};
use credlet::base::clock::Clock;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::calls::Call;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::pod::PodSpec;
use credlet::sim::script::Operation;
use tempfile::TempDir;

use crate::harness::agent::Agent;
use crate::harness::asker::{Asked, Asker, Asking, Connections};
use crate::harness::setup::{REGION, Setup};

const TOKEN_LIFE: Duration = Duration::from_secs(86_400);
const POLL: Duration = Duration::from_millis(5);
/// No share of all requests takes longer.
const LIMIT: Duration = Duration::from_secs(180);

/// An agent under load, and those that follow it.
pub(crate) struct Succession {
    cloud: Cloud,
    setup: Setup,
    agent: Agent,
    askers: Vec<Asker>,
    /// To AWS, until every client had its credentials.
    calls: usize,
    handovers: Vec<Duration>,
    _folder: TempDir,
}

/// What its clients saw.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    pub(crate) last_failure: String,
    /// To AWS, beyond those for the clients' first credentials.
    pub(crate) calls: Vec<Call>,
    /// From an answer to the next, of every client, in ascending order.
    pub(crate) pauses: Vec<Duration>,
    /// From the start of each next agent until it was ready, in ascending order.
    pub(crate) handovers: Vec<Duration>,
}

impl Succession {
    /// Starts the first agent, and so many clients, each a pod of its own: one half by a connection a request, one by one that it
    /// keeps. All have had their credentials when this returns.
    pub(crate) async fn start(clients: usize) -> anyhow::Result<Self> {
        let (folder, cloud) =
            (tempfile::tempdir()?, Cloud::start(Config { region: REGION.to_owned(), ..Config::default() }).await?);
        // They are quicker than a pod may be, and all of them new at once.
        let setup = Setup::on_loopback(folder.path())?.of(&cloud).flag("pod-rate", 1_000_000).flag("max-service-qps", clients);
        let setup = setup.with_handover()?;
        let agent = setup.start().await?;
        let mut succession = Self { cloud, setup, agent, askers: Vec::new(), calls: 0, handovers: Vec::new(), _folder: folder };
        for number in 0..clients {
            let client = succession.client(number);
            // The machine may be too busy for a first answer in time: the next one has it.
            let served = async |agent: &mut Agent| Ok(agent.ask(&client.token).await?.status == 200);
            succession.agent.wait_for(served).await?;
            succession.askers.push(Asker::start(client));
        }
        succession.calls = calls_to_aws(&succession.cloud).len();
        Ok(succession)
    }

    fn client(&self, number: usize) -> Asking {
        let pod = PodSpec::new("default", "app", &format!("app-{number}"));
        let token = self.cloud.keys().token(&pod, POD_IDENTITY_AUDIENCE, TOKEN_LIFE);
        let connections = if number.is_multiple_of(2) { Connections::Kept } else { Connections::Each };
        Asking { address: self.setup.addresses().credentials, token, connections, pause: Duration::ZERO }
    }

    /// Starts the next agent, and ends the one before once that stands by.
    pub(crate) async fn hand_over(&mut self) -> anyhow::Result<()> {
        let begin = Clock::System.now().mono;
        let next = self.setup.follow(&self.handovers.len().to_string()).await?;
        self.handovers.push(Clock::System.now().mono - begin);
        std::mem::replace(&mut self.agent, next).stop().await.map(drop)
    }

    /// Waits until the clients have asked so often, all together.
    pub(crate) async fn wait_for_requests(&self, requests: usize) -> anyhow::Result<()> {
        let all = || self.askers.iter().map(|asker| asker.so_far(|asked| asked.served + asked.failed)).sum::<usize>();
        let waiting = async {
            while all() < requests {
                tokio::time::sleep(POLL).await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, waiting).await;
        waited.with_context(|| format!("{} of {requests} requests so far; {}", all(), self.agent.log()))
    }

    /// Ends all. Credentials of another client are an error.
    pub(crate) fn stop(mut self) -> anyhow::Result<Outcome> {
        self.handovers.sort_unstable();
        let asked = self.askers.into_iter().map(Asker::stop).collect::<anyhow::Result<Vec<Asked>>>()?;
        let failures = asked.iter().map(|asked| &asked.last_failure);
        let micros = asked.iter().flat_map(|asked| &asked.pauses);
        let mut pauses: Vec<Duration> = micros.map(|micros| Duration::from_micros(u64::from(*micros))).collect();
        pauses.sort_unstable();
        Ok(Outcome {
            requests: asked.iter().map(|asked| asked.served + asked.failed).sum(),
            failed: asked.iter().map(|asked| asked.failed).sum(),
            last_failure: failures.max_by_key(|failure| failure.len()).cloned().unwrap_or_default(),
            calls: calls_to_aws(&self.cloud).split_off(self.calls),
            pauses,
            handovers: self.handovers,
        })
    }
}

impl Outcome {
    /// Nobody noticed anything.
    pub(crate) fn is_without_loss(&self, requests: usize) -> anyhow::Result<()> {
        let Self { requests: asked, failed, last_failure, calls, .. } = self;
        ensure!(*failed == 0, "{failed} of {asked} failed: {last_failure}");
        ensure!(calls.is_empty(), "{} calls to AWS: {calls:?}", calls.len());
        ensure!(*asked >= requests, "{asked} requests");
        Ok(())
    }
}

/// The one that this share of all is not longer than, of those in ascending order.
pub(crate) fn quantile(ascending: &[Duration], of_thousand: usize) -> Duration {
    let place = (ascending.len() * of_thousand / 1000).min(ascending.len().saturating_sub(1));
    ascending.get(place).copied().unwrap_or_default()
}

/// All but those for the issuer's keys, which every agent reads for itself.
fn calls_to_aws(cloud: &Cloud) -> Vec<Call> {
    cloud.calls().into_iter().filter(|call| call.operation != Operation::Jwks).collect()
}
