//! `credlet check`: a node that can serve, and one thing wrong at a time.

use std::time::Duration;

use credlet::base::clock::Clock;
use credlet::sim::cloud::{self, Cloud};
use credlet::sim::fault::Fault;
use credlet::sim::script::{Behaviour, Operation};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::harness::agent::Agent;
use crate::harness::config_map::ConfigMap;
use crate::harness::setup::{CREDLET, Setup};
use crate::world::{World, cloud, config};

/// What a check printed, and how it ended.
struct Checked {
    code: Option<i32>,
    text: String,
}

impl Checked {
    /// The only line that begins so.
    fn line(&self, outcome: &str, check: &str) -> &str {
        let lines: Vec<_> = self.text.lines().filter(|line| line.starts_with(&format!("{outcome:7}  {check} "))).collect();
        assert_eq!(lines.len(), 1, "{outcome} {check} in\n{}", self.text);
        lines[0]
    }

    /// Checks that one line failed, naming that and the remedy, and no other.
    fn fails(&self, check: &str, texts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        let line = self.line("failed", check);
        assert!(texts.iter().all(|text| line.contains(text)) && line.contains(". Remedy: "), "{texts:?} in\n{}", self.text);
        assert_eq!(self.text.lines().filter(|line| line.starts_with("failed")).count(), 1, "{}", self.text);
    }

    /// Checks that one line warns of that, and none fails.
    fn warns(&self, check: &str, text: &str) {
        assert_eq!(self.code, Some(0), "{}", self.text);
        assert!(self.line("warning", check).contains(text), "{text} in\n{}", self.text);
    }
}

async fn checked(setup: Setup) -> Checked {
    let begun = Clock::System.now().mono;
    let output = setup.command_of("check").end().await.unwrap();
    assert!(Clock::System.now().mono - begun < Duration::from_secs(10), "it takes too long");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Checked { code: output.status.code(), text }
}

/// A node of that cloud with nothing wrong.
fn node(cloud: &Cloud) -> (Setup, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Setup::on_loopback(folder.path()).unwrap().of(cloud), folder)
}

/// A check of a node that is set up as `change` says.
async fn check_with(cloud: &Cloud, change: impl FnOnce(Setup) -> Setup) -> Checked {
    let (setup, _folder) = node(cloud);
    checked(change(setup)).await
}

#[tokio::test]
async fn the_directory_of_handovers() {
    let (cloud, elsewhere) = (cloud().await, tempfile::tempdir().unwrap());
    let (setup, _folder) = node(&cloud);
    let good = checked(setup.with_handover().unwrap()).await;
    assert!(good.line("ok", "handover").contains("is this agent's own"), "{}", good.text);
    let missing = elsewhere.path().join("missing");
    for (directory, text) in [(missing.as_path(), "as root: credlet initialize"), ("here".as_ref(), "is no absolute path")] {
        check_with(&cloud, |setup| setup.flag("handover-dir", directory.display())).await.warns("handover", text);
    }
}

#[tokio::test]
async fn a_node_that_can_serve() {
    let cloud = cloud().await;
    let (setup, _folder) = node(&cloud);
    let address = setup.addresses().credentials;
    let checked = checked(setup).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    for (check, text) in [
        ("configuration", "no faults"),
        ("agent", "none answers"),
        ("right", "may be bound"),
        ("port", &format!("{address} is free")),
        ("link", "only loopback"),
        ("region", "eu-central-1"),
        ("credentials", "from EnvVars, without an end"),
        ("keys", &format!("1 of {}, from {}", cloud.issuer(), cloud.jwks_url())),
        ("permission", "eks-auth:AssumeRoleForPodIdentity is not refused: the trial's token was"),
        ("clock", "that of AWS"),
    ] {
        assert!(checked.line("ok", check).contains(text), "{text} in\n{}", checked.text);
    }
    assert_eq!(checked.text.lines().count(), 10, "{}", checked.text);
    let (_, secret) = cloud.node_credentials();
    assert!(!checked.text.contains(secret.expose()));
}

#[tokio::test]
async fn as_json() {
    let cloud = cloud().await;
    let checked = check_with(&cloud, |setup| setup.line(&[CREDLET, "check", "--json"])).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    let document: Value = serde_json::from_str(&checked.text).unwrap();
    let region = document.as_array().unwrap().iter().find(|finding| finding["check"] == "region").unwrap();
    assert_eq!((region["outcome"].as_str(), region["detail"].as_str()), (Some("ok"), Some("eu-central-1")));
}

