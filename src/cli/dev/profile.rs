//! `credlet dev --profile`: the developer's own credentials, on the very path on which a pod gets its role's.
//!
//! Of the simulation there are but the issuer's keys and the kubelet's token: a secret of this process, without which nobody gets
//! anything, proved as any other token is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::app::{self, App};
use crate::base::clock::Clock;
use crate::cli::dev::{DevFlags, Folder, config, exports, serve};
use crate::config::Config;
use crate::developer::Developer;
use crate::domain::policy::POD_IDENTITY_AUDIENCE;
use crate::egress::aws::{Aws, Source};
use crate::observe::Context;
use crate::sim::keys::{Algorithm, Keys};
use crate::sim::kubelet::Kubelet;
use crate::sim::pod::PodSpec;

/// A container that got the first token and no other goes on for a day.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The `iss` of its tokens. No URL, since nobody else knows it.
const ISSUER: &str = "credlet-dev";

pub(super) async fn run(flags: &DevFlags, profile: &str) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let keys = Keys::new(ISSUER, Algorithm::Es256, Clock::System);
    let pod = PodSpec::new("default", "developer", "laptop");
    let _kubelet = Kubelet::project(&keys, pod, POD_IDENTITY_AUDIENCE, TOKEN_LIFETIME, &folder.token_file())?;
    let config = configured(flags, &folder, &keys)?;
    let context = Context::new(Clock::System);
    let aws = Aws::new(config.https.clone(), Source::Profile(profile.to_owned()), &context);
    let access = app::access(&config, aws, &context);
    let region = access.aws.config().await?.region().context("no region")?.to_string();
    let developer = Developer::new(profile.to_owned(), flags.role_arn.clone(), Arc::clone(&access.aws), Clock::System);
    let served = developer.session().await?.assumed_role_arn;
    let app = App::start_with(Arc::new(developer), config, access, context)?;
    serve(app, |address| instructions(address, &served, profile, &region, &folder)).await
}

fn configured(flags: &DevFlags, folder: &Folder, keys: &Keys) -> anyhow::Result<Config> {
    let key_set = folder.path().join("keys.json");
    std::fs::write(&key_set, keys.jwks().to_string())?;
    let issuer = format!("{ISSUER}={}", key_set.display());
    config(flags, folder, &issuer, &[], &variable)
}

/// The environment as far as a profile obeys it: keys in variables it does not know, so they don't keep it from the loop of an
/// agent that asks itself.
fn variable(name: &str) -> Option<String> {
    if name == "AWS_ACCESS_KEY_ID" { None } else { std::env::var(name).ok() }
}

/// What to type in another shell, or give to a container.
fn instructions(address: SocketAddr, served: &str, profile: &str, region: &str, folder: &Folder) -> String {
    let (token_file, run_dir) = (folder.token_file(), folder.path().display());
    format!(
        "# Serves {served} (profile {profile}). In another shell:
{exports}#   credlet status --run-dir {run_dir}

# Or in a container that shares this machine's network (docker, podman):
#   docker run --network host -v {run_dir}/token:/var/run/secrets/credlet:ro \\
#     -e AWS_CONTAINER_CREDENTIALS_FULL_URI=http://{address}/v1/credentials \\
#     -e AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/var/run/secrets/credlet/eks-pod-identity-token \\
#     -e AWS_REGION={region} IMAGE
# Each request is a line below, each credential issued an audit line. Ctrl-C ends it.
",
        exports = exports(address, &token_file, region, ""),
    )
}
