//! Roles of other accounts: what calls a chain makes, how often, and with whose credentials.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use credlet::domain::policy::WEB_IDENTITY_AUDIENCE;
use credlet::sim::calls::Call;
use credlet::sim::cloud::Cloud;
use credlet::sim::iam::role::Role;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::Operation;

use crate::harness::agent::Agent;
use crate::harness::setup::Setup;
use crate::laboratory::Laboratory;
use crate::world::{TOKEN_LIFE, cloud, within};

const TARGETS: usize = 10;

/// The chained sessions' life, and half of that with its jitter.
const LIFE: Duration = Duration::from_secs(3600);
const SHORTEST_HALF: Duration = Duration::from_secs(27 * 60);

/// Ten targets behind one association's role, in as many accounts.
fn ten_targets() -> String {
    let chain = |number| format!("      target-{number}: {{ chain: [ {{ role: \"{}\" }} ] }}\n", target(number));
    let targets: String = (0..TARGETS).map(chain).collect();
    format!(
        "rules:\n  - match: {{ namespace: default, serviceAccount: app }}\n    exchange: pod-identity\n    targets:\n{targets}"
    )
}

fn target(number: usize) -> String {
    format!("arn:aws:iam::22222222220{number}:role/target-{number}")
}

/// A trust policy by which `principal` may do `actions`.
pub(crate) fn trust(principal: &str, actions: &str) -> String {
    let statement = format!(r#"{{"Effect":"Allow","Principal":{{"AWS":"{principal}"}},"Action":{actions}}}"#);
    format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#)
}

/// The calls that assumed a role.
fn hops(cloud: &Cloud) -> Vec<Call> {
    cloud.calls().into_iter().filter(|call| call.operation == Operation::AssumeRole).collect()
}

#[tokio::test]
async fn ten_targets_of_a_pod_are_one_base_call_and_ten_chain_calls_each_half_hour() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, ten_targets()).unwrap();
    let laboratory = Laboratory::start(&[&format!("--policy={}", policy.display())]).await;
    put_open(&laboratory.cloud, ASSOCIATED, &(0..TARGETS).map(target).collect::<Vec<_>>());
    let pod = PodSpec::new("default", "app", "app-0");
    assert_eq!(laboratory.ask_for(&pod).await.status, 200, "its default role is the base of the others");
    serve_all(&laboratory, &pod).await;
    assert_eq!((laboratory.exchanges(), hops(&laboratory.cloud).len()), (1, TARGETS));

    let (day, step) = (Duration::from_secs(5 * 3600), Duration::from_secs(120));
    for _ in 0..day.as_secs() / step.as_secs() {
        laboratory.pass(step).await;
        serve_all(&laboratory, &pod).await;
    }
    assert_eq!(laboratory.exchanges(), 2, "the base session is made anew by its own renewal only, after three of its six hours");
    let (least, most) = (day.as_secs() / LIFE.as_secs(), day.as_secs() / SHORTEST_HALF.as_secs() + 1);
    for number in 0..TARGETS {
        let calls = hops(&laboratory.cloud).into_iter().filter(|call| call.role.as_ref().unwrap().role_arn == target(number));
        let calls = u64::try_from(calls.count()).unwrap();
        assert!((least + 1..=most + 1).contains(&calls), "{calls} calls for target {number}");
    }
    let node = laboratory.cloud.node_credentials().0;
    assert!(hops(&laboratory.cloud).iter().all(|call| call.signer.as_deref().is_some_and(|signer| signer != node)));
}

/// Every target of the pod answers with credentials of at least 20 minutes, as SDKs like to have them.
async fn serve_all(laboratory: &Laboratory, pod: &PodSpec) {
    for number in 0..TARGETS {
        let answer = laboratory.ask_at(&format!("/v1/credentials/target-{number}"), pod).await;
        assert_eq!(answer.status, 200, "target {number}: {}", answer.body);
        assert!(answer.body.contains(&format!("\"AccountId\":\"22222222220{number}\"")), "{}", answer.json()["AccountId"]);
    }
}

const STABLE: &str = r#"
rules:
  - match: { namespace: "*", serviceAccount: "*" }
    exchange: web-identity
    role: arn:aws:iam::111111111111:role/base
    targets:
      plain: { chain: [ { role: "arn:aws:iam::222222222222:role/target" } ] }
      named: { chain: [ { role: "arn:aws:iam::222222222222:role/target", sessionName: "{cluster}-{namespace}-{pod}" } ] }
      untagged: { chain: [ { role: "arn:aws:iam::222222222222:role/untagged", tags: { team: ci } } ] }
"#;

/// A pod whose names are longer than a session name may be.
fn long() -> PodSpec {
    PodSpec::new("a-namespace-with-a-rather-long-name", "a-service-account-with-an-even-longer-name", "a-pod-with-a-long-name-0")
}

/// A role of account 111111111111 that every token of the cluster may assume.
pub(crate) fn federated(cloud: &Cloud, arn: &str) -> Role {
    cloud.put_provider("111111111111", cloud.issuer(), &[WEB_IDENTITY_AUDIENCE]);
    let provider = cloud.issuer().trim_start_matches("http://").to_owned();
    let trust = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Federated":"arn:aws:iam::111111111111:oidc-provider/{provider}"}},"Action":"sts:AssumeRoleWithWebIdentity"}}]}}"#
    );
    Role::new(arn, &trust).unwrap()
}