#[tokio::test]
async fn faults_of_the_configuration_are_told_at_once() {
    let cloud = cloud().await;
    let map = ConfigMap::new("policy.yaml", "rules: [{ match: { namespace: ns }, colour: red }]").unwrap();
    let checked = check_with(&cloud, |setup| setup.flag("policy", map.path().display()).flag("port", "eighty")).await;
    assert_eq!(checked.code, Some(64), "{}", checked.text);
    let told = |text: &str| {
        checked.text.lines().filter(|line| line.starts_with("failed   configuration") && line.contains(text)).count()
    };
    assert_eq!(told("--port: \"eighty\""), 1, "{}", checked.text);
    assert!(told("--policy: ") >= 2, "{}", checked.text);
}

#[tokio::test]
async fn no_region() {
    let cloud = cloud().await;
    let checked = check_with(&cloud, |setup| setup.without_variable("AWS_REGION")).await;
    assert_eq!(checked.code, Some(1));
    assert!(checked.line("failed", "region").contains("none is known. Remedy: set AWS_REGION"), "{}", checked.text);
    assert!(
        checked.line("failed", "permission").contains("AssumeRoleForPodIdentity: no AWS region is known"),
        "{}",
        checked.text
    );
}

#[tokio::test]
async fn no_credentials() {
    let cloud = cloud().await;
    let without = |setup: Setup| setup.without_variable("AWS_ACCESS_KEY_ID").without_variable("AWS_SECRET_ACCESS_KEY");
    let checked = check_with(&cloud, without).await;
    assert_eq!(checked.code, Some(1));
    assert!(
        checked.line("failed", "credentials").contains("Remedy: give the node an instance profile and let the agent reach"),
        "{}",
        checked.text
    );
    let permission = "no credentials: the line `credentials` tells why. Remedy: mend those first";
    assert!(checked.line("failed", "permission").contains(permission), "{}", checked.text);
    let file = check_with(&cloud, |setup| without(setup).flag("rotate-credentials", "true")).await;
    assert!(file.line("failed", "credentials").contains("Remedy: let SSM or IAM Roles Anywhere write"), "{}", file.text);
    assert!(file.line("failed", "permission").contains(permission), "{}", file.text);
}

#[tokio::test]
async fn what_each_source_of_credentials_lacks_is_told_on_request() {
    const CHAIN: &str = "WebIdentityToken: the credential provider was not enabled";
    let cloud = cloud().await;
    let without = |setup: Setup| {
        setup.without_variable("AWS_ACCESS_KEY_ID").without_variable("AWS_SECRET_ACCESS_KEY").without_flag("issuer")
    };
    let checked = check_with(&cloud, without).await;
    assert!(checked.line("failed", "credentials").contains("no source has any"), "{}", checked.text);
    assert_eq!(checked.text.matches("the line `credentials` tells why").count(), 3, "{}", checked.text);
    assert_eq!(checked.text.matches(CHAIN).count(), 0, "{}", checked.text);
    let debug = check_with(&cloud, |setup| without(setup).flag("verbosity", "debug")).await;
    assert!(debug.line("failed", "credentials").contains(CHAIN), "{}", debug.text);
    let json = check_with(&cloud, |setup| without(setup).line(&[CREDLET, "check", "--json"])).await;
    let document: Value = serde_json::from_str(&json.text).unwrap();
    let credentials = document.as_array().unwrap().iter().find(|finding| finding["check"] == "credentials").unwrap();
    assert!(credentials["cause"].as_str().unwrap().contains(CHAIN), "{}", json.text);
}

#[tokio::test]
async fn aws_away() {
    let cloud = cloud().await;
    let away = check_with(&cloud, |setup| setup.flag("endpoint", "http://127.0.0.1:1")).await;
    away.fails("permission", &["eks-auth:AssumeRoleForPodIdentity: AWS is not available", "let this node reach it"]);
    away.line("warning", "clock");
    cloud.script().always(Operation::EksAuth, Behaviour::Hang);
    check_with(&cloud, |setup| setup).await.fails("permission", &["timed out", "let this node reach it"]);
}

#[tokio::test]
async fn nothing_that_hangs_is_waited_for() {
    let cloud = cloud().await;
    for operation in [Operation::EksAuth, Operation::DescribeCluster, Operation::Discovery] {
        cloud.script().always(operation, Behaviour::Hang);
    }
    let all = check_with(&cloud, |setup| setup.without_flag("issuer").flag("token-verification", "local")).await;
    assert_eq!(all.text.lines().filter(|line| line.starts_with("failed")).count(), 3, "{}", all.text);
    let metadata = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", metadata.local_addr().unwrap());
    let without = |setup: Setup| setup.without_variable("AWS_EC2_METADATA_DISABLED").without_variable("AWS_ACCESS_KEY_ID");
    let metadata = |setup: Setup| without(setup).variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url);
    let credentials = check_with(&cloud, metadata).await;
    assert!(credentials.line("failed", "credentials").contains("Remedy: "), "{}", credentials.text);
    let region = check_with(&cloud, |setup| metadata(setup).without_variable("AWS_REGION")).await;
    assert!(region.line("failed", "region").contains("Remedy: set AWS_REGION"), "{}", region.text);
}

