//! `credlet server` from start to stop, with everything well.

use std::time::Duration;

use aws_sdk_sts::config::{BehaviorVersion, Credentials, Region};
use credlet::sim::script::{Behaviour, Operation};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::http::Answer;
use crate::harness::setup::{REGION, credlet};
use crate::world::{World, cloud, pod};

/// Whom STS takes the holder of what was served for.
async fn identity(world: &World, served: &Value) -> String {
    let member = |name: &str| served[name].as_str().unwrap();
    let keys = (member("AccessKeyId"), member("SecretAccessKey"), member("Token"));
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(world.cloud.sts_url())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(keys.0, keys.1, Some(keys.2.to_owned()), None, "served"));
    let client = aws_sdk_sts::Client::from_conf(config.build());
    client.get_caller_identity().send().await.unwrap().arn().unwrap().to_owned()
}

fn is_document(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((answer.header("content-type"), answer.header("cache-control")), ("application/json", "no-store"));
    let document = answer.json();
    let members: Vec<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["AccessKeyId", "AccountId", "Expiration", "SecretAccessKey", "Token"]);
    assert!(document.as_object().unwrap().values().all(|value| value.as_str().is_some_and(|text| !text.is_empty())));
    let expiration: Vec<u8> = document["Expiration"].as_str().unwrap().bytes().collect();
    let shape: Vec<u8> = expiration.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte }).collect();
    assert_eq!(shape, b"0000-00-00T00:00:00Z");
}

#[tokio::test]
async fn a_pod_gets_credentials_of_its_own_role() {
    let world = World::start().await;
    let token = world.token(&pod("app-0"));
    let first = world.agent.ask(&token).await.unwrap();
    is_document(&first);
    let arn = identity(&world, &first.json()).await;
    assert!(arn.starts_with("arn:aws:sts::111122223333:assumed-role/default-app/eks-demo-app-0-"), "{arn}");
    assert_eq!(first.json()["AccountId"], "111122223333");

    let bearer = format!("Bearer {token}");
    let again = world.agent.get("/v1/credentials?x=y", &[("authorization", &bearer), ("accept", "text/html")]).await.unwrap();
    assert_eq!(again.body, first.body, "from memory");
    let other = world.agent.ask(&world.token(&pod("app-1"))).await.unwrap();
    assert_ne!(other.json()["AccessKeyId"], first.json()["AccessKeyId"], "another pod is another session");
    assert_eq!(world.exchanges(), 2);
    assert_eq!(world.agent.requests("fresh").await.unwrap(), 2);
    assert_eq!(world.agent.requests("hit").await.unwrap(), 1);
}

#[tokio::test]
async fn probes_say_what_is_pending_and_turn_well() {
    let cloud = cloud().await;
    cloud.script().always(Operation::Jwks, Behaviour::Hang);
    let mut world = World::begin(cloud, |setup| setup.flag("token-verification", "local")).await;
    let reason = world.agent.pending("keys").await.unwrap();
    assert!(!reason.is_empty());
    let answer = world.agent.probe("/readyz").await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (503, "application/json"));
    assert_eq!(answer.json()["ready"], false);
    assert_eq!(world.agent.probe("/healthz").await.unwrap().status, 200, "health asks nobody else");
    assert_eq!(world.agent.probe("/").await.unwrap().status, 404);

    world.cloud.script().clear();
    world.agent.become_ready().await.unwrap();
    assert_eq!(world.agent.probe("/readyz").await.unwrap().json()["pending"], serde_json::json!({}));
}

#[tokio::test]
async fn status_tells_names_and_times_to_operators() {
    let world = World::start().await;
    world.agent.ask(&world.token(&pod("app-0"))).await.unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = credlet("status");
        command.arg("--run-dir").arg(world.agent.run_dir()).args(arguments).output().await.unwrap()
    };
    let table = String::from_utf8(run(&[]).await.stdout).unwrap();
    for part in ["ready", &world.agent.address().to_string(), "default", "app-0", "default-app"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    let json: Value = serde_json::from_slice(&run(&["--json"]).await.stdout).unwrap();
    assert_eq!((&json["ready"], &json["entries"][0]["pod_name"]), (&true.into(), &"app-0".into()));
    assert_eq!(json["node_credentials"]["source"], "EnvVars");
    for probe in ["--ready", "--healthy"] {
        let output = run(&[probe]).await;
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
}

#[tokio::test]
async fn status_of_no_agent_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    for probe in ["--ready", "--healthy"] {
        // A port that nobody listens on.
        let mut status = credlet("status");
        let output = status.args([probe, "--probe-port=1", "--run-dir"]).arg(folder.path()).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{probe}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("no agent answers at"), "{probe}");
    }
}

