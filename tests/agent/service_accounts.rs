//! `--service-account-roles`: the annotations of a caller's service account, from an API server that comes and goes.

use std::sync::Arc;
use std::time::Duration;

use credlet::grants::file::PolicyFile;
use credlet::sim::cloud::{self, Cloud};
use credlet::sim::iam::role::Role;
use credlet::sim::pod::PodSpec;
use credlet::sim::role_request::RoleRequest;
use serde_json::{Value, json};

use crate::chains::{asked_for, federated, trust};
use crate::harness::api_server::{ApiServer, Health, TOKEN};
use crate::harness::http::Answer;
use crate::laboratory::{Laboratory, clock};
use crate::world::{TOKEN_LIFE, config, pod, within};

const MINUTE: Duration = Duration::from_secs(60);

/// An agent that asks an API server, and a pod whose service account that has.
struct Scene {
    laboratory: Laboratory,
    server: ApiServer,
    pod: PodSpec,
}

impl Scene {
    async fn new(annotations: Value) -> Self {
        Self::ruled(annotations, None).await
    }

    async fn ruled(annotations: Value, policy: Option<PolicyFile>) -> Self {
        let (clock, server, pod) = (clock(), ApiServer::start().await.unwrap(), pod("app-0"));
        server.put(&pod.namespace, &pod.service_account, &pod.service_account_uid, &annotations);
        let cloud = Cloud::start(cloud::Config { clock: clock.clone(), ..config() }).await.unwrap();
        let issuer = format!("--issuer={}={}", cloud.issuer(), cloud.jwks_url());
        let access = server.access().unwrap();
        let laboratory = Laboratory::with_config(clock, cloud, &[&issuer], |config| {
            config.grants.service_accounts = Some(Arc::clone(&access));
            config.grants.policy = policy;
        });
        laboratory.become_ready().await;
        Self { laboratory, server, pod }
    }

    fn annotate(&self, annotations: &Value) {
        self.server.put(&self.pod.namespace, &self.pod.service_account, &self.pod.service_account_uid, annotations);
    }

    async fn ask(&self) -> Answer {
        self.laboratory.ask_for(&self.pod).await
    }

    async fn ask_by_web_identity(&self) -> Answer {
        let token = self.laboratory.cloud.keys().token(&self.pod, "sts.amazonaws.com", TOKEN_LIFE);
        self.laboratory.ask(&token).await
    }

    fn reads(&self) -> usize {
        self.server.requests().len()
    }