#[tokio::test]
async fn permissions_missing() {
    let cloud = cloud().await;
    let message = "User: arn:aws:sts::1:assumed-role/node is not authorized to perform: eks-auth:AssumeRoleForPodIdentity";
    cloud.script().always(Operation::EksAuth, Fault { message: message.into(), ..Fault::access_denied() }.into());
    check_with(&cloud, |setup| setup).await.fails("permission", &["is refused", "AmazonEKSWorkerNodePolicy"]);
    cloud.script().always(Operation::EksAuth, Fault::new(403, "AccessDeniedException", message).into());
    check_with(&cloud, |setup| setup).await.fails("permission", &["status 403", "AmazonEKSWorkerNodePolicy"]);
    cloud.script().always(Operation::EksAuth, Fault::throttling().into());
    check_with(&cloud, |setup| setup).await.warns("permission", "can't be told: AWS throttles");
    cloud.script().always(Operation::EksAuth, Fault::invalid_parameter().into());
    check_with(&cloud, |setup| setup).await.warns("permission", "can't be told: InvalidParameterException");
    cloud.script().clear();
    let other = check_with(&cloud, |setup| setup.flag("cluster-name", "other")).await;
    other.fails("permission", &["no cluster other", "compare --cluster-name and AWS_REGION"]);
    let secret = check_with(&cloud, |setup| setup.variable("AWS_SECRET_ACCESS_KEY", "wrong")).await;
    secret.fails("permission", &["InvalidSignatureException", "mend region, credentials and clock"]);
    assert!(!secret.text.contains("wrong"));
}

#[tokio::test]
async fn credentials_that_aws_does_not_accept() {
    let cloud = cloud().await;
    for fault in [Fault::expired_caller(), Fault::unrecognized_client(), Fault::new(403, "InvalidClientTokenId", "upstream text")]
    {
        cloud.script().always(Operation::EksAuth, fault.clone().into());
        cloud.script().always(Operation::DescribeCluster, fault.clone().into());
        let refused = check_with(&cloud, |setup| setup.without_flag("issuer")).await;
        let permission = refused.line("failed", "permission");
        assert!(permission.contains(&fault.code) && permission.contains("renew the node's credentials: AWS"), "{}", refused.text);
        assert!(refused.line("warning", "permission").contains("AWS does not accept the node's credentials"), "{}", refused.text);
        refused.line("ok", "credentials");
        assert!(!refused.text.contains(&fault.message), "{}", refused.text);
    }
}

#[tokio::test]
async fn the_issuer_by_eks() {
    let cloud = cloud().await;
    let searching = |setup: Setup| setup.without_flag("issuer");
    let found = check_with(&cloud, searching).await;
    assert!(found.code == Some(0) && found.text.contains("eks:DescribeCluster is allowed"), "{}", found.text);
    assert!(found.line("ok", "keys").contains(cloud.issuer()), "{}", found.text);
    let denied = || Fault::new(403, "AccessDeniedException", "User: x is not authorized to perform: eks:DescribeCluster");
    cloud.script().always(Operation::DescribeCluster, denied().into());
    let auto = check_with(&cloud, searching).await;
    auto.warns("permission", "the node's role lacks the permission eks:DescribeCluster");
    auto.warns("keys", "EKS Auth alone verifies tokens");
    let local = check_with(&cloud, |setup| searching(setup).flag("token-verification", "local")).await;
    assert_eq!(local.code, Some(1), "{}", local.text);
    assert!(local.line("failed", "permission").contains("AmazonEKSWorkerNodePolicy"), "{}", local.text);
    local.line("failed", "keys");
}

#[tokio::test]
async fn keys_away() {
    let cloud = cloud().await;
    cloud.script().always(Operation::Jwks, Fault::new(500, "x", "down").into());
    let local = check_with(&cloud, |setup| setup.flag("token-verification", "local")).await;
    local.fails("keys", &["/openid/v1/jwks", "status 500", "let this node reach it", "--issuer ISS=KEYS"]);
    check_with(&cloud, |setup| setup).await.warns("keys", "EKS Auth alone verifies tokens until it does");
    cloud.script().always(Operation::Jwks, Behaviour::Hang);
    let hangs = check_with(&cloud, |setup| setup.flag("token-verification", "local")).await;
    hangs.fails("keys", &["timed out"]);
}

