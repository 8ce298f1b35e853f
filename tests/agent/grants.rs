//! `--policy FILE`, as operators and pods see it: targets by name, and a file that changes while pods ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use credlet::sim::pod::PodSpec;
use serde_json::Value;

use crate::chains::{ASSOCIATED, asked_for, put_open};
use crate::delegation::delegated;
use crate::harness::agent::Agent;
use crate::harness::config_map::ConfigMap;
use crate::harness::http;
use crate::harness::setup::Setup;
use crate::wire::{exchange, head};
use crate::world::{World, cloud, pod};

const BAD: &str = "rules: [ { match: { namespace: default }, colour: red } ]";

/// The role to which the service account's target of this name leads.
fn role(service_account: &str, name: &str) -> String {
    format!("arn:aws:iam::222222222222:role/{service_account}-{name}")
}

/// For whom EKS Auth is asked.
fn subject(service_account: &str) -> String {
    format!("system:serviceaccount:default:{service_account}")
}

/// A rule for a service account of namespace `default` with targets of these names.
fn rule(service_account: &str, targets: &[&str]) -> String {
    let target = |name: &&str| format!("      {name}: {{ chain: [ {{ role: '{}' }} ] }}\n", role(service_account, name));
    let targets: String = targets.iter().map(target).collect();
    format!(
        "  - match: {{ namespace: default, serviceAccount: {service_account} }}\n    exchange: pod-identity\n    \
         targets:\n{targets}"
    )
}

fn policy(rules: &[String]) -> String {
    format!("rules:\n{}", rules.concat())
}

async fn world_with(map: &ConfigMap) -> World {
    World::with(|setup| setup.flag("policy", map.path().display())).await
}

/// How often it has taken over a new policy.
fn changes(agent: &Agent) -> usize {
    agent.log().matches("the policy has changed").count()
}

fn access_key(document: &Value) -> String {
    document["AccessKeyId"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_unknown_target_is_refused_with_the_names_that_there_are() {
    let map = ConfigMap::new("policy.yaml", &policy(&[rule("app", &["beta", "alpha"]), rule("other", &["theirs"])])).unwrap();
    let world = world_with(&map).await;
    let roles = [role("app", "alpha"), role("app", "beta"), role("other", "theirs")];
    put_open(&world.cloud, ASSOCIATED, &roles);
    let [app, bare] = [pod("app-0"), PodSpec::new("default", "bare", "bare-0")].map(|pod| world.token(&pod));
    for (token, target, told) in [(&app, "gamma", "alpha, beta"), (&app, "theirs", "alpha, beta"), (&bare, "alpha", "no targets")]
    {
        let answer = world.agent.get(&format!("/v1/credentials/{target}"), &[("authorization", token)]).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"), "{target}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(told) && !message.contains("theirs"), "{message}");
    }
    assert_eq!((world.agent.refusals("no_target").await.unwrap(), asked_for(&world.cloud)), (3, Vec::new()));
    assert_eq!(world.agent.ask(&app).await.unwrap().status, 200);
    let status = world.agent.status().await.unwrap();
    assert_eq!((&status["entries"][0]["exchange"], &status["entries"][0]["target"]), (&"pod-identity".into(), &Value::Null));
    let issued = world.agent.audit().into_iter().find(|line| line["outcome"] == "issued").unwrap();
    assert_eq!(issued["exchange"], "pod-identity");
}

#[tokio::test]
async fn by_the_word_of_aws_a_caller_has_its_own_targets_too() {
    let map = ConfigMap::new("policy.yaml", &policy(&[rule("app", &["alpha"]), rule("other", &["theirs", "alpha"])])).unwrap();
    let world = World::with(|setup| delegated(setup).flag("policy", map.path().display())).await;
    let roles = [role("app", "alpha"), role("other", "theirs"), role("other", "alpha")];
    put_open(&world.cloud, ASSOCIATED, &roles);
    let [app, bare] = [pod("app-0"), PodSpec::new("default", "bare", "bare-0")].map(|pod| world.token(&pod));
    for (token, target, told) in [(&app, "theirs", "alpha"), (&bare, "theirs", "no targets"), (&bare, "alpha", "no targets")] {
        let answer = world.agent.get(&format!("/v1/credentials/{target}"), &[("authorization", token)]).await.unwrap();
        assert!(answer.status == 403 && answer.body.contains(told), "{}", answer.body);
    }
    for path in ["/v1/credentials", "/v1/credentials/alpha"] {
        assert_eq!(world.agent.get(path, &[("authorization", &app)]).await.unwrap().status, 200);
    }
    let asked = [subject("app"), subject("bare"), role("app", "alpha")];
    assert_eq!(asked_for(&world.cloud), asked, "each was named with its first credential, and has its own only");
}

#[tokio::test]
async fn a_file_that_is_faulty_or_missing_at_the_start_is_told_with_all_other_faults() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud().await;
    let map = ConfigMap::new("policy.yaml", BAD).unwrap();
    for (path, told) in [(map.path(), "line 1: rules[0]"), (folder.path().join("none.yaml"), "can't be read")] {
        let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).flag("policy", path.display()).flag("port", "x");
        let output = setup.end().await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{text}");
        let prefix = format!("--policy: {}: ", path.display());
        assert!(text.lines().any(|line| line.starts_with(&prefix) && line.contains(told)), "{text}");
        assert!(text.lines().any(|line| line.starts_with("--port: ")), "{text}");
    }
}

