//! Whether the simulated EKS Auth speaks AWS's wire, by the word of botocore and its copy of AWS's service model.

use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use credlet::base::clock::Clock;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::{Cloud, Config};
use credlet::sim::fault::Fault;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::Operation;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::client::{Client, script};
use crate::harness::setup::REGION;

const HOUR: Duration = Duration::from_secs(3600);

/// A session's members arrive where the model has them.
pub(crate) async fn answer() -> anyhow::Result<()> {
    let mut wire = Wire::start().await?;
    let token = wire.cloud.keys().token(&pod(), POD_IDENTITY_AUDIENCE, HOUR);
    let answer = wire.ask(&token).await?;
    let response = answer.get("response").with_context(|| format!("no response: {answer}"))?;
    let member = |pointer| response.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ensure!(response.get("subject") == Some(&json!({ "namespace": "sdk", "serviceAccount": "wire" })), "{response}");
    ensure!(member("/audience") == POD_IDENTITY_AUDIENCE, "{response}");
    ensure!(member("/podIdentityAssociation/associationArn").starts_with("arn:aws:eks:"), "{response}");
    ensure!(member("/podIdentityAssociation/associationId").starts_with("a-"), "{response}");
    ensure!(member("/assumedRoleUser/arn").contains(":assumed-role/sdk-wire/eks-demo-wire-0-"), "{response}");
    ensure!(member("/assumedRoleUser/assumeRoleId").starts_with("AROA"), "{response}");
    ensure!(member("/credentials/accessKeyId").starts_with("ASIA"), "{response}");
    ensure!(!member("/credentials/secretAccessKey").is_empty() && !member("/credentials/sessionToken").is_empty(), "{response}");
    ensure!(!member("/requestId").is_empty(), "{response}");
    let life = response.pointer("/credentials/expiration").and_then(Value::as_i64).unwrap_or_default() - now();
    ensure!((6 * 3600 - 60..=6 * 3600).contains(&life), "a life of {life} s");
    Ok(())
}

/// Every error of the model arrives as its own class, and with its status.
pub(crate) async fn errors() -> anyhow::Result<()> {
    let mut wire = Wire::start().await?;
    let token = wire.cloud.keys().token(&pod(), POD_IDENTITY_AUDIENCE, HOUR);
    for fault in modelled() {
        wire.cloud.script().next(Operation::EksAuth, [fault.clone().into()]);
        let answer = wire.ask(&token).await?;
        let expected = json!({ "ok": false, "class": fault.code, "status": fault.status, "message": fault.message });
        ensure!(answer == expected, "{answer} instead of {expected}");
    }
    Ok(())
}

/// A node's credentials that AWS does not know have no class in the model.
pub(crate) async fn strangers() -> anyhow::Result<()> {
    let mut wire = Wire::start().await?;
    wire.cloud.script().next(Operation::EksAuth, [Fault::unrecognized_client().into()]);
    let answer = wire.ask("a.b.c").await?;
    ensure!(answer.get("class") == Some(&json!("ClientError")), "{answer}");
    Ok(())
}

fn modelled() -> [Fault; 9] {
    [
        Fault::throttling(),
        Fault::internal_server(),
        Fault::service_unavailable(),
        Fault::access_denied(),
        Fault::invalid_request(),
        Fault::invalid_parameter(),
        Fault::invalid_token("signature mismatch"),
        Fault::expired_token(),
        Fault::resource_not_found("No association"),
    ]
}

/// A cloud, and botocore as its client.
struct Wire {
    cloud: Cloud,
    client: Client,
    _home: TempDir,
}

impl Wire {
    async fn start() -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        let cloud = Cloud::start(Config { region: REGION.to_owned(), ..Config::default() }).await?;
        let (access_key_id, secret) = cloud.node_credentials();
        let variables =
            [("AWS_ACCESS_KEY_ID", access_key_id), ("AWS_SECRET_ACCESS_KEY", secret.expose()), ("AWS_DEFAULT_REGION", REGION)];
        let mut command = script("python", "python/eks_auth.py")?;
        command.args([cloud.eks_auth_url(), "demo"]);
        let client = Client::start(command, home.path(), &variables, Command::spawn)?;
        Ok(Self { cloud, client, _home: home })
    }

    async fn ask(&mut self, token: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.client.ask(token).await?)?)
    }
}

fn pod() -> PodSpec {
    PodSpec::new("sdk", "wire", "wire-0")
}

fn now() -> i64 {
    Clock::System.now().unix()
}
