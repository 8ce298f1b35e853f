//! The API server goes away: what credlet knows it still knows, and goes on renewing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use credlet::domain::policy::WEB_IDENTITY_AUDIENCE;
use serde_json::Value;

use crate::annotations::{ROLE, annotated};
use crate::harness::http::Answer;
use crate::pod::{self, Pod};
use crate::world::World;

const NAMESPACE: &str = "outage";

/// Of the pods' role.
const ACCOUNT: &str = "111111111111";

/// Longer than annotations are used unread, so that reads fail and what is used is older than it would be with an API server.
const OUTAGE: Duration = Duration::from_secs(66);

/// The least number of times that a pod asks meanwhile.
const ASKS: usize = 50;

/// Renewals of one credential meanwhile, one each 20 s.
const RENEWALS: usize = 2;

/// Pods, and tokens of those that can't be entered without an API server.
struct Scene {
    /// Asks all the time, by web identity with the role of its annotation.
    asking: Pod,
    /// The kubelet will have another one of the same pod some day.
    next_token: String,
    /// Of a pod that has not asked before. One of the same service account has.
    sibling: String,
    /// Of a pod whose service account is not known.
    stranger: String,
    stranger_pod: Pod,
}

pub(crate) async fn api_server(world: Arc<World>) -> anyhow::Result<()> {
    let scene = Scene::set(&world).await?;
    let before = scene.asking.answers().await?.len();
    world.cluster.stop_api_server().await?;
    let meanwhile = scene.play(&world).await;
    world.cluster.start_api_server().await?;
    meanwhile?;

    let answers = scene.asking.answers().await?;
    ensure!(answers.len() >= before + ASKS, "{before} answers before, {} in all", answers.len());
    let is_good = |answer: &&Answer| answer.status == 200 && answer.json()["AccountId"] == ACCOUNT;
    let failed = answers.iter().skip(before).find(|answer| !is_good(answer));
    ensure!(failed.is_none(), "{failed:?}");
    let log = world.other_agent.pod().await?.logs().await?;
    let is_failed_read = |line: &str| line.contains("can't be read") && line.contains(r#""service_account":"app""#);
    ensure!(log.lines().any(is_failed_read), "the annotations were not read meanwhile");
    let refusal = world.other_agent.refused_pod(&scene.stranger_pod).await?;
    ensure!(refusal["reason"] == "service_account_unavailable", "{refusal}");
    world.cluster.wait_until("the stranger", async || Ok(scene.stranger_pod.ask().await?.status == 200)).await
}

impl Scene {
    /// All is on the second node, whose agent renews often.
    async fn set(world: &World) -> anyhow::Result<Self> {
        let role = format!("arn:aws:iam::{ACCOUNT}:role/outage");
        world.other_agent.aws.put_role(&role, "system:serviceaccount:outage:*")?;
        annotated(&world.cluster, NAMESPACE, &[&format!("{ROLE}={role}")]).await?;
        world.cluster.service_account(NAMESPACE, "stranger").await?;
        world.cluster.annotate(NAMESPACE, "stranger", &[&format!("{ROLE}={role}")]).await?;
        let run = async |pod: Value| world.cluster.run(&pod::on_second_node(pod)).await;
        let asking = run(pod::asking(pod::by_web_identity(NAMESPACE, "asking", "app"))).await?;
        let sibling = run(pod::by_web_identity(NAMESPACE, "sibling", "app")).await?.token().await?;
        let stranger_pod = run(pod::by_web_identity(NAMESPACE, "stranger", "stranger")).await?;
        asking.is_served_in(ACCOUNT).await?;
        let (next_token, stranger) = (next_token(world).await?, stranger_pod.token().await?);
        Ok(Self { asking, next_token, sibling, stranger, stranger_pod })
    }

    /// While there is no API server.
    async fn play(&self, world: &World) -> anyhow::Result<()> {
        ensure!(world.cluster.kubectl(&["get", "--raw=/readyz"]).await.is_err(), "the API server is there");
        let ask = async |token| world.other_agent.ask(token).await;
        // The keys that prove it are only the API server's.
        let sibling = ask(&self.sibling).await?;
        ensure!(sibling.status == 200, "a pod that asks for the first time: {}", sibling.body);
        self.refuses_the_stranger(world).await?;
        let calls = world.other_agent.calls(NAMESPACE);
        tokio::time::sleep(OUTAGE).await;
        let renewals = world.other_agent.calls(NAMESPACE) - calls;
        ensure!(renewals >= 2 * RENEWALS, "{renewals} renewals of two credentials");
        let next = ask(&self.next_token).await?;
        ensure!(next.status == 200, "another token of a pod: {}", next.body);
        self.refuses_the_stranger(world).await
    }

    async fn refuses_the_stranger(&self, world: &World) -> anyhow::Result<()> {
        let refused = world.other_agent.ask(&self.stranger).await?;
        let retry_after: u64 = refused.header("retry-after").parse().context("no Retry-After")?;
        ensure!(refused.status == 503 && (1..=4).contains(&retry_after), "{retry_after} {}", refused.body);
        ensure!(refused.code() == "ServiceUnavailable" && refused.body.contains("annotations"), "{}", refused.body);
        Ok(())
    }
}

async fn next_token(world: &World) -> anyhow::Result<String> {
    let audience = format!("--audience={WEB_IDENTITY_AUDIENCE}");
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=asking", "--namespace=outage"];
    let token = world.cluster.kubectl(&[&["create", "token", "app", &audience], &bound[..]].concat()).await?;
    Ok(token.trim().to_owned())
}