#[tokio::test]
async fn an_agent_without_a_status_socket_is_healthy_by_its_probe_port() {
    let no_folder = tempfile::NamedTempFile::new().unwrap();
    let mut port = 0;
    let _world = World::with(|setup| {
        port = setup.addresses().probes.port();
        setup.flag("run-dir", no_folder.path().display())
    })
    .await;
    // Readiness is this very process's alone: the port may be another's.
    for (probe, code) in [("--healthy", 0), ("--ready", 1)] {
        let mut status = credlet("status");
        let status = status.arg(probe).arg("--run-dir").arg(no_folder.path()).env("CREDLET_PROBE_PORT", port.to_string());
        assert_eq!(status.output().await.unwrap().status.code(), Some(code), "{probe}");
    }
}

#[tokio::test]
async fn version_names_version_and_commit() {
    let output = credlet("version").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("credlet {} (commit ", env!("CARGO_PKG_VERSION"))), "{text}");
}

#[tokio::test]
async fn every_line_is_json_and_the_audit_trail_is_whole_at_any_level() {
    let world = World::with(|setup| setup.flag("verbosity", "error")).await;
    let pod = pod("app-0");
    let token = world.token(&pod);
    let served = world.agent.ask(&token).await.unwrap().json();
    world.agent.ask(&token).await.unwrap();
    let other = world.cloud.keys().token(&pod, "sts.amazonaws.com", Duration::from_secs(3600));
    assert_eq!(world.agent.ask(&other).await.unwrap().status, 403);
    let [issued, refused] = <[Value; 2]>::try_from(world.agent.audit()).unwrap();
    let calls = world.cloud.calls();
    let exchange = calls.iter().find(|call| call.operation == Operation::EksAuth).unwrap();

    let expected = [
        ("outcome", "issued"),
        ("issuer", world.cloud.issuer()),
        ("namespace", "default"),
        ("service_account", "app"),
        ("pod_name", "app-0"),
        ("pod_uid", &pod.pod_uid),
        ("node", "node-1"),
        ("exchange", "pod-identity"),
        ("access_key_id", served["AccessKeyId"].as_str().unwrap()),
        ("expiration", served["Expiration"].as_str().unwrap()),
        ("upstream_request_id", &exchange.request_id),
    ];
    for (name, value) in expected {
        assert_eq!(issued[name], value, "{name} in {issued}");
    }
    assert!(issued["role_arn"].as_str().unwrap().contains(":assumed-role/default-app/"), "{issued}");
    for name in ["timestamp", "association_id", "token_id"] {
        assert!(issued[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {issued}");
    }
    assert_eq!((&refused["outcome"], &refused["reason"]), (&"refused".into(), &"no_role".into()));
    assert_eq!((&refused["pod_name"], &refused["namespace"]), (&"app-0".into(), &"default".into()));
    let log = world.agent.log();
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object())), "{log}");
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight() {
    let mut world = World::start().await;
    let gate = std::sync::Arc::default();
    world.cloud.script().next(Operation::EksAuth, [Behaviour::held(&gate)]);
    let token = world.token(&pod("app-0"));
    let url = world.agent.address();
    let request =
        tokio::spawn(async move { crate::harness::http::get(url, "/v1/credentials", &[("authorization", &token)]).await });
    world.reached(Operation::EksAuth, 1).await;
    world.agent.terminate().unwrap();
    world.agent.wait_for(async |agent| Ok(agent.log().contains("stopping"))).await.unwrap();
    gate.notify_one();
    assert_eq!(request.await.unwrap().unwrap().status, 200);
    assert!(TcpStream::connect(url).await.is_err(), "nobody else is let in");
    assert_eq!(world.agent.ended().await.unwrap().code(), Some(0));
}
