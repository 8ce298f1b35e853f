//! All parts of an agent in this process beside a simulated cloud, over real sockets, with one clock for both that can be moved.
//!
//! Time is paused for the length of a jump only: in between sockets and timers work as ever, so a jump of hours costs nothing,
//! and what follows from it is waited for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use clap::Parser;
use credlet::app::{self, App};
use credlet::base::clock::Clock;
use credlet::config::Config;
use credlet::config::flags::ServerFlags;
use credlet::domain::mint::Mint;
use credlet::egress::aws::Aws;
use credlet::exchange::Exchanges;
use credlet::front::FrontError;
use credlet::observe::Context;
use credlet::sim::cloud::{self, Cloud};
use credlet::sim::pod::{NODE, PodSpec};
use credlet::sim::script::Operation;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::http::{self, Answer};
use crate::harness::setup::REGION;
use crate::world::{config, token, within};

/// Of `credlet server`.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    flags: ServerFlags,
}

/// The SDK signs by the clock of the laboratory.
#[derive(Debug)]
struct Time(Clock);

impl TimeSource for Time {
    fn now(&self) -> SystemTime {
        self.0.now().wall
    }
}

/// A cloud and an agent of it.
pub(crate) struct Laboratory {
    pub(crate) cloud: Cloud,
    pub(crate) app: App,
    pub(crate) context: Context,
    folder: TempDir,
}

impl Laboratory {
    /// With a ready agent.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let clock = clock();
        let cloud = Cloud::start(cloud::Config { clock: clock.clone(), ..config() }).await.unwrap();
        let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
        let laboratory = Self::with(clock, cloud, &[&[issuer.as_str()], flags].concat());
        laboratory.become_ready().await;
        laboratory
    }

    /// With an agent of `cloud` whose issuer is among `flags`. It may not be ready.
    pub(crate) fn with(clock: Clock, cloud: Cloud, flags: &[&str]) -> Self {
        Self::with_config(clock, cloud, flags, |_| ())
    }

    /// The same with a configuration that flags alone can't make here.
    pub(crate) fn with_config(clock: Clock, cloud: Cloud, flags: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        Self::build(clock, cloud, flags, |mut config, aws, context| {
            change(&mut config);
            App::start(config, aws, context)
        })
    }

    /// The same whose credentials come from what `wrap` makes of the real exchanges.
    pub(crate) fn with_mint<M: Mint>(clock: Clock, cloud: Cloud, flags: &[&str], wrap: impl FnOnce(Exchanges) -> M) -> Self {
        Self::build(clock, cloud, flags, |config, aws, context| {
            let access = app::access(&config, aws, &context);
            let (aws, budget) = (Arc::clone(&access.aws), access.budget.clone());
            let mint = wrap(Exchanges::new(config.exchange.clone(), aws, budget, context.clone()));
            App::start_with(Arc::new(mint), config, access, context)
        })
    }

    fn build<S>(clock: Clock, cloud: Cloud, flags: &[&str], start: S) -> Self
    where
        S: FnOnce(Config, Aws, Context) -> Result<App, FrontError>,
    {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = format!("--run-dir={}", folder.path().display());
        let endpoint = format!("--endpoint={}", cloud.eks_auth_url());
        let own = ["server", "--cluster-name=demo", "--bind-hosts=127.0.0.1", "--port=0", "--probe-port=0", "--metrics-port=0"];
        let line = [&own[..], &["--node-name", NODE, &run_dir, &endpoint], flags].concat();
        let config = Config::of_server(&Line::try_parse_from(line).unwrap().flags, &|_| None).unwrap();
        let context = Context::new(clock);
        let sdk = sdk_config(&config, &cloud, &context);
        let aws = Aws::with_config(config.https.clone(), &context.metrics, sdk);
        let app = start(config, aws, context.clone()).unwrap();
        Self { cloud, app, context, folder }
    }

    /// Waits until nothing is pending.
    pub(crate) async fn become_ready(&self) {
        self.wait_for(|laboratory| laboratory.context.readiness.pending().is_empty()).await;
    }

    /// Waits until `done`.
    pub(crate) async fn wait_for(&self, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(Duration::from_secs(15), wait).await;
    }

    /// Lets so much time pass at once.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    /// The agent's answer to `token`.
    pub(crate) async fn ask(&self, token: &str) -> Answer {
        http::get(self.app.addresses()[0], "/v1/credentials", &[("authorization", token)]).await.unwrap()
    }

    /// Its answer to a new token of `pod`.
    pub(crate) async fn ask_for(&self, pod: &PodSpec) -> Answer {
        self.ask(&token(&self.cloud, pod)).await
    }

    /// Its answer to a new token of `pod` at another path.
    pub(crate) async fn ask_at(&self, path: &str, pod: &PodSpec) -> Answer {
        http::get(self.app.addresses()[0], path, &[("authorization", &token(&self.cloud, pod))]).await.unwrap()
    }

    /// What `credlet status --json` prints.
    pub(crate) async fn status(&self) -> Value {
        let (_, document) = credlet::admin::status::ask(self.folder.path(), "/status").await.unwrap();
        serde_json::from_slice(&document).unwrap()
    }

    /// Whether the agent's metrics hold this line.
    pub(crate) fn shows(&self, line: &str) -> bool {
        self.context.metrics.encode().unwrap().lines().any(|shown| shown == line)
    }

    /// How often EKS Auth has been asked.
    pub(crate) fn exchanges(&self) -> usize {
        self.cloud.count(Operation::EksAuth)
    }
}

/// A clock that stands at the machine's time, for a cloud and its agent.
pub(crate) fn clock() -> Clock {
    Clock::simulated(Clock::System.now().wall)
}

fn sdk_config(config: &Config, cloud: &Cloud, context: &Context) -> SdkConfig {
    let (access_key_id, secret) = cloud.node_credentials();
    let credentials = Credentials::new(access_key_id, secret.expose(), None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(cloud.sts_url())
        .http_client(config.https.aws_http_client())
        .retry_config(RetryConfig::disabled())
        .time_source(SharedTimeSource::new(Time(context.clock.clone())))
        .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}
