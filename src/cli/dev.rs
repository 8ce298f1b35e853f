//! `credlet dev`: the same agent on loopback, with a simulated cluster and AWS, for a first look and for a laptop.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser};
use tracing::level_filters::LevelFilter;

use crate::app::App;
use crate::base::clock::Clock;
use crate::cli::server::{runtime, stop_signal};
use crate::config::Config;
use crate::config::flags::ServerFlags;
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::egress::aws::Aws;
use crate::observe::Context;
use crate::observe::logging::{self, Format};
use crate::sim::cloud::{self, Cloud, Conditions};
use crate::sim::kubelet::Kubelet;
use crate::sim::pod::{NODE, PodSpec};

/// A projected token lives so long, and is replaced at 80 % of it: the kubelet's own shortest.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// What `credlet dev` can be told.
#[derive(Debug, Args)]
pub(super) struct DevFlags {
    /// Port of the credentials endpoint on 127.0.0.1; 0 lets the system choose
    #[arg(short, long, default_value_t = 9911)]
    port: u16,
    /// How long the simulated AWS lets credentials live (6h, 15m), from 2m to 12h
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = lifetime)]
    lifetime: Duration,
    /// How long each call to the simulated AWS takes (200ms, 3s)
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Share of calls to the simulated AWS that fail, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = share)]
    fail: f64,
}

/// `credlet server`'s flags as a command of their own, for its defaults.
#[derive(Debug, Parser)]
struct Server {
    #[command(flatten)]
    flags: ServerFlags,
}

pub(super) fn main(flags: &DevFlags) -> anyhow::Result<ExitCode> {
    logging::init(logging::Config { level: LevelFilter::DEBUG, format: Format::Text })?;
    runtime()?.block_on(run(flags))
}

async fn run(flags: &DevFlags) -> anyhow::Result<ExitCode> {
    let conditions = Conditions { lifetime: flags.lifetime, latency: flags.latency, fail_rate: flags.fail };
    let cloud = Cloud::start(cloud::Config { conditions, ..cloud::Config::default() }).await?;
    let folder = tempfile::Builder::new().prefix("credlet-dev-").tempdir()?;
    let token_file = folder.path().join("eks-pod-identity-token");
    let pod = PodSpec::new("default", "demo", "demo-pod");
    let _kubelet = Kubelet::project(cloud.keys(), pod, POD_IDENTITY_AUDIENCE, TOKEN_LIFETIME, &token_file)?;
    let app = start(flags, &cloud, folder.path())?;
    let served = until_told_to_stop(&app, &cloud, folder.path(), &token_file).await;
    app.stop().await;
    served.map(|()| ExitCode::SUCCESS)
}

async fn until_told_to_stop(app: &App, cloud: &Cloud, folder: &Path, token_file: &Path) -> anyhow::Result<()> {
    let address = *app.addresses().first().context("the port is taken: choose another one with --port")?;
    std::io::stdout().write_all(instructions(address, cloud, folder, token_file).as_bytes())?;
    let signal = stop_signal().await?;
    tracing::info!(signal, "told to stop");
    Ok(())
}

fn start(flags: &DevFlags, cloud: &Cloud, folder: &Path) -> anyhow::Result<App> {
    let config = config(flags, cloud, folder)?;
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

fn config(flags: &DevFlags, cloud: &Cloud, folder: &Path) -> anyhow::Result<Config> {
    let port = flags.port.to_string();
    let issuer = format!("{}={}", cloud.issuer(), cloud.jwks_url());
    let run_dir = folder.to_string_lossy();
    let host = Ipv4Addr::LOCALHOST.to_string();
    let line = [
        "credlet",
        "--cluster-name",
        "demo",
        "--bind-hosts",
        &host,
        "--port",
        &port,
        "--probe-port",
        "0",
        "--metrics-port",
        "0",
        "--issuer",
        &issuer,
        "--endpoint",
        cloud.eks_auth_url(),
        "--node-name",
        NODE,
        "--run-dir",
        &run_dir,
    ];
    let server = Server::from_arg_matches(&command().try_get_matches_from(line)?)?;
    Ok(Config::of_server(&server.flags, &|_| None)?)
}

/// It obeys no variable: a `CREDLET_…` of the shell is meant for another agent.
fn command() -> Command {
    Server::command().mut_args(|flag| flag.env(None))
}

/// What to type in another shell.
fn instructions(address: SocketAddr, cloud: &Cloud, folder: &Path, token_file: &Path) -> String {
    let (uri, token_file) = (format!("http://{address}/v1/credentials"), token_file.display());
    format!(
        "# A pod of a simulated cluster has its token in a file; the agent trades it at a simulated AWS. In another shell:
export AWS_CONTAINER_CREDENTIALS_FULL_URI={uri}
export AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE={token_file}
export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
export AWS_ENDPOINT_URL_STS={sts}
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost
# What you have at home comes before a container's credentials in every SDK, so hide it there:
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_WEB_IDENTITY_TOKEN_FILE

# Then any SDK works, and so does curl:
#   aws sts get-caller-identity
#   curl -sH \"Authorization: $(cat {token_file})\" {uri}
#   credlet status --run-dir {run_dir}
# Each request is a line below, each credential issued an audit line. Ctrl-C ends it.
",
        sts = cloud.sts_url(),
        run_dir = folder.display(),
    )
}

/// Nothing with 60 s or less is served, and no role of AWS allows more than 12 h.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(2 * 60)..=Duration::from_secs(12 * 3600);
    if allowed.contains(&lifetime) { Ok(lifetime) } else { Err(format!("{text} is not between 2m and 12h")) }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text} is not between 0 and 1")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_of_the_shell_is_obeyed() {
        assert!(command().get_arguments().count() > 10);
        assert!(command().get_arguments().all(|flag| flag.get_env().is_none()));
    }
}