#[tokio::test]
async fn a_file_of_keys_that_can_not_be_read() {
    let cloud = cloud().await;
    let of_file = |setup: Setup| setup.without_flag("issuer").flag("issuer", "https://a.example=/nowhere/keys.json");
    let local = check_with(&cloud, |setup| of_file(setup).flag("token-verification", "local")).await;
    local.fails("keys", &["/nowhere/keys.json: No such file", "Remedy: mount a JWKS"]);
    assert!(!local.line("failed", "keys").contains("HTTPS_PROXY"), "{}", local.text);
}

#[tokio::test]
async fn the_clock() {
    for (seconds, code) in [(90_i64, 1), (-90, 1), (20, 0)] {
        let clock = Clock::simulated(Clock::System.now().wall);
        clock.step(seconds);
        let cloud = Cloud::start(cloud::Config { clock, ..config() }).await.unwrap();
        let checked = check_with(&cloud, |setup| setup).await;
        if code == 0 {
            checked.warns("clock", "s behind that of AWS");
        } else {
            let direction = if seconds > 0 { "behind" } else { "ahead of" };
            checked.fails("clock", &[direction, "chrony"]);
        }
    }
}

#[tokio::test]
async fn sts_where_it_is_needed() {
    let cloud = cloud().await;
    let rule = "match: { namespace: ns, serviceAccount: sa }, role: 'arn:aws:iam::111122223333:role/r'";
    let map = ConfigMap::new("policy.yaml", &format!("rules: [{{ {rule} }}]")).unwrap();
    let by_policy = |setup: Setup| setup.without_flag("cluster-name").flag("policy", map.path().display());
    let reached = check_with(&cloud, by_policy).await;
    assert!(reached.code == Some(0) && reached.line("ok", "reach").contains("STS answers"), "{}", reached.text);
    assert!(reached.line("ok", "credentials").contains("none are needed"), "{}", reached.text);
    let away = check_with(&cloud, |setup| by_policy(setup).variable("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")).await;
    away.fails("reach", &["STS: AWS is not available", "AWS_ENDPOINT_URL_STS"]);
}

#[tokio::test]
async fn a_port_that_another_process_holds() {
    let cloud = cloud().await;
    let (setup, _folder) = node(&cloud);
    let addresses = setup.addresses();
    let holder = TcpListener::bind(addresses.credentials).await.unwrap();
    let uid = nix::unistd::geteuid();
    let taken = checked(setup.clone()).await;
    taken.fails(
        "port",
        &[&format!("{} is held by another process, of uid {uid}", addresses.credentials), "the moment it is free"],
    );
    let metrics = TcpListener::bind(addresses.metrics).await.unwrap();
    let both = checked(setup.clone()).await;
    assert!(both.line("warning", "port").contains("served the moment it is free"), "{}", both.text);
    drop((holder, metrics));
    let _holder = TcpListener::bind(addresses.metrics).await.unwrap();
    let metrics = checked(setup).await;
    let line = metrics.text.lines().find(|line| line.starts_with("warning  port")).unwrap();
    assert!(metrics.code == Some(0) && line.contains("choose another --metrics-port"), "{}", metrics.text);
}

#[tokio::test]
async fn beside_the_running_agent() {
    let cloud = cloud().await;
    let (setup, _folder) = node(&cloud);
    let _agent: Agent = setup.start().await.unwrap();
    let beside = checked(setup.clone()).await;
    assert_eq!(beside.code, Some(0), "{}", beside.text);
    assert!(beside.line("ok", "agent").contains("runs here and is ready"), "{}", beside.text);
    assert!(beside.line("ok", "port").contains("held by the agent that runs here"), "{}", beside.text);
    let elsewhere = checked(setup.flag("run-dir", "/nowhere")).await;
    elsewhere.fails("port", &["held by another process"]);
}

#[tokio::test]
async fn an_agent_that_is_not_ready_says_why() {
    let cloud = cloud().await;
    cloud.script().always(Operation::Jwks, Fault::new(500, "x", "down").into());
    let mut world = World::begin(cloud, |setup| setup.flag("token-verification", "local")).await;
    world.agent.pending("keys").await.unwrap();
    let (setup, _folder) = node(&world.cloud);
    let checked = checked(setup.flag("run-dir", world.agent.run_dir().display())).await;
    assert!(checked.line("warning", "agent").contains("is not ready: keys: "), "{}", checked.text);
}