/// Clients that ask without end, each for a pod of its own, with what went wrong and every access key that each pod was served.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: tokio::task::JoinSet<BTreeMap<String, usize>>,
}

impl Load {
    /// Each of the pods is known to the agent before its client begins.
    async fn start(world: &World, clients: usize) -> Self {
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut load = tokio::task::JoinSet::new();
        for number in 0..clients {
            let (address, token) = (world.agent.address(), world.token(&pod(&format!("app-{number}"))));
            assert_eq!(world.agent.ask(&token).await.unwrap().status, 200);
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            load.spawn(async move {
                let mut seen = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = http::get(address, "/v1/credentials", &[("authorization", &token)]).await;
                    let outcome = match answer {
                        Ok(answer) if answer.status == 200 => access_key(&answer.json()),
                        Ok(answer) => answer.body,
                        Err(error) => format!("{error:#}"),
                    };
                    *seen.entry(outcome).or_default() += 1;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                seen
            });
        }
        Self { stop, asked, clients: load }
    }

    /// Every client has asked many times since this was called.
    async fn goes_on(&self) {
        let until = self.asked.load(Ordering::Relaxed) + 1_000;
        while self.asked.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What each client saw, and how often.
    async fn stop(self) -> Vec<BTreeMap<String, usize>> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flips_under_load_lose_nothing_and_fetch_nothing_that_has_not_changed() {
    let with = |targets: &[&str]| policy(&[rule("app", &["alpha"]), rule("other", targets)]);
    let map = ConfigMap::new("policy.yaml", &with(&["one"])).unwrap();
    let change = |setup: Setup| setup.flag("policy", map.path().display()).flag("max-service-qps", 100);
    let mut world = World::with(change).await;
    let load = Load::start(&world, 16).await;
    load.goes_on().await;
    assert_eq!(world.exchanges(), 16);
    for flip in 0..3 {
        map.flip(&with(if flip % 2 == 0 { &["one", "two"] } else { &["one"] })).unwrap();
        world.agent.wait_for(async |agent| Ok(changes(agent) > flip)).await.unwrap();
        load.goes_on().await;
    }
    map.flip(BAD).unwrap();
    world.agent.wait_for(async |agent| Ok(agent.sample("credlet_policy_faults").await? > 1)).await.unwrap();
    load.goes_on().await;
    let status = world.agent.status().await.unwrap();
    assert!(status["grants"]["policy"]["faults"][0].as_str().unwrap().starts_with("line 1: "), "{status}");
    assert_eq!(status["grants"]["policy"]["rules"], 2);
    assert!(status["advice"]["policy"].as_str().unwrap().contains("last good policy"), "{status}");
    assert_eq!(world.agent.probe("/readyz").await.unwrap().status, 200);
    let logged = world.agent.log().matches("not used; the last good policy stays in force").count();
    map.flip(&with(&["one"])).unwrap();
    world.agent.wait_for(async |agent| Ok(agent.sample("credlet_policy_faults").await? == 0)).await.unwrap();
    load.goes_on().await;
    assert_eq!(world.agent.log().matches("not used; the last good policy stays in force").count(), logged, "once a content");

    for seen in load.stop().await {
        assert!(seen.len() == 1 && seen.keys().all(|key| key.starts_with("ASIA")), "one key and no failure: {seen:?}");
    }
    assert_eq!(world.exchanges(), 16, "no credential was fetched again");
    assert_eq!(world.agent.sample("credlet_cache_evictions_total{cause=\"revoked\"}").await.unwrap(), 0);
    assert!(world.agent.sample("credlet_policy_loaded_timestamp_seconds").await.unwrap() > 0);
}

#[tokio::test]
async fn whose_grant_changes_is_served_anew_and_nobody_else() {
    let chained =
        "  - match: { namespace: default, serviceAccount: app }\n    chain: [ { role: 'arn:aws:iam::222222222222:role/x' } ]\n";
    let map = ConfigMap::new("policy.yaml", &policy(&[rule("app", &["alpha"])])).unwrap();
    let mut world = world_with(&map).await;
    let [changed, same] = [pod("app-0"), PodSpec::new("default", "bare", "bare-0")].map(|pod| world.token(&pod));
    let mut before = Vec::new();
    for token in [&changed, &same] {
        before.push(access_key(&world.agent.ask(token).await.unwrap().json()));
    }
    map.flip(&policy(&[chained.to_owned()])).unwrap();
    let revoked = "credlet_cache_evictions_total{cause=\"revoked\"}";
    world.agent.wait_for(async |agent| Ok(agent.sample(revoked).await? == 1)).await.unwrap();
    map.flip(&policy(&[rule("app", &["alpha"])])).unwrap();
    world.agent.wait_for(async |agent| Ok(changes(agent) == 2)).await.unwrap();
    let mut after = Vec::new();
    for token in [&changed, &same] {
        after.push(access_key(&world.agent.ask(token).await.unwrap().json()));
    }
    assert!(before[0] != after[0] && before[1] == after[1], "{before:?} {after:?}");
    assert_eq!(world.exchanges(), 3);
}

/// `bytes` of a request whose client wants no other.
fn once(world: &World, path: &str, token: &str, more: &str) -> String {
    head(world, path, token, &format!("{more}Connection: close\r\n"))
}

/// Paths and queries that name another's target, service account or role, by whatever somebody might take apart.
const PATHS: [&str; 33] = [
    "/v1/credentials/theirs",
    "/v1/credentials/theirs/",
    "/v1/credentials//theirs",
    "//v1/credentials/theirs",
    "/v1/credentials/%74heirs",
    "/v1/credentials/thei%72s",
    "/v1/credentials%2ftheirs",
    "/v1/credentials%2Ftheirs",
    "/v1/credentials/mine%2f..%2ftheirs",
    "/v1/credentials/mine/../theirs",
    "/v1/credentials/./theirs",
    "/v1/credentials/mine/theirs",
    "/v1/credentials/mine;theirs",
    "/v1/credentials/mine,theirs",
    "/v1/credentials/mine%00theirs",
    "/v1/credentials/theirs%00mine",
    "/v1/credentials/THEIRS",
    "/v1/credentials/theirs.",
    "/v1/credentials/default/other",
    "/v1/credentials/default%2fother",
    "/v1/credentials/system:serviceaccount:default:other",
    "/v1/credentials/arn:aws:iam::222222222222:role/other-theirs",
    "/v1/credentials/theirs?NAME=mine",
    "/v1/credentials?target=theirs",
    "/v1/credentials?name=theirs&serviceAccount=other&namespace=default",
    "/v1/credentials?roleArn=arn:aws:iam::222222222222:role/other-theirs",
    "/v1/credentials?/theirs",
    "/v1/credentials#theirs",
    "/v1/credentials/\u{ff54}heirs",
    "/v1/credentials/t\u{0301}heirs",
    "/v1/credentials/%EF%BD%94heirs",
    "/v1/credentials/%C0%AFtheirs",
    "/latest/meta-data/iam/security-credentials/theirs",
];

/// Headers by which other agents, proxies and frameworks choose.
const HEADERS: [&str; 9] = [
    "X-Target",
    "X-Role-Arn",
    "X-Aws-Role-Arn",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-Service-Account",
    "Content-Location",
    "Cookie",
];

const WISHES: [&str; 5] = [
    "theirs",
    "target=theirs; role=theirs",
    "/v1/credentials/theirs",
    "arn:aws:iam::222222222222:role/other-theirs",
    "system:serviceaccount:default:other",
];

fn wishes(world: &World, token: &str, victim: &str) -> Vec<String> {
    let absolute = format!("http://{}/v1/credentials/theirs", world.agent.address());
    let paths = PATHS.into_iter().chain([absolute.as_str()]).map(|path| once(world, path, token, ""));
    let headers = HEADERS.iter().flat_map(|name| WISHES.iter().map(move |wish| format!("{name}: {wish}\r\n")));
    let defaults = ["/v1/credentials", "/v1/credentials/ours"];
    let headers = headers.flat_map(|header| defaults.map(|path| once(world, path, token, &header)));
    let proxied = ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"].map(|name| format!("{name}: 10.0.0.9\r\n"));
    let proxied = proxied.iter().map(|header| once(world, "/v1/credentials/theirs", token, header));
    let second = format!("Authorization: {victim}\r\n");
    let [list, pair] = [",", " "].map(|between| format!("{token}{between}{victim}"));
    let (message, signature) = (token.rsplit_once('.').unwrap().0, victim.rsplit_once('.').unwrap().1);
    let (mixed, default) = (format!("{message}.{signature}"), "/v1/credentials");
    let tokens =
        [(token, &*second), (&list, ""), (&pair, ""), (&mixed, "")].map(|(token, more)| once(world, default, token, more));
    let body = head(world, default, token, "Content-Length: 17\r\n") + r#"{"role":"theirs"}"#;
    paths.chain(headers).chain(proxied).chain(tokens).chain([body]).collect()
}

#[tokio::test]
async fn whatever_a_request_carries_its_caller_gets_its_own_role_or_nothing() {
    let rules = [rule("app", &["mine", "ours"]), rule("other", &["theirs", "ours"])];
    let map = ConfigMap::new("policy.yaml", &policy(&rules)).unwrap();
    let world = world_with(&map).await;
    let roles = [role("app", "mine"), role("app", "ours"), role("other", "theirs"), role("other", "ours")];
    put_open(&world.cloud, ASSOCIATED, &roles);
    let [token, victim] = [pod("app-0"), PodSpec::new("default", "other", "other-0")].map(|pod| world.token(&pod));
    let ours = async |token: &str| world.agent.get("/v1/credentials/ours", &[("authorization", token)]).await.unwrap();
    let own = [world.agent.ask(&token).await.unwrap().body, ours(&token).await.body];
    assert_eq!(world.agent.ask(&victim).await.unwrap().status, 200);
    let (mut served, mut refused) = (0, 0);
    for request in wishes(&world, &token, &victim) {
        let answer = exchange(&world, request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        match head.get(..12).unwrap() {
            "HTTP/1.1 200" if own.iter().any(|own| own == body) => served += 1,
            "HTTP/1.1 400" | "HTTP/1.1 401" | "HTTP/1.1 403" | "HTTP/1.1 404" if !body.contains("ASIA") => refused += 1,
            _ => panic!("{request:?}: {answer:?}"),
        }
    }
    assert!(served > 80 && refused > 35, "{served} {refused}");
    let asked = [subject("app"), role("app", "ours"), subject("other")];
    assert_eq!(asked_for(&world.cloud), asked, "AWS was asked for nobody and nothing else");
    let theirs = ours(&victim).await;
    assert!(theirs.status == 200 && !own.contains(&theirs.body), "the same NAME is another role to another caller");
    assert_eq!(asked_for(&world.cloud).last(), Some(&role("other", "ours")));
}
