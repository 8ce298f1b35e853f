//! What operators tell every AWS program by variables and files, they tell credlet the same way.

use std::net::{IpAddr, Ipv4Addr};

use credlet::sim::script::Operation;
use serde_json::json;

use crate::harness::canned::Canned;
use crate::harness::http::Answer;
use crate::harness::relay::{Authority, Relay};
use crate::harness::setup::{REGION, Setup};
use crate::world::{World, pod};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A pod's first answer in a world set up as `change` says.
async fn first_answer(change: impl FnOnce(Setup) -> Setup) -> (World, Answer) {
    let world = World::with(change).await;
    let answer = world.agent.ask(&world.token(&pod("app-0"))).await.unwrap();
    (world, answer)
}

/// The simulated cloud takes signatures for its own region only.
#[tokio::test]
async fn the_region_is_the_variables_or_the_profiles() {
    let (_, answer) = first_answer(|setup| setup.variable("AWS_REGION", "us-west-2")).await;
    assert_eq!(answer.status, 503, "signed for another region");
    let (world, answer) = first_answer(|setup| setup.without_variable("AWS_REGION")).await;
    assert_eq!((answer.status, world.exchanges()), (503, 0), "no region");
    assert!(world.agent.log().contains("no AWS region is known"), "{}", world.agent.log());
    let profile = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(profile.path(), format!("[default]\nregion = {REGION}\n")).unwrap();
    let file = profile.path().display();
    let (_, answer) = first_answer(|setup| setup.without_variable("AWS_REGION").variable("AWS_CONFIG_FILE", file)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test]
async fn credentials_come_from_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    let [config, credentials] = ["config", "credentials"].map(|name| folder.path().join(name));
    let cloud = crate::world::cloud().await;
    let (access_key_id, secret) = cloud.node_credentials();
    let keys = format!("aws_access_key_id = {access_key_id}\naws_secret_access_key = {}\n", secret.expose());
    std::fs::write(&credentials, format!("[default]\naws_access_key_id = A\naws_secret_access_key = B\n[node]\n{keys}")).unwrap();
    std::fs::write(&config, format!("[default]\nregion = us-west-2\n[profile node]\nregion = {REGION}\n")).unwrap();
    let mut world = World::begin(cloud, |setup| {
        let setup = setup.without_variable("AWS_ACCESS_KEY_ID").without_variable("AWS_SECRET_ACCESS_KEY");
        let setup = setup.without_variable("AWS_REGION").variable("AWS_PROFILE", "node");
        setup.variable("AWS_CONFIG_FILE", config.display()).variable("AWS_SHARED_CREDENTIALS_FILE", credentials.display())
    })
    .await;
    world.agent.become_ready().await.unwrap();
    assert_eq!(world.agent.ask(&world.token(&pod("app-0"))).await.unwrap().status, 200, "{}", world.agent.log());
    assert_eq!(world.agent.status().await.unwrap()["node_credentials"]["source"], "Profile");
}

#[tokio::test]
async fn the_endpoint_may_come_from_the_sdks_variables() {
    for variable in ["AWS_ENDPOINT_URL_EKS_AUTH", "AWS_ENDPOINT_URL"] {
        let cloud = crate::world::cloud().await;
        let url = cloud.eks_auth_url().to_owned();
        let mut world = World::begin(cloud, |setup| setup.without_flag("endpoint").variable(variable, url)).await;
        world.agent.become_ready().await.unwrap();
        assert_eq!(world.agent.ask(&world.token(&pod("app-0"))).await.unwrap().status, 200, "{variable}");
    }
}

#[tokio::test]
async fn the_issuer_comes_from_the_eks_that_the_sdks_variable_names() {
    let cloud = crate::world::cloud().await;
    let cluster = json!({"cluster": {"identity": {"oidc": {"issuer": cloud.issuer()}}}});
    let eks = Canned::start(&cluster).await.unwrap();
    let mut world = World::begin(cloud, |setup| {
        let setup = setup.without_flag("issuer").flag("token-verification", "local");
        setup.variable("AWS_ENDPOINT_URL_EKS", &eks.url)
    })
    .await;
    world.agent.become_ready().await.unwrap();
    assert_eq!(world.agent.ask(&world.token(&pod("app-0"))).await.unwrap().status, 200, "{}", world.agent.log());
    let status = world.agent.status().await.unwrap();
    assert_eq!(status["verification"]["issuers"][0]["issuer"], world.cloud.issuer());
    let called = r#"credlet_upstream_requests_total{operation="describe_cluster",result="ok"}"#;
    assert_eq!(world.agent.sample(called).await.unwrap(), 1);
}

