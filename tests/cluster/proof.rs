//! Pods prove who they are by the kubelet's own tokens and the API server's own keys.

use std::sync::Arc;

use anyhow::ensure;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use serde_json::{Value, json};

use crate::pod::{self, Pod};
use crate::world::World;

/// A namespace of its own with a service account `app` and a pod of it.
async fn app(world: &World, namespace: &str) -> anyhow::Result<Pod> {
    world.cluster.namespace(namespace).await?;
    world.cluster.service_account(namespace, "app").await?;
    world.cluster.run(&pod::with_identity(namespace, "app-0", "app")).await
}

pub(crate) async fn own_credentials(world: Arc<World>) -> anyhow::Result<()> {
    let pod = app(&world, "own-credentials").await?;
    let answer = pod.ask().await?;
    ensure!(answer.status == 200, "{}", answer.body);
    let credentials = answer.json();
    let access_key_id = credentials["AccessKeyId"].as_str().unwrap_or_default();
    let session = world.agent.issued(access_key_id).await?;

    let object = pod.object().await?;
    let account = world.cluster.get("own-credentials", "serviceaccount", "app").await?;
    let expected = [
        ("pod_name", &object["metadata"]["name"]),
        ("pod_uid", &object["metadata"]["uid"]),
        ("node", &object["spec"]["nodeName"]),
        ("namespace", &object["metadata"]["namespace"]),
        ("service_account", &account["metadata"]["name"]),
        ("expiration", &credentials["Expiration"]),
    ];
    for (member, value) in expected {
        ensure!(value.is_string() && session[member] == *value, "{member} is not {value}: {session}");
    }
    let role = session["role_arn"].as_str().unwrap_or_default();
    ensure!(role.contains("own-credentials-app"), "{session}");
    ensure!(world.agent.calls("own-credentials") == 1, "more than one call");
    Ok(())
}

pub(crate) async fn boto3(world: Arc<World>) -> anyhow::Result<()> {
    world.cluster.namespace("boto3").await?;
    let manifest = pod::with_python(pod::with_identity("boto3", "app-0", "default"), &world.cluster);
    let pod = world.cluster.run(&manifest).await?;
    let program = "import boto3; print(boto3.session.Session().get_credentials().get_frozen_credentials().access_key, end='')";
    let access_key_id = pod.python(program).await?;
    let session = world.agent.issued(&access_key_id).await?;
    ensure!(session["namespace"] == "boto3" && session["pod_name"] == "app-0", "{session}");
    Ok(())
}

pub(crate) async fn key_source(world: Arc<World>) -> anyhow::Result<()> {
    let status = world.agent.status().await?;
    let verification = &status["verification"];
    ensure!(verification["verification"] == "local", "{verification}");
    let issuer = &verification["issuers"][0];
    let sources = issuer["sources"].as_array().cloned().unwrap_or_default();
    let is_api_server = |source: &&Value| source["source"] == "https://10.96.0.1/openid/v1/jwks";
    let source = sources.iter().find(is_api_server).cloned().unwrap_or_default();
    ensure!(source["keys"] == 1 && source["error"].is_null(), "{verification}");

    let published: Value = serde_json::from_str(&world.cluster.kubectl(&["get", "--raw=/openid/v1/jwks"]).await?)?;
    ensure!(issuer["kids"] == json!([published["keys"][0]["kid"]]), "{verification}");
    Ok(())
}

pub(crate) async fn anothers_token(world: Arc<World>) -> anyhow::Result<()> {
    let first = app(&world, "anothers-token").await?;
    world.cluster.service_account("anothers-token", "other").await?;
    let other = world.cluster.run(&pod::with_identity("anothers-token", "other-0", "other")).await?;
    let own = first.ask().await?;
    let answer = first.ask_with(&other.token().await?).await?;
    ensure!((own.status, answer.status) == (200, 200), "{} {}", own.body, answer.body);
    let session = world.agent.issued(answer.json()["AccessKeyId"].as_str().unwrap_or_default()).await?;
    ensure!(session["service_account"] == "other" && session["pod_name"] == "other-0", "{session}");

    // The API server makes no token of one service account for a pod of another either.
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=app-0", "--namespace=anothers-token"];
    let made = world.cluster.try_kubectl(&[&["create", "token", "other"], &bound[..]].concat(), None).await?;
    ensure!(!made.status.success(), "a token of other for app-0");
    Ok(())
}

pub(crate) async fn other_tokens(world: Arc<World>) -> anyhow::Result<()> {
    let pod = app(&world, "other-tokens").await?;
    let create = ["create", "token", "app", "--namespace=other-tokens"];
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=app-0"];
    let audience = format!("--audience={POD_IDENTITY_AUDIENCE}");
    let cases: [(&[&str], &str); 4] = [
        (&[&audience], "not_pod_bound"),
        (&[&bound[..], &["--audience=vault"]].concat(), "audience"),
        (&[&bound[..], &[&audience, "--audience=vault"]].concat(), "audience"),
        // The API server's own audience, which is what a pod's default token bears.
        (&bound, "audience"),
    ];
    for (flags, reason) in cases {
        let token = world.cluster.kubectl(&[&create[..], flags].concat()).await?;
        let answer = pod.ask_with(token.trim()).await?;
        let refusal = world.agent.refused(token.trim()).await?;
        ensure!(answer.status == 401 && answer.code() == "InvalidToken", "{reason}: {} {}", answer.status, answer.body);
        ensure!(refusal["reason"] == reason, "{reason}: {refusal}");
    }
    ensure!(world.agent.calls("other-tokens") == 0, "AWS was called");
    Ok(())
}

pub(crate) async fn another_node(world: Arc<World>) -> anyhow::Result<()> {
    let pod = app(&world, "another-node").await?;
    let elsewhere = pod::on_second_node(pod::with_identity("another-node", "app-1", "app"));
    let elsewhere = world.cluster.run(&elsewhere).await?;
    let token = pod.token().await?;
    let answer = elsewhere.ask_with(&token).await?;
    ensure!(answer.status == 403, "{} {}", answer.status, answer.body);
    let refusal = world.other_agent.refused(&token).await?;
    ensure!(refusal["reason"] == "wrong_node", "{refusal}");
    ensure!(world.other_agent.calls("another-node") == 0, "AWS was called");
    ensure!(elsewhere.ask().await?.status == 200, "its own token is of use there");
    Ok(())
}