    /// Waits until what is known is of this very second.
    async fn read_anew(&self) {
        let anew = async {
            while self.laboratory.status().await["grants"]["service_accounts"]["oldest_seconds"] != 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(Duration::from_secs(15), anew).await;
    }
}

#[tokio::test]
async fn an_account_is_read_on_first_use_by_its_metadata_and_again_while_it_is_used() {
    let scene = Scene::new(json!({})).await;
    for _ in 0..3 {
        assert_eq!(scene.ask().await.status, 200);
    }
    let path = "/api/v1/namespaces/default/serviceaccounts/app";
    let expected = format!("GET {path} application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1 Bearer {TOKEN}");
    assert_eq!(scene.server.requests(), [expected]);
    scene.laboratory.pass(MINUTE / 2).await;
    assert_eq!(scene.ask().await.status, 200);
    scene.read_anew().await;
    scene.laboratory.pass(MINUTE / 2).await;
    let status = scene.laboratory.status().await;
    let age = &status["grants"]["service_accounts"]["oldest_seconds"];
    assert!(age.as_u64().is_some_and(|age| (30..60).contains(&age)), "{age}");
    scene.laboratory.pass(10 * MINUTE).await;
    assert_eq!(scene.reads(), 2, "nobody asks, nothing is read");
    let status = scene.laboratory.status().await;
    let accounts = &status["grants"]["service_accounts"];
    assert_eq!((&accounts["known"], &accounts["error"], &status["advice"]), (&json!(1), &Value::Null, &json!({})));
    assert_eq!(accounts["oldest_seconds"], Value::Null, "nobody uses it");
}

#[tokio::test]
async fn a_changed_annotation_counts_within_a_minute() {
    let scene = Scene::new(json!({})).await;
    let before = scene.ask().await;
    assert_eq!(before.status, 200);
    scene.annotate(&json!({ "credlet.io/colour": "red" }));
    scene.laboratory.pass(MINUTE).await;
    let answer = scene.ask().await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    assert!(answer.body.contains("credlet.io/colour"), "{}", answer.body);
    let revoked = r#"credlet_cache_evictions_total{cause="revoked"} 1"#;
    scene.laboratory.wait_for(|laboratory| laboratory.shows(revoked)).await;

    scene.annotate(&json!({ "meta.helm.sh/release-name": "app" }));
    scene.laboratory.pass(MINUTE).await;
    let after = scene.ask().await;
    assert!(after.status == 200 && after.body != before.body, "what was dropped is fetched anew");
    assert_eq!(scene.laboratory.exchanges(), 2);
}

#[tokio::test]
async fn a_changed_role_is_served_within_a_minute() {
    let [first, second] = ["first", "second"].map(|name| format!("arn:aws:iam::111111111111:role/{name}"));
    let scene = Scene::new(json!({ "eks.amazonaws.com/role-arn": first })).await;
    let cloud = &scene.laboratory.cloud;
    for role in [&first, &second] {
        cloud.put_role(federated(cloud, role));
    }
    let before = scene.ask_by_web_identity().await;
    assert_eq!(before.status, 200, "{}", before.body);
    scene.annotate(&json!({ "eks.amazonaws.com/role-arn": second }));
    scene.laboratory.pass(MINUTE).await;
    let after = scene.ask_by_web_identity().await;
    assert!(after.status == 200 && after.body != before.body, "{}", after.body);
    assert_eq!(asked_for(cloud), [first, second]);
}

#[tokio::test]
async fn the_way_that_annotations_name_is_gone_with_all_that_they_say() {
    let [base, target] = ["arn:aws:iam::111111111111:role/base", "arn:aws:iam::222222222222:role/target"];
    let scene = Scene::new(json!({
        "eks.amazonaws.com/role-arn": base,
        "credlet.io/target-role-arn": target,
        "credlet.io/external-id": "{cluster}/{namespace}",
        "credlet.io/session-name": "{serviceAccount}@{namespace}",
        "credlet.io/duration": "2h",
    }))
    .await;
    let cloud = &scene.laboratory.cloud;
    cloud.put_role(federated(cloud, base).maximum(120 * MINUTE));
    let by_external_id = trust(base, r#""sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"demo/default"}}"#);
    cloud.put_role(Role::new(target, &by_external_id).unwrap());
    let answer = scene.ask_by_web_identity().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["AccountId"], "222222222222");
    let roles: Vec<RoleRequest> = cloud.calls().into_iter().filter_map(|call| call.role).collect();
    let session_name = "app@default".to_owned();
    let plain = RoleRequest { session_name, ..RoleRequest::default() };
    let first = RoleRequest { role_arn: base.to_owned(), duration: Some(120 * MINUTE), ..plain.clone() };
    let external_id = Some("demo/default".to_owned());
    let second = RoleRequest { role_arn: target.to_owned(), duration: Some(60 * MINUTE), external_id, ..plain };
    assert_eq!(roles, [first, second]);
}

#[tokio::test]
async fn a_change_that_changes_no_grant_drops_nothing() {
    let scene = Scene::new(json!({})).await;
    let before = scene.ask().await.body;
    scene.annotate(&json!({ "eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/irsa" }));
    scene.laboratory.pass(MINUTE).await;
    assert_eq!(scene.ask().await.body, before, "Pod Identity's association decides for this audience");
    assert_eq!(scene.laboratory.exchanges(), 1);
}

#[tokio::test]
async fn what_is_known_serves_while_the_api_server_is_away() {
    let scene = Scene::new(json!({})).await;
    let before = scene.ask().await.body;
    scene.server.set_health(Health::Away);
    for _ in 0..10 {
        scene.laboratory.pass(25 * MINUTE).await;
        let answer = scene.ask().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    scene.laboratory.wait_for(|laboratory| laboratory.context.readiness.advice().contains_key("service accounts")).await;
    assert!(
        scene.laboratory.status().await["grants"]["service_accounts"]["error"].as_str().unwrap().starts_with("default/app: ")
    );
    scene.laboratory.wait_for(|laboratory| laboratory.exchanges() == 2).await;
    let renewed = scene.ask().await;
    assert!(renewed.status == 200 && renewed.body != before, "renewals go on");

    let newcomer = PodSpec::new("default", "new", "new-0");
    scene.server.put("default", "new", &newcomer.service_account_uid, &json!({}));
    let before = scene.laboratory.exchanges();
    let answer = scene.laboratory.ask_for(&newcomer).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "ServiceUnavailable"));
    assert!(!answer.header("retry-after").is_empty());
    assert!(scene.laboratory.shows(r#"credlet_refusals_total{reason="service_account_unavailable"} 1"#));
    assert_eq!(scene.laboratory.exchanges(), before);

    scene.server.set_health(Health::Well);
    scene.laboratory.pass(Duration::from_secs(4)).await;
    assert_eq!(scene.laboratory.ask_for(&newcomer).await.status, 200, "new ones come after it returns");
}

#[tokio::test]
async fn an_account_made_anew_is_not_the_tokens() {
    let scene = Scene::new(json!({})).await;
    assert_eq!(scene.ask().await.status, 200);
    scene.server.put("default", "app", "another-uid", &json!({}));
    scene.laboratory.pass(MINUTE).await;
    let answer = scene.ask().await;
    assert!(answer.status == 403 && answer.body.contains("made anew"), "{}", answer.body);
    let revoked = r#"credlet_cache_evictions_total{cause="revoked"} 1"#;
    scene.laboratory.wait_for(|laboratory| laboratory.shows(revoked)).await;

    let mut new = pod("app-1");
    new.service_account_uid = "third-uid".to_owned();
    scene.server.put("default", "app", "third-uid", &json!({}));
    scene.laboratory.pass(Duration::from_secs(2)).await;
    assert_eq!(scene.laboratory.ask_for(&new).await.status, 200, "its own pods don't wait until an old answer ages");
}

#[tokio::test]
async fn without_an_account_the_token_alone_decides() {
    let scene = Scene::new(json!({})).await;
    scene.server.delete("default", "app");
    let unknown = scene.laboratory.ask_at("/v1/credentials/name", &scene.pod).await;
    assert!(unknown.status == 403 && unknown.body.contains("no targets"), "{}", unknown.body);
    assert_eq!(scene.reads(), 0, "annotations make no targets");
    assert_eq!(scene.ask().await.status, 200, "EKS Auth's to decide");
    let answer = scene.ask_by_web_identity().await;
    assert!(answer.status == 403 && answer.body.contains("deleted"), "{}", answer.body);
}

#[tokio::test]
async fn that_an_account_is_gone_refuses_no_pod_of_pod_identity_while_the_api_server_is_away() {
    let scene = Scene::new(json!({})).await;
    scene.server.delete("default", "app");
    let before = scene.ask().await.body;
    scene.server.set_health(Health::Away);
    for _ in 0..3 {
        scene.laboratory.pass(MINUTE).await;
        let answer = scene.ask().await;
        assert_eq!((answer.status, &answer.body), (200, &before), "its credential is held");
    }
}

#[tokio::test]
async fn an_account_that_comes_back_is_its_new_pods_at_once() {
    let scene = Scene::new(json!({})).await;
    scene.server.delete("default", "app");
    assert!(scene.ask_by_web_identity().await.body.contains("deleted"));
    let role = "arn:aws:iam::111111111111:role/app";
    scene.laboratory.cloud.put_role(federated(&scene.laboratory.cloud, role));
    let new = PodSpec { service_account_uid: "new-uid".to_owned(), ..pod("app-1") };
    scene.server.put("default", "app", "new-uid", &json!({ "eks.amazonaws.com/role-arn": role }));
    scene.laboratory.pass(Duration::from_secs(2)).await;
    let token = scene.laboratory.cloud.keys().token(&new, "sts.amazonaws.com", TOKEN_LIFE);
    let answer = scene.laboratory.ask(&token).await;
    assert_eq!(answer.status, 200, "a 403 ends an SDK's search: {}", answer.body);
}

#[tokio::test]
async fn the_policy_file_wins_and_nothing_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, "rules: [ { match: { namespace: default, serviceAccount: app }, exchange: pod-identity } ]").unwrap();
    let policy = PolicyFile::open(&path, Some("demo".into())).unwrap();
    let scene = Scene::ruled(json!({ "credlet.io/colour": "red" }), Some(policy)).await;
    assert_eq!(scene.ask().await.status, 200);
    let other = PodSpec::new("default", "other", "other-0");
    assert_eq!(scene.laboratory.ask_for(&other).await.status, 200);
    let paths: Vec<String> = scene.server.requests();
    assert!(paths.len() == 1 && paths[0].contains("/serviceaccounts/other "), "{paths:?}");
}