/// Account of the role that service accounts have by association.
pub(crate) const ASSOCIATED: &str = "111122223333";

/// Puts roles that whoever is of `account` may assume: only the agent keeps one caller from another's.
pub(crate) fn put_open<'a>(cloud: &Cloud, account: &str, arns: impl IntoIterator<Item = &'a String>) {
    let trust = trust(&format!("arn:aws:iam::{account}:root"), r#"["sts:AssumeRole","sts:TagSession"]"#);
    arns.into_iter().for_each(|arn| cloud.put_role(Role::new(arn, &trust).unwrap()));
}

/// All that AWS was asked for, in order: the role, or for whom EKS Auth was to find one.
pub(crate) fn asked_for(cloud: &Cloud) -> Vec<String> {
    let asked = |call: Call| call.role.map(|role| role.role_arn).or(call.subject);
    cloud.calls().into_iter().filter_map(asked).collect()
}

/// Puts the roles of the rules above into `cloud`, and the rules into a file.
pub(crate) fn put_roles(folder: &Path, cloud: &Cloud) -> PathBuf {
    let base = "arn:aws:iam::111111111111:role/base";
    cloud.put_role(federated(cloud, base));
    cloud.put_role(Role::new("arn:aws:iam::222222222222:role/target", &trust(base, r#""sts:AssumeRole""#)).unwrap());
    cloud.put_role(Role::new("arn:aws:iam::222222222222:role/untagged", &trust(base, r#""sts:AssumeRole""#)).unwrap());
    let policy = folder.join("policy.yaml");
    std::fs::write(&policy, STABLE).unwrap();
    policy
}

/// An agent with the rules above, of a cloud with the roles.
fn setup(folder: &Path, cloud: &Cloud) -> Setup {
    let policy = put_roles(folder, cloud);
    Setup::on_loopback(folder).unwrap().of(cloud).flag("policy", policy.display())
}

async fn ask(agent: &Agent, cloud: &Cloud, pod: &PodSpec, path: &str) -> crate::harness::http::Answer {
    let token = cloud.keys().token(pod, WEB_IDENTITY_AUDIENCE, TOKEN_LIFE);
    agent.get(&format!("/v1/credentials{path}"), &[("authorization", &token)]).await.unwrap()
}

#[tokio::test]
async fn session_names_outlive_renewals_and_a_restart() {
    let (folder, cloud, pod) = (tempfile::tempdir().unwrap(), cloud().await, long());
    let setup = setup(folder.path(), &cloud).flag("max-service-qps", 100);
    let setup = setup.flag("max-credential-retention-before-renewal", "200ms");
    let mut agent = setup.start().await.unwrap();
    let paths = ["", "/plain", "/named"];
    for path in paths {
        let answer = ask(&agent, &cloud, &pod, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    within(Duration::from_secs(30), cloud.reached(Operation::AssumeRole, 2 * 21)).await;
    within(Duration::from_secs(30), cloud.reached(Operation::AssumeRoleWithWebIdentity, 21)).await;
    let before = session_names(&cloud, 0);
    let calls = cloud.calls().len();
    agent.terminate().unwrap();
    agent.ended().await.unwrap();
    agent = setup.start().await.unwrap();
    for path in paths {
        assert_eq!(ask(&agent, &cloud, &pod, path).await.status, 200);
    }
    assert_eq!(session_names(&cloud, calls), before, "after a restart");
    assert_eq!(before.len(), 3, "one for each: {before:?}");
    let other = PodSpec::new("a-namespace-with-a-rather-long-name", "a-service-account-with-an-even-longer-name-too", "x");
    let calls = cloud.calls().len();
    assert_eq!(ask(&agent, &cloud, &other, "").await.status, 200);
    assert!(session_names(&cloud, calls).is_disjoint(&before), "what is cut stays another's");
}

/// Role and session name of every call from the `first` one on.
fn session_names(cloud: &Cloud, first: usize) -> BTreeSet<(String, String)> {
    let calls = cloud.calls().into_iter().skip(first);
    calls.filter_map(|call| call.role).map(|role| (role.role_arn, role.session_name)).collect()
}

#[tokio::test]
async fn a_trust_policy_without_tag_session_is_named_in_the_refusal() {
    let (folder, cloud, pod) = (tempfile::tempdir().unwrap(), cloud().await, long());
    let agent = setup(folder.path(), &cloud).start().await.unwrap();
    let answer = ask(&agent, &cloud, &pod, "/untagged").await;
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 403, "{message}");
    assert!(message.contains("sts:TagSession") && message.contains("arn:aws:iam::222222222222:role/untagged"), "{message}");
    let repaired = trust("arn:aws:iam::111111111111:role/base", r#"["sts:AssumeRole","sts:TagSession"]"#);
    cloud.put_role(Role::new("arn:aws:iam::222222222222:role/untagged", &repaired).unwrap());
    let mut agent = agent;
    agent.wait_for(async |agent: &mut Agent| Ok(ask(agent, &cloud, &pod, "/untagged").await.status == 200)).await.unwrap();
}
