//! Roles by the annotations of service accounts: what the agent may read for it, who gets what, and how soon a change counts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use credlet::sim::iam::role::Role;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::agent::USER;
use crate::cluster::Cluster;
use crate::harness::setup::REGION;
use crate::pod::{self, Pod};
use crate::world::World;

pub(crate) const ROLE: &str = "eks.amazonaws.com/role-arn";

/// A change counts within this.
const SOON: Duration = Duration::from_secs(60);

/// A namespace with the service account `app`, which is annotated so.
pub(crate) async fn annotated(cluster: &Cluster, namespace: &str, annotations: &[&str]) -> anyhow::Result<()> {
    cluster.namespace(namespace).await?;
    cluster.service_account(namespace, "app").await?;
    cluster.annotate(namespace, "app", annotations).await
}

pub(crate) async fn rights(world: Arc<World>) -> anyhow::Result<()> {
    let agent = world.agent.pod().await?.object().await?;
    ensure!(agent["spec"]["serviceAccountName"] == "credlet", "{agent}");
    for (verb, resource) in [("get", "serviceaccounts"), ("list", "pods"), ("watch", "pods")] {
        ensure!(may(&world.cluster, verb, resource).await?, "what it needs: {verb} {resource}");
    }
    let refused = [
        ("list", "serviceaccounts"),
        ("watch", "serviceaccounts"),
        ("update", "serviceaccounts"),
        ("patch", "serviceaccounts"),
        ("create", "serviceaccounts/token"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("get", "configmaps"),
        ("get", "pods"),
        ("delete", "pods"),
        ("create", "pods"),
        ("get", "nodes"),
        ("*", "*"),
    ];
    for (verb, resource) in refused {
        ensure!(!may(&world.cluster, verb, resource).await?, "it may {verb} {resource}");
    }
    Ok(())
}

/// Whether the agent's service account has that right, in any namespace.
async fn may(cluster: &Cluster, verb: &str, resource: &str) -> anyhow::Result<bool> {
    let user = format!("--as={USER}");
    let output = cluster.try_kubectl(&["auth", "can-i", verb, resource, "--all-namespaces", &user], None).await?;
    match output.stdout.trim_ascii() {
        b"yes" => Ok(true),
        b"no" => Ok(false),
        _ => Err(anyhow::anyhow!("{output:?}")),
    }
}

pub(crate) async fn own_role(world: Arc<World>) -> anyhow::Result<()> {
    let role = "arn:aws:iam::111111111111:role/web-identity-app";
    world.agent.aws.put_role(role, "system:serviceaccount:web-identity:app")?;
    annotated(&world.cluster, "web-identity", &[&format!("{ROLE}={role}")]).await?;
    let pod = world.cluster.run(&with_boto3(&world, "web-identity")).await?;
    let caller = caller_identity(&pod).await?;
    ensure!(caller == "arn:aws:sts::111111111111:assumed-role/web-identity-app/web-identity.app", "{caller}");
    ensure!(world.agent.calls("web-identity") == 1, "more than one call");
    Ok(())
}

pub(crate) async fn chain(world: Arc<World>) -> anyhow::Result<()> {
    let (base, target) = ("arn:aws:iam::111111111111:role/chain-base", "arn:aws:iam::222222222222:role/chain-target");
    world.agent.aws.put_role(base, "system:serviceaccount:chain:app")?;
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "AWS": base },
        "Action": "sts:AssumeRole",
        "Condition": { "StringEquals": { "sts:ExternalId": "demo/chain/app" } },
    }] });
    world.agent.aws.cloud.put_role(Role::new(target, &trust.to_string())?);
    let external_id = "credlet.io/external-id={cluster}/{namespace}/{serviceAccount}";
    let annotations = [&format!("{ROLE}={base}"), &format!("credlet.io/target-role-arn={target}"), external_id];
    annotated(&world.cluster, "chain", &annotations).await?;

    let pod = world.cluster.run(&with_boto3(&world, "chain")).await?;
    let caller = caller_identity(&pod).await?;
    ensure!(caller == "arn:aws:sts::222222222222:assumed-role/chain-target/chain.app", "{caller}");
    let hops = world.agent.aws.calls_for_role(target);
    ensure!((world.agent.calls("chain"), hops.len()) == (1, 1), "more than one call each");
    let node = world.agent.aws.cloud.node_credentials().0;
    ensure!(hops[0].signer.as_deref().is_some_and(|signer| signer != node), "by the node's credentials");
    Ok(())
}

