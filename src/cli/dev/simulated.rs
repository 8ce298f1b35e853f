//! `credlet dev` alone: a pod of a simulated cluster, and a simulated AWS.

use std::net::SocketAddr;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

use crate::app::App;
use crate::base::clock::Clock;
use crate::cli::dev::{DevFlags, Folder, config, exports, serve};
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::egress::aws::Aws;
use crate::observe::Context;
use crate::sim::cloud::{self, Cloud, Conditions};
use crate::sim::kubelet::Kubelet;
use crate::sim::pod::PodSpec;

/// A projected token lives so long, and is replaced at 80 % of it: the kubelet's own shortest.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

pub(super) async fn run(flags: &DevFlags) -> anyhow::Result<()> {
    let conditions =
        Conditions { lifetime: flags.lifetime, latency: flags.latency, fail_rate: flags.fail, ..Conditions::default() };
    let cloud = Cloud::start(cloud::Config { conditions, ..cloud::Config::default() }).await?;
    let folder = Folder::new()?;
    let pod = PodSpec::new("default", "demo", "demo-pod");
    let _kubelet = Kubelet::project(cloud.keys(), pod, POD_IDENTITY_AUDIENCE, TOKEN_LIFETIME, &folder.token_file())?;
    serve(start(flags, &cloud, &folder)?, |address| instructions(address, &cloud, &folder)).await
}

fn start(flags: &DevFlags, cloud: &Cloud, folder: &Folder) -> anyhow::Result<App> {
    let issuer = format!("{}={}", cloud.issuer(), cloud.jwks_url());
    let config = config(flags, folder, &issuer, &["--endpoint", cloud.eks_auth_url()], &|_| None)?;
    let context = Context::new(Clock::System);
    let (access_key_id, secret) = cloud.node_credentials();
    let credentials = Credentials::new(access_key_id, secret.expose(), None, None, "credlet dev");
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(cloud::Config::default().region))
        .http_client(config.https.aws_http_client())
        .retry_config(RetryConfig::disabled())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    let aws = Aws::with_config(config.https.clone(), &context.metrics, sdk);
    Ok(App::start(config, aws, context)?)
}

/// What to type in another shell.
fn instructions(address: SocketAddr, cloud: &Cloud, folder: &Folder) -> String {
    let sts = format!("export AWS_ENDPOINT_URL_STS={}\n", cloud.sts_url());
    format!(
        "# A pod of a simulated cluster has its token in a file; the agent trades it at a simulated AWS. In another shell:
{exports}#   credlet status --run-dir {run_dir}
# Each request is a line below, each credential issued an audit line. Ctrl-C ends it.
",
        exports = exports(address, &folder.token_file(), &cloud::Config::default().region, &sts),
        run_dir = folder.path().display(),
    )
}
