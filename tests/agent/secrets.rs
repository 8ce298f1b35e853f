//! No secret leaves by a side door: whatever happens, at the finest log level, none stands in a log line, in status, in metrics or
//! in the body of an error.

use std::time::Duration;

use credlet::domain::policy::WEB_IDENTITY_AUDIENCE;
use credlet::sim::fault::Fault;
use credlet::sim::script::{Behaviour, Operation};

use crate::chains;
use crate::harness::http::Answer;
use crate::harness::setup::credlet;
use crate::world::{World, cloud, pod};

#[tokio::test]
async fn secrets_are_in_answers_to_their_owners_only() {
    for format in ["json", "text"] {
        let world = World::with(|setup| setup.flag("verbosity", "trace").flag("log-format", format)).await;
        let (secrets, errors) = live(&world).await;
        ensure_hidden(&world, &secrets, errors).await;
    }
}

/// The session that is served by default leads on to the target, so its secrets are those of a session in between as well.
#[tokio::test]
async fn so_are_those_of_web_identity_and_chains() {
    let (folder, cloud) = (tempfile::tempdir().unwrap(), cloud().await);
    let policy = chains::put_roles(folder.path(), &cloud);
    let mut world = World::begin(cloud, |setup| setup.flag("verbosity", "trace").flag("policy", policy.display())).await;
    world.agent.become_ready().await.unwrap();
    let (mut secrets, mut errors) = (Vec::new(), String::new());
    for path in ["", "/plain", "/untagged", "/nobody"] {
        let token = world.cloud.keys().token(&pod("app-0"), WEB_IDENTITY_AUDIENCE, Duration::from_secs(3600));
        let answer = world.agent.get(&format!("/v1/credentials{path}"), &[("authorization", &token)]).await.unwrap();
        secrets.push(token);
        take(&answer, &mut secrets, &mut errors);
    }
    assert_eq!(secrets.len(), 4 + 2 * 2, "{errors}");
    ensure_hidden(&world, &secrets, errors).await;
}

async fn ensure_hidden(world: &World, secrets: &[String], errors: String) {
    let outputs = [
        ("log", world.agent.log()),
        ("status", world.agent.status().await.unwrap().to_string()),
        ("status table", table(world).await),
        ("metrics", world.agent.scrape().await.unwrap().body),
        ("readiness", world.agent.probe("/readyz").await.unwrap().body),
        ("errors", errors),
    ];
    assert!(world.agent.log().lines().count() > 10, "trace says something");
    for (name, output) in &outputs {
        assert!(!output.is_empty(), "{name}");
        for secret in secrets {
            assert!(!output.contains(secret.as_str()), "{secret} in {name}:\n{output}");
        }
    }
}

/// The secrets of an answer, or all that it says when it is a refusal.
fn take(answer: &Answer, secrets: &mut Vec<String>, errors: &mut String) {
    let member = |name: &str| answer.json()[name].as_str().map(str::to_owned);
    match (member("SecretAccessKey"), member("Token")) {
        (Some(key), Some(session)) => secrets.extend([key, session]),
        _ => *errors += &answer.body,
    }
}

/// Makes everything happen that a pod can see; returns the secrets that went through the agent and all that refusals said.
async fn live(world: &World) -> (Vec<String>, String) {
    let (keys, script) = (world.cloud.keys(), world.cloud.script());
    let mut secrets = vec![world.cloud.node_credentials().1.expose().to_owned()];
    let mut errors = String::new();
    let good = world.token(&pod("app-0"));
    let foreign = keys.token(&pod("app-1"), "elsewhere.example", Duration::from_secs(3600));
    let expired = keys.token(&pod("app-2"), "pods.eks.amazonaws.com", Duration::ZERO);
    let forged = good.rsplit_once('.').unwrap().0.to_owned() + ".Zm9yZ2VkLXNpZ25hdHVyZQ";
    let malformed = "not-a-jwt-but-secret-all-the-same".to_owned();
    let mut tokens = vec![good.clone(), good, foreign, expired, forged, malformed];
    script.next(Operation::EksAuth, [Behaviour::Answer]);
    for behaviour in [
        Fault::access_denied().into(),
        Fault::invalid_token("x").into(),
        Fault::unrecognized_client().into(),
        Behaviour::wrong_subject(),
        Behaviour::Without("/credentials/expiration"),
        Behaviour::HalfBody,
        Behaviour::Hang,
    ] {
        script.next(Operation::EksAuth, [behaviour]);
        tokens.push(world.token(&pod("app-3")));
    }
    for token in tokens {
        let answer = world.agent.ask(&token).await.unwrap();
        take(&answer, &mut secrets, &mut errors);
        // A signature is what makes a token one; its other parts are no more than names.
        secrets.push(token.rsplit('.').next().unwrap().to_owned());
        secrets.push(token);
    }
    assert!(secrets.len() > 2 * 13, "something was issued");
    (secrets, errors)
}

async fn table(world: &World) -> String {
    let output = credlet("status").arg("--run-dir").arg(world.agent.run_dir()).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}