/// A pod of `app` that is given by injection what web identity takes, with boto3 and a way to STS.
fn with_boto3(world: &World, namespace: &str) -> Value {
    let mut pod = pod::by_web_identity(namespace, "app-0", "app");
    pod["spec"]["containers"][0]["env"] = json!([
        { "name": "AWS_DEFAULT_REGION", "value": REGION },
        { "name": "AWS_ENDPOINT_URL_STS", "value": world.agent.aws.sts_url() },
    ]);
    pod::with_python(pod, &world.cluster)
}

/// As whom STS knows the pod.
async fn caller_identity(pod: &Pod) -> anyhow::Result<String> {
    pod.python("import boto3; print(boto3.client('sts').get_caller_identity()['Arn'], end='')").await
}

pub(crate) async fn changes(world: Arc<World>) -> anyhow::Result<()> {
    let roles = ["arn:aws:iam::111111111111:role/changes", "arn:aws:iam::222222222222:role/changes"];
    for role in roles {
        world.agent.aws.put_role(role, "system:serviceaccount:changes:app")?;
    }
    annotated(&world.cluster, "changes", &[&format!("{ROLE}={}", roles[0])]).await?;
    let pod = world.cluster.run(&pod::asking(pod::by_web_identity("changes", "app-0", "app"))).await?;
    pod.is_served_in("111111111111").await?;

    world.cluster.annotate("changes", "app", &[&format!("{ROLE}={}", roles[1])]).await?;
    timeout(SOON, pod.is_served_in("222222222222")).await.context("the change does not count")??;
    let served = pod.answers_since_served().await?;
    ensure!(served.iter().all(|answer| answer.status == 200), "{served:?}");

    world.cluster.annotate("changes", "app", &[&format!("{ROLE}-")]).await?;
    let removed = world.cluster.wait_until("no role", async || Ok(pod.last_answer().await?.status == 403));
    timeout(SOON, removed).await.context("the removal does not count")??;
    let refused = pod.last_answer().await?;
    ensure!(refused.code() == "AccessDenied" && refused.body.contains(ROLE), "{}", refused.body);
    let statuses: Vec<u16> = pod.answers_since_served().await?.iter().map(|answer| answer.status).collect();
    ensure!(statuses.is_sorted() && statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
    ensure!(world.agent.calls("changes") == 2, "more than a call for each role");
    Ok(())
}

pub(crate) async fn others_role(world: Arc<World>) -> anyhow::Result<()> {
    let role = "arn:aws:iam::111111111111:role/anybody";
    world.agent.aws.put_role(role, "*")?;
    annotated(&world.cluster, "others-role", &[&format!("{ROLE}={role}")]).await?;
    world.cluster.service_account("others-role", "other").await?;
    let owner = world.cluster.run(&pod::by_web_identity("others-role", "app-0", "app")).await?;
    let other = world.cluster.run(&pod::by_web_identity("others-role", "other-0", "other")).await?;
    ensure!(owner.ask().await?.status == 200, "the role's own service account");

    let refused = other.ask().await?;
    let advice = format!("annotate its service account with {ROLE}");
    ensure!(refused.status == 403 && refused.body.contains(&advice), "{} {}", refused.status, refused.body);
    let ways = [
        "/app",
        "/anybody",
        "/%2e%2e/app",
        "?role_arn=ROLE",
        " --header 'X-Role-Arn: ROLE'",
        " --header 'X-Namespace: others-role'",
    ];
    for way in ways {
        let answer = other.ask_at(&way.replace("ROLE", role)).await?;
        ensure!((400..500).contains(&answer.status), "{way}: {} {}", answer.status, answer.body);
    }
    ensure!(world.agent.calls("others-role") == 1, "AWS was called for another than the owner");

    // It is not for lack of trust: STS itself gives anybody that role.
    let request = format!("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=other&RoleArn={role}");
    let token = r#"--data-urlencode "WebIdentityToken@$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE""#;
    let script = format!("exec curl --silent --fail --data '{request}' {token} {}", world.agent.aws.sts_url());
    other.exec(&["sh", "-c", &script]).await.map(drop)
}
