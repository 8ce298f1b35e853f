//! No secret leaves by a side door: whatever happens, at the finest log level, none stands in a log line, in status, in metrics, in
//! the body of an error, or in what commands print. What stands in memory is looked at by `cargo test --test node memory`.

use std::process::Output;
use std::time::Duration;

use credlet::domain::policy::WEB_IDENTITY_AUDIENCE;
use credlet::sim::fault::Fault;
use credlet::sim::script::{Behaviour, Operation};
use nix::sys::signal::{Signal, kill};

use crate::chains;
use crate::harness::agent::Agent;
use crate::harness::http::Answer;
use crate::harness::setup::{CREDLET, Setup, credlet};
use crate::world::{World, cloud, pod};

#[tokio::test]
async fn secrets_are_in_answers_to_their_owners_only() {
    for format in ["json", "text"] {
        let world = World::with(|setup| setup.flag("verbosity", "trace").flag("log-format", format)).await;
        let (secrets, errors) = live(&world).await;
        assert!(world.agent.log().lines().count() > 10, "trace says something");
        ensure_hidden(&world.agent, &secrets, errors).await;
    }
}

/// Everything happens to one agent, then to the next, and the first one goes on when that has died.
#[tokio::test]
async fn so_are_those_that_agents_hand_on() {
    let mut setup = None;
    let mut world = World::with(|own| setup.insert(own.flag("verbosity", "trace").with_handover().unwrap()).clone()).await;
    let token = world.token(&pod("app-0"));
    let first = world.agent.ask(&token).await.unwrap().body;
    let (mut secrets, mut errors) = live(&world).await;
    let next = setup.unwrap().follow("next").await.unwrap();
    assert_eq!(world.agent.ask(&token).await.unwrap().body, first, "it has been handed on");
    let (others, more) = live(&world).await;
    secrets.extend(others);
    errors += &more;
    for (agent, word) in [(&world.agent, "Heard(0, Ready)"), (&next, "Heard(0, Go)")] {
        assert!(agent.log().contains(word), "trace tells of the handover: {}", agent.log());
        ensure_hidden(agent, &secrets, errors.clone()).await;
    }
    kill(next.pid().unwrap(), Signal::SIGKILL).unwrap();
    let is_back = async |agent: &mut Agent| Ok(agent.status().await?["handover"]["role"] == "serving");
    world.agent.wait_for(is_back).await.unwrap();
    assert_eq!(world.agent.ask(&token).await.unwrap().body, first, "it has kept it");
    ensure_hidden(&world.agent, &secrets, errors).await;
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
    ensure_hidden(&world.agent, &secrets, errors).await;
}

/// AWS calls no external id a secret, but who knows it and the role is one step nearer to it.
#[tokio::test]
async fn external_ids_are_for_operators_only() {
    const EXTERNAL_ID: &str = "canary-external-id";
    let chain =
        |name| format!("{name}: {{ chain: [ {{ role: 'arn:aws:iam::222222222222:role/{name}', externalId: {EXTERNAL_ID} }} ] }}");
    let rule = "{ match: { namespace: default, serviceAccount: app }, exchange: pod-identity";
    let policy = format!("rules: [ {rule}, targets: {{ {}, {} }} }} ]", chain("open"), chain("closed"));
    let (folder, cloud) = (tempfile::tempdir().unwrap(), cloud().await);
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, policy).unwrap();
    chains::put_open(&cloud, chains::ASSOCIATED, &["arn:aws:iam::222222222222:role/open".to_owned()]);
    let mut world = World::begin(cloud, |setup| setup.flag("verbosity", "trace").flag("policy", file.display())).await;
    world.agent.become_ready().await.unwrap();
    let (token, mut errors) = (world.token(&pod("app-0")), String::new());
    for (name, status) in [("open", 200), ("closed", 403)] {
        let answer = world.agent.get(&format!("/v1/credentials/{name}"), &[("authorization", &token)]).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
        errors += &answer.body;
    }
    ensure_hidden(&world.agent, &[EXTERNAL_ID.to_owned()], errors).await;
    let mut explain = credlet("policy");
    explain.args(["explain", "--namespace=default", "--service-account=app", "--file"]).arg(&file);
    assert!(text(explain.output().await.unwrap()).contains(EXTERNAL_ID), "they have to see what they configured");
}

#[tokio::test]
async fn commands_print_no_credentials_of_the_node() {
    let cloud = cloud().await;
    let secret = cloud.node_credentials().1.expose();
    for fault in [None, Some(Fault::unrecognized_client()), Some(Fault::access_denied())] {
        let (folder, failed) = (tempfile::tempdir().unwrap(), fault.is_some());
        fault.into_iter().for_each(|fault| cloud.script().always(Operation::EksAuth, fault.into()));
        let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).flag("verbosity", "trace");
        let json = setup.clone().line(&[CREDLET, "check", "--json"]);
        for setup in [setup.clone().command_of("check"), json, setup.flag("port", "x")] {
            let printed = text(setup.end().await.unwrap());
            assert!(!printed.is_empty() && !printed.contains(secret), "{failed}: {printed}");
        }
    }
}

/// All that a command has printed.
fn text(output: Output) -> String {
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

async fn ensure_hidden(agent: &Agent, secrets: &[String], errors: String) {
    let outputs = [
        ("log", agent.log()),
        ("status", agent.status().await.unwrap().to_string()),
        ("status table", table(agent).await),
        ("metrics", agent.scrape().await.unwrap().body),
        ("readiness", agent.probe("/readyz").await.unwrap().body),
        ("errors", errors),
    ];
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

async fn table(agent: &Agent) -> String {
    let output = credlet("status").arg("--run-dir").arg(agent.run_dir()).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}