#[tokio::test]
async fn one_read_serves_all_who_wait_and_few_go_on_at_once() {
    let scene = Arc::new(Scene::new(json!({})).await);
    scene.server.set_health(Health::Slow(Duration::from_millis(100)));
    let mut pods: Vec<PodSpec> = (0..16).map(|number| pod(&format!("app-{number}"))).collect();
    pods.extend((0..14).map(|number| PodSpec::new("default", &format!("account-{number}"), "pod")));
    let mut asked = tokio::task::JoinSet::new();
    for pod in pods {
        scene.server.put("default", &pod.service_account, &pod.service_account_uid, &json!({}));
        let scene = Arc::clone(&scene);
        asked.spawn(async move { scene.laboratory.ask_for(&pod).await.code() });
    }
    // EKS Auth's budget may put some off; annotations put off nobody.
    asked.join_all().await;
    assert!(!scene.laboratory.shows(r#"credlet_refusals_total{reason="service_account_unavailable"} 1"#));
    assert_eq!((scene.reads(), scene.server.most_at_once()), (15, 10));
}

#[tokio::test]
async fn a_silent_api_server_makes_nobody_wait_beyond_the_deadline_and_who_is_known_hardly() {
    let scene = Scene::new(json!({})).await;
    assert_eq!(scene.ask().await.status, 200);
    scene.server.set_health(Health::Silent);
    scene.laboratory.pass(MINUTE).await;
    let timed = async |pod: &PodSpec| {
        let begun = scene.laboratory.context.clock.now().mono;
        let answer = scene.laboratory.ask_for(pod).await;
        (answer.status, scene.laboratory.context.clock.now().mono - begun)
    };
    let (status, took) = timed(&scene.pod).await;
    assert!(status == 200 && (Duration::from_millis(250)..Duration::from_millis(600)).contains(&took), "{status} {took:?}");
    let (status, took) = timed(&scene.pod).await;
    assert!(status == 200 && took < Duration::from_millis(250), "the moment is counted once: {took:?}");
    let (status, took) = timed(&PodSpec::new("default", "new", "new-0")).await;
    assert!(status == 503 && took < Duration::from_millis(1_000), "{status} {took:?}");
}
