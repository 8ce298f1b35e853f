//! `credlet dev`: the same agent on loopback, for a first look and for a laptop. By default its cluster and AWS are simulated; with
//! `--profile` it serves the developer's own credentials.

mod profile;
mod simulated;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser};
use tempfile::TempDir;
use tracing::level_filters::LevelFilter;

use crate::app::App;
use crate::cli::server::{run, stop_signal};
use crate::config::Config;
use crate::config::flags::ServerFlags;
use crate::domain::policy::RoleArn;
use crate::egress::Lookup;
use crate::node::link::HOSTS;
use crate::observe::logging::{self, Format};
use crate::sim::pod::NODE;

/// What `credlet dev` can be told.
#[derive(Debug, Args)]
pub(super) struct DevFlags {
    /// Port of the credentials endpoint; 0 lets the system choose
    #[arg(short, long, default_value_t = 9911)]
    port: u16,
    /// Addresses to serve on: of loopback, 169.254.170.23 and `fd00:ec2::23`
    #[arg(short, long, value_name = "ADDRESS", value_delimiter = ',', default_value = "127.0.0.1", value_parser = host)]
    bind_hosts: Vec<IpAddr>,
    /// Serve the credentials of this AWS profile, of any kind, in place of simulated ones
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Serve this role, which the profile may assume
    #[arg(long, value_name = "ARN", requires = "profile", value_parser = RoleArn::parse)]
    role_arn: Option<RoleArn>,
    /// How long the simulated AWS lets credentials live (6h, 15m), from 2m to 12h
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = lifetime, conflicts_with = "profile")]
    lifetime: Duration,
    /// How long each call to the simulated AWS takes (200ms, 3s)
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = humantime::parse_duration,
        conflicts_with = "profile"
    )]
    latency: Duration,
    /// Share of calls to the simulated AWS that fail, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = share, conflicts_with = "profile")]
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
    run(async {
        match &flags.profile {
            Some(profile) => profile::run(flags, profile).await,
            None => simulated::run(flags).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The files of this process; they go with it.
struct Folder(TempDir);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("credlet-dev-").tempdir()?;
        std::fs::create_dir(folder.path().join("token"))?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// In a folder of its own, which a container can mount: each new token is a new file.
    fn token_file(&self) -> PathBuf {
        self.path().join("token").join("eks-pod-identity-token")
    }
}

/// The agent of a cluster whose issuer is `issuer`, as `--issuer` takes it.
fn config(flags: &DevFlags, folder: &Folder, issuer: &str, more: &[&str], variable: Lookup<'_>) -> anyhow::Result<Config> {
    let hosts: Vec<String> = flags.bind_hosts.iter().map(ToString::to_string).collect();
    let (hosts, port, run_dir) = (hosts.join(","), flags.port.to_string(), folder.path().to_string_lossy());
    let own = ["--bind-hosts", &hosts, "--port", &port, "--run-dir", &run_dir, "--issuer", issuer, "--node-name", NODE];
    let fixed = ["credlet", "--cluster-name", "demo", "--probe-port", "0", "--metrics-port", "0"];
    let server = Server::from_arg_matches(&command().try_get_matches_from([&fixed[..], &own, more].concat())?)?;
    let mut config = Config::of_server(&server.flags, variable)?;
    config.front.only_local = true;
    Ok(config)
}

/// It obeys no variable: a `CREDLET_…` of the shell is meant for another agent.
fn command() -> Command {
    Server::command().mut_args(|flag| flag.env(None))
}

/// Says what to type in another shell, and serves until told to stop.
async fn serve(app: App, instructions: impl FnOnce(SocketAddr) -> String) -> anyhow::Result<()> {
    let served = until_told_to_stop(&app, instructions).await;
    app.stop().await;
    served
}

async fn until_told_to_stop(app: &App, instructions: impl FnOnce(SocketAddr) -> String) -> anyhow::Result<()> {
    let address = *app.addresses().first().with_context(|| unserved(app))?;
    std::io::stdout().write_all(instructions(address).as_bytes())?;
    let signal = stop_signal().await?;
    tracing::info!(signal, "told to stop");
    Ok(())
}

fn unserved(app: &App) -> String {
    let details: Vec<_> = app.probes().listeners.statuses().into_iter().map(|status| status.detail).collect();
    format!("{} (choose another --port; an address can be had by: ip address add ADDRESS dev lo)", details.join("; "))
}

/// What makes any SDK of another shell a pod. `more` are lines of the same kind.
fn exports(address: SocketAddr, token_file: &Path, region: &str, more: &str) -> String {
    format!(
        "export AWS_CONTAINER_CREDENTIALS_FULL_URI=http://{address}/v1/credentials
export AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE={token_file}
export AWS_REGION={region} AWS_DEFAULT_REGION={region}
{more}export NO_PROXY={host},localhost no_proxy={host},localhost
# What you have at home comes before a container's credentials in every SDK, so hide it there:
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_WEB_IDENTITY_TOKEN_FILE

# Then any SDK works, and so does curl:
#   aws sts get-caller-identity
#   curl -sH \"Authorization: $(cat {token_file})\" http://{address}/v1/credentials
",
        token_file = token_file.display(),
        host = address.ip(),
    )
}

/// Elsewhere the credentials would be on the network, and no SDK would take them: of the addresses that are not loopback SDKs take
/// plain HTTP from [`HOSTS`] alone.
fn host(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: IpAddr = bare.parse().map_err(|_| format!("{text:?} is not an IP address"))?;
    let served = address.to_canonical().is_loopback() || HOSTS.contains(&address);
    served.then_some(address).ok_or_else(|| "SDKs take plain http from loopback, 169.254.170.23 and fd00:ec2::23 only".to_owned())
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

    #[derive(Debug, Parser)]
    struct Dev {
        #[command(flatten)]
        flags: DevFlags,
    }

    fn parse(line: &str) -> Result<DevFlags, String> {
        let parsed = Dev::try_parse_from(["dev"].into_iter().chain(line.split_whitespace()));
        parsed.map(|dev| dev.flags).map_err(|error| error.to_string())
    }

    #[test]
    fn no_variable_of_the_shell_is_obeyed() {
        assert!(command().get_arguments().count() > 10);
        assert!(command().get_arguments().all(|flag| flag.get_env().is_none()));
    }

    #[test]
    fn credentials_stay_on_this_machine() {
        assert_eq!(parse("").unwrap().bind_hosts, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        for good in ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "169.254.170.23", "[fd00:ec2::23]", "127.0.0.1,169.254.170.23"] {
            assert!(parse(&format!("--bind-hosts {good}")).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0", "::", "192.0.2.1", "169.254.170.2", "169.254.169.254", "localhost", "127.0.0.1,10.0.0.1", ""] {
            assert!(parse(&format!("--bind-hosts={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_shapes_the_simulated_aws_does_not_go_with_a_real_one() {
        for flag in ["--lifetime 1h", "--latency 1s", "--fail 0.5"] {
            assert!(parse(flag).is_ok(), "{flag}");
            assert!(parse(&format!("--profile me {flag}")).unwrap_err().contains("cannot be used with"), "{flag}");
        }
    }

    #[test]
    fn a_role_needs_a_profile_and_an_arn() {
        let arn = "arn:aws-cn:iam::111122223333:role/team/reader";
        assert_eq!(parse(&format!("--profile me --role-arn {arn}")).unwrap().role_arn.unwrap().as_str(), arn);
        assert!(parse(&format!("--role-arn {arn}")).is_err());
        for bad in ["reader", "arn:aws:iam::1:role/reader", "arn:aws:iam::111122223333:user/me"] {
            assert!(parse(&format!("--profile me --role-arn {bad}")).is_err(), "{bad}");
        }
    }
}