/// The host is known without a packet leaving this machine: the agent asks the proxy for it.
#[tokio::test]
async fn the_sdk_chooses_the_host_for_region_fips_and_dual_stack() {
    for (variables, host) in [
        (vec![], "eks-auth.eu-central-1.api.aws:443"),
        (vec![("AWS_USE_DUALSTACK_ENDPOINT", "true")], "eks-auth.eu-central-1.api.aws:443"),
        (vec![("AWS_USE_FIPS_ENDPOINT", "true")], "eks-auth-fips.eu-central-1.api.aws:443"),
        (vec![("AWS_REGION", "cn-north-1")], "eks-auth.cn-north-1.api.amazonwebservices.com.cn:443"),
        (vec![("AWS_REGION", "us-gov-west-1")], "eks-auth.us-gov-west-1.api.aws:443"),
    ] {
        let proxy = Relay::proxy(LOCALHOST, None).await.unwrap();
        let url = format!("http://{}", proxy.address);
        let (_, answer) = first_answer(|setup| {
            let setup = setup.without_flag("endpoint").variable("HTTPS_PROXY", url);
            variables.into_iter().fold(setup, |setup, (name, value)| setup.variable(name, value))
        })
        .await;
        assert_eq!(answer.status, 503);
        let heads = proxy.heads();
        assert!(!heads.is_empty() && heads.iter().all(|head| head.starts_with(&format!("CONNECT {host} "))), "{heads:?}");
    }
}

#[tokio::test]
async fn a_ca_bundle_is_trusted_and_nothing_else_is() {
    let authority = Authority::new().unwrap();
    let bundle = authority.bundle().unwrap();
    for (trusted, status) in [(true, 200), (false, 503)] {
        let cloud = crate::world::cloud().await;
        let target = cloud.eks_auth_url().trim_start_matches("http://").parse().unwrap();
        let front = Relay::tls(&authority, LOCALHOST, target).await.unwrap();
        let mut world = World::begin(cloud, |setup| {
            let setup = setup.flag("endpoint", format!("https://{}", front.address));
            if trusted { setup.variable("AWS_CA_BUNDLE", bundle.path().display()) } else { setup }
        })
        .await;
        world.agent.become_ready().await.unwrap();
        let answer = world.agent.ask(&world.token(&pod("app-0"))).await.unwrap();
        assert_eq!((answer.status, front.heads().is_empty()), (status, !trusted), "{}", world.agent.log());
    }
}

#[tokio::test]
async fn a_proxy_sees_the_tunnel_and_no_token() {
    let authority = Authority::new().unwrap();
    let bundle = authority.bundle().unwrap();
    let cloud = crate::world::cloud().await;
    let target = cloud.eks_auth_url().trim_start_matches("http://").parse().unwrap();
    // An address of TEST-NET-1 (RFC 5737), which leads nowhere but through the proxy.
    let host = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let front = Relay::tls_for(&authority, LOCALHOST, host, target).await.unwrap();
    let proxy = Relay::proxy(LOCALHOST, Some(front.address)).await.unwrap();
    let mut world = World::begin(cloud, |setup| {
        let setup = setup.flag("endpoint", format!("https://{host}")).variable("AWS_CA_BUNDLE", bundle.path().display());
        setup.variable("HTTPS_PROXY", format!("http://user:password@{}", proxy.address))
    })
    .await;
    world.agent.become_ready().await.unwrap();
    let token = world.token(&pod("app-0"));
    let answer = world.agent.ask(&token).await.unwrap();
    assert_eq!(answer.status, 200, "{}", world.agent.log());
    let heads = proxy.heads();
    assert!(heads[0].starts_with("CONNECT 192.0.2.1:443 ") && heads[0].contains("Basic dXNlcjpwYXNzd29yZA=="), "{heads:?}");
    assert!(!heads.concat().contains(&token));
    assert_eq!(world.cloud.count(Operation::EksAuth), 1);
    assert!(!world.agent.log().contains("password"));
}
