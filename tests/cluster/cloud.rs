//! The simulated AWS of one node, which trusts the cluster's issuer: on loopback in the node's network, where its agent finds it,
//! and through a relay for the node's pods.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use credlet::domain::policy::WEB_IDENTITY_AUDIENCE;
use credlet::sim::calls::Call;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::iam::role::Role;
use credlet::sim::keys::Algorithm;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::harness::relay::Relay;
use crate::harness::setup::REGION;
use crate::lab::Node;

/// A cloud that serves for as long as this process lives.
pub(crate) struct Aws {
    pub(crate) cloud: Cloud,
    relay: Relay,
    /// The `iss` of the cluster's tokens.
    issuer: String,
}

impl Aws {
    /// Starts a cloud in the network of `node` that accepts tokens of `issuer` by the keys of this JWKS.
    pub(crate) async fn start(node: &Node, issuer: String, jwks: &str) -> anyhow::Result<Self> {
        let namespace = node.network()?;
        let (sender, started) = oneshot::channel();
        let address = node.address;
        // A network namespace is a thread's own: the cloud's sockets are made on this one, and so must all its connections be.
        std::thread::spawn(move || {
            if let Err(error) = serve(namespace, address, sender) {
                eprintln!("no cloud: {error:#}");
            }
        });
        let (cloud, relay) = started.await.context("the thread of the cloud has ended")?;
        cloud.trust_issuer(&issuer, jwks.as_bytes()).map_err(anyhow::Error::msg)?;
        Ok(Self { cloud, relay, issuer })
    }

    /// The environment in which an agent on the node uses it.
    pub(crate) fn variables(&self) -> Value {
        let (access_key_id, secret) = self.cloud.node_credentials();
        json!({
            "AWS_ACCESS_KEY_ID": access_key_id,
            "AWS_SECRET_ACCESS_KEY": secret.expose(),
            "AWS_ENDPOINT_URL_EKS_AUTH": self.cloud.eks_auth_url(),
            "AWS_ENDPOINT_URL_STS": self.cloud.sts_url(),
        })
    }

    /// Makes a role of whatever account for service accounts whose tokens have a `sub` like `subject`.
    pub(crate) fn put_role(&self, role: &str, subject: &str) -> anyhow::Result<()> {
        let account = role.split(':').nth(4).context("a role of no account")?;
        self.cloud.put_provider(account, &self.issuer, &[WEB_IDENTITY_AUDIENCE]);
        let provider = self.issuer.trim_start_matches("https://");
        let trust = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Principal": { "Federated": format!("arn:aws:iam::{account}:oidc-provider/{provider}") },
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {
                "StringEquals": { format!("{provider}:aud"): WEB_IDENTITY_AUDIENCE },
                "StringLike": { format!("{provider}:sub"): subject },
            },
        }] });
        self.cloud.put_role(Role::new(role, &trust.to_string())?);
        Ok(())
    }

    /// The calls so far that asked for a role.
    pub(crate) fn calls_for_role(&self, role: &str) -> Vec<Call> {
        let is_for = |call: &Call| call.role.as_ref().is_some_and(|asked| asked.role_arn == role);
        self.cloud.calls().into_iter().filter(is_for).collect()
    }

    /// STS, for the node's pods.
    pub(crate) fn sts_url(&self) -> String {
        format!("http://{}", self.relay.address)
    }
}

fn serve(namespace: File, address: IpAddr, started: oneshot::Sender<(Cloud, Relay)>) -> anyhow::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let config = Config { region: REGION.to_owned(), algorithm: Algorithm::Es256, ..Config::default() };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cloud = Cloud::start(config).await?;
        let loopback: SocketAddr = cloud.sts_url().trim_start_matches("http://").parse()?;
        let relay = Relay::plain(address, loopback).await?;
        let _ = started.send((cloud, relay));
        std::future::pending().await
    })
}
