//! What one test happens in: a simulated cloud that nobody else shares, so that calls can be counted, and an agent of it.

use std::time::Duration;

use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::keys::Algorithm;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::Operation;
use tempfile::TempDir;

use crate::harness::agent::Agent;
use crate::harness::setup::{REGION, Setup};

/// What EKS's webhook asks of the kubelet.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(86_400);

/// A cloud, an agent, and the folder of their files.
pub(crate) struct World {
    pub(crate) cloud: Cloud,
    pub(crate) agent: Agent,
    _folder: TempDir,
}

impl World {
    /// With a ready agent.
    pub(crate) async fn start() -> Self {
        Self::with(|setup| setup).await
    }

    /// With a ready agent that is set up as `change` says.
    pub(crate) async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let mut world = Self::begin(cloud().await, change).await;
        world.agent.become_ready().await.unwrap();
        world
    }

    /// With an agent of `cloud` that may not be ready.
    pub(crate) async fn begin(cloud: Cloud, change: impl FnOnce(Setup) -> Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let setup = change(Setup::on_loopback(folder.path()).unwrap().of(&cloud));
        let agent = setup.spawn().unwrap();
        Self { cloud, agent, _folder: folder }
    }

    /// A good token of `pod`.
    pub(crate) fn token(&self, pod: &PodSpec) -> String {
        token(&self.cloud, pod)
    }

    /// Completes once `operation` has been asked for `least` times.
    pub(crate) async fn reached(&self, operation: Operation, least: usize) {
        within(Duration::from_secs(15), self.cloud.reached(operation, least)).await;
    }

    /// How often EKS Auth has been asked.
    pub(crate) fn exchanges(&self) -> usize {
        self.cloud.count(Operation::EksAuth)
    }
}

/// The outcome of `work`, which must come within `limit`.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.expect("it does not end")
}

/// A cloud whose keys take no time to make.
pub(crate) async fn cloud() -> Cloud {
    Cloud::start(config()).await.unwrap()
}

/// The configuration of such a cloud.
pub(crate) fn config() -> Config {
    Config { region: REGION.to_owned(), algorithm: Algorithm::Es256, ..Config::default() }
}

/// A good token of `pod`.
pub(crate) fn token(cloud: &Cloud, pod: &PodSpec) -> String {
    cloud.keys().token(pod, POD_IDENTITY_AUDIENCE, TOKEN_LIFE)
}

/// A pod of service account `default/app`, by its name.
pub(crate) fn pod(name: &str) -> PodSpec {
    PodSpec::new("default", "app", name)
}
