//! The guides' own policies: what a reader copies from `docs/` gives the roles that the page promises.
//!
//! Each page's trust policies make roles of the simulated cloud, its rules are the agent's `--policy`, and a pod asks. So a page
//! that is wrong fails here, as its reader would at AWS.

use std::path::Path;

use credlet::base::clock::Clock;
use credlet::domain::policy::{POD_IDENTITY_AUDIENCE, WEB_IDENTITY_AUDIENCE};
use credlet::sim::association::Association;
use credlet::sim::cloud::Cloud;
use credlet::sim::iam::role::Role;
use credlet::sim::keys::{Algorithm, Keys};
use credlet::sim::pod::PodSpec;

use crate::harness::setup::Setup;
use crate::world::{TOKEN_LIFE, cloud};

/// The issuer of all pages.
const ISSUER: &str = "https://oidc.example.com/id/CLUSTER";

/// What a page gives to a pod: service account, audience, path, and the assumed role.
type Promise = (&'static str, &'static str, &'static str, &'static str);

#[tokio::test]
async fn chaining() {
    keep(
        "chaining.md",
        &[
            (
                "ci-namespace/ci-serviceaccount",
                WEB_IDENTITY_AUDIENCE,
                "",
                "arn:aws:sts::111111111111:assumed-role/ci-account-iam-role/ci-namespace-ci-serviceaccount",
            ),
            (
                "ci-namespace/ci-serviceaccount",
                WEB_IDENTITY_AUDIENCE,
                "/target-env",
                "arn:aws:sts::222222222222:assumed-role/target-account-iam-role/xactarget",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn outside_eks() {
    let role = "arn:aws:sts::111111111111:assumed-role/web/shop.web";
    keep("outside-eks.md", &[("shop/web", WEB_IDENTITY_AUDIENCE, "", role)]).await;
}

/// Once the role has moved from the annotation into the policy file; annotations are for a real API server to show.
#[tokio::test]
async fn irsa() {
    keep("irsa.md", &[("shop/web", WEB_IDENTITY_AUDIENCE, "", "arn:aws:sts::111111111111:assumed-role/web/shop.web")]).await;
}

#[tokio::test]
async fn pod_identity() {
    let role = "arn:aws:sts::111122223333:assumed-role/s3-reader/eks-demo-pod-";
    keep("pod-identity.md", &[("default/s3-sa", POD_IDENTITY_AUDIENCE, "", role)]).await;
}

async fn keep(page: &str, promises: &[Promise]) {
    let text = std::fs::read_to_string(format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (folder, cloud, keys) = (tempfile::tempdir().unwrap(), cloud().await, Keys::new(ISSUER, Algorithm::Es256, Clock::System));
    build(&cloud, &text);
    cloud.trust_issuer(ISSUER, keys.jwks().to_string().as_bytes()).unwrap();
    let mut agent = setup(folder.path(), &cloud, &keys, &text).spawn().unwrap();
    agent.become_ready().await.unwrap();
    for (service_account, audience, path, role) in promises {
        let (namespace, name) = service_account.split_once('/').unwrap();
        let token = keys.token(&PodSpec::new(namespace, name, "pod"), audience, TOKEN_LIFE);
        let answer = agent.get(&format!("/v1/credentials{path}"), &[("authorization", &token)]).await.unwrap();
        assert_eq!(answer.status, 200, "{page} {path:?}: {}\n{}", answer.body, agent.log());
        let audit = agent.audit();
        let issued = audit.last().and_then(|line| line["role_arn"].as_str()).unwrap_or_default();
        assert!(issued.starts_with(role), "{page} {path:?}: {issued}");
    }
}

/// The page's roles, with the provider that they trust, and an association for the first.
fn build(cloud: &Cloud, text: &str) {
    let roles = trust_policies(text);
    assert!(!roles.is_empty(), "the page shows no trust policy");
    for (arn, trust) in &roles {
        let account = arn.split(':').nth(4).unwrap();
        cloud.put_provider(account, ISSUER, &[WEB_IDENTITY_AUDIENCE]);
        cloud.put_role(Role::new(arn, trust).unwrap());
    }
    cloud.associate_with("default", "s3-sa", Association::new(&roles[0].0));
}

fn setup(folder: &Path, cloud: &Cloud, keys: &Keys, text: &str) -> Setup {
    let jwks = folder.join("jwks.json");
    std::fs::write(&jwks, keys.jwks().to_string()).unwrap();
    let setup = Setup::on_loopback(folder).unwrap().of(cloud).flag("issuer", format!("{ISSUER}={}", jwks.display()));
    let Some(policy) = blocks(text, "yaml").into_iter().map(|(_, block)| block).find(|block| block.starts_with("rules:")) else {
        return setup;
    };
    let file = folder.join("policy.yaml");
    std::fs::write(&file, policy).unwrap();
    setup.flag("policy", file.display())
}

/// Role and trust policy, wherever a JSON block follows the words "Trust policy of `ARN`".
fn trust_policies(text: &str) -> Vec<(String, String)> {
    let blocks = blocks(text, "json").into_iter();
    let named = blocks.filter_map(|(before, block)| Some((before.rsplit_once("Trust policy of")?.1.to_owned(), block)));
    named.map(|(name, block)| (name.split('`').nth(1).unwrap().to_owned(), block)).collect()
}

/// Every fenced block of a language, without its indentation, and the paragraph before it.
fn blocks(text: &str, language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&format!("```{language}\n")) {
        let indent = before.len() - before.trim_end_matches(' ').len();
        let (block, after) = after.split_once("```").unwrap();
        let lines = block.lines().map(|line| line.get(indent..).unwrap_or_default());
        let paragraph = before.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        found.push((words.join(" "), lines.collect::<Vec<_>>().join("\n")));
        rest = after;
    }
    found
}
