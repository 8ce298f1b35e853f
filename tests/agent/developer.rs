//! `credlet dev`: a laptop's application gets credentials as a pod does, simulated ones or the developer's own.

use std::fs;
use std::path::Path;

use credlet::base::clock::{Clock, from_unix_seconds};
use credlet::domain::credential::rfc3339;
use credlet::sim::cloud::Cloud;
use credlet::sim::iam::role::Role;
use credlet::sim::script::{Behaviour, Operation};
use serde_json::json;

use crate::harness::canned::Canned;
use crate::harness::laptop::Laptop;
use crate::harness::setup::REGION;
use crate::world::{cloud, token};

const START_URL: &str = "https://example.awsapps.com/start";
/// Where `aws sso login` leaves its result: the SHA-1 of that URL names it.
const LOGIN_FILE: &str = "e8be5486177c5b5392bd9aa76563515b29358e6e.json";

/// Writes profile `me` with the keys of a user of the simulated cloud, and `sso`, to which nobody has logged in.
fn profiles(home: &Path, cloud: &Cloud) {
    let (access_key_id, secret) = cloud.node_credentials();
    let keys = format!("[me]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {}\n", secret.expose());
    let sso = format!("sso_start_url = {START_URL}\nsso_region = us-east-1\nsso_account_id = 111122223333\n");
    let config = format!("[profile me]\nregion = {REGION}\n[profile sso]\nregion = {REGION}\n{sso}sso_role_name = reader\n");
    fs::create_dir_all(home.join(".aws")).unwrap();
    fs::write(home.join(".aws/credentials"), keys).unwrap();
    fs::write(home.join(".aws/config"), config).unwrap();
}

/// By which anybody of the developer's account may assume the role.
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"sts:AssumeRole"}]}"#;

/// What STS answers to `GetSessionToken`.
fn session(access_key_id: &str) -> Behaviour {
    let end = rfc3339(from_unix_seconds(Clock::System.now().unix() + 3600).unwrap()).unwrap();
    let xml = format!(
        "<GetSessionTokenResponse><GetSessionTokenResult><Credentials><AccessKeyId>{access_key_id}</AccessKeyId><SecretAccessKey>s\
         </SecretAccessKey><SessionToken>t</SessionToken><Expiration>{end}</Expiration></Credentials></GetSessionTokenResult>\
         </GetSessionTokenResponse>"
    );
    Behaviour::Body { status: 200, content_type: "text/xml", bytes: xml.into() }
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn simulated_credentials_are_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let laptop = Laptop::start(folder.path(), &["--port=0"], &[("CREDLET_PORT", "1")]).await.unwrap();
    assert!(laptop.address().unwrap().ip().is_loopback());
    assert!(laptop.exported("AWS_ENDPOINT_URL_STS").starts_with("http://127.0.0.1:"));
    assert_eq!(laptop.ask().await.unwrap().status, 200);
    assert_eq!(laptop.ask_with(&[]).await.unwrap().status, 400);
}

#[tokio::test]
async fn a_profile_is_served_to_who_has_the_token() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    profiles(folder.path(), &cloud);
    // The first session shows that the profile works, the second is served. GetCallerIdentity is the simulated cloud's own.
    let sessions = [session("ASIAFIRST"), session("ASIASECOND")];
    cloud.script().next(Operation::OtherSts, sessions);
    // The keys of another identity in the shell are not what was asked for.
    let shell = [("AWS_ENDPOINT_URL_STS", cloud.sts_url()), ("AWS_ACCESS_KEY_ID", "X"), ("AWS_SECRET_ACCESS_KEY", "Y")];
    let laptop = Laptop::start(folder.path(), &["--port=0", "--profile=me"], &shell).await.unwrap();
    assert!(laptop.log().contains("# Serves arn:aws:iam::111122223333:user/node (profile me)"), "{}", laptop.log());
    assert_eq!(laptop.exported("AWS_REGION"), REGION);
    assert_eq!(laptop.exported("AWS_ENDPOINT_URL_STS"), "");
    let document = laptop.ask().await.unwrap().json();
    assert_eq!((&document["AccessKeyId"], &document["AccountId"]), (&"ASIASECOND".into(), &"111122223333".into()));
    assert_eq!(laptop.ask().await.unwrap().json(), document, "from memory");
    let calls = [Operation::OtherSts, Operation::GetCallerIdentity, Operation::EksAuth].map(|operation| cloud.count(operation));
    assert_eq!(calls, [2, 2, 0]);

    assert_eq!(laptop.ask_with(&[]).await.unwrap().status, 400);
    let foreign = token(&cloud, &crate::world::pod("app-0"));
    assert_eq!(laptop.ask_with(&[("authorization", &foreign)]).await.unwrap().status, 401, "the token of another cluster");
    let secret = cloud.node_credentials().1.expose();
    assert!(!laptop.log().contains(secret) && !laptop.log().contains("ASIAFIRST"), "{}", laptop.log());
}

#[tokio::test]
async fn a_role_behind_the_profile_is_served_and_renewed() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    profiles(folder.path(), &cloud);
    cloud.put_role(Role::new("arn:aws:iam::222222222222:role/reader", TRUST).unwrap());
    cloud.script().next(Operation::AssumeRole, [Behaviour::Answer, Behaviour::ExpiresIn(70)]);
    let role = "--role-arn=arn:aws:iam::222222222222:role/reader";
    let shell = [("AWS_ENDPOINT_URL_STS", cloud.sts_url())];
    let laptop = Laptop::start(folder.path(), &["--port=0", "--profile=me", role], &shell).await.unwrap();
    let document = laptop.ask().await.unwrap().json();
    assert_eq!(document["AccountId"], "222222222222");
    let renewed = async {
        // With 60 seconds of life left it is served no more.
        loop {
            let answer = laptop.ask().await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            if answer.json()["AccessKeyId"] != document["AccessKeyId"] {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    crate::world::within(std::time::Duration::from_secs(20), renewed).await;
}

#[tokio::test]
async fn single_sign_on_is_a_source_like_any_other() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    profiles(folder.path(), &cloud);
    let login =
        json!({"accessToken": "login", "expiresAt": "2100-01-01T00:00:00Z", "startUrl": START_URL, "region": "us-east-1"});
    let logins = folder.path().join(".aws/sso/cache");
    fs::create_dir_all(&logins).unwrap();
    fs::write(logins.join(LOGIN_FILE), login.to_string()).unwrap();
    let end_millis = (Clock::System.now().unix() + 3600) * 1000;
    let role = json!({"accessKeyId": "ASIASSO", "secretAccessKey": "s", "sessionToken": "t", "expiration": end_millis});
    let sso = Canned::start(&json!({"roleCredentials": role})).await.unwrap();
    let identity = "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::111122223333:assumed-role/reader/me</Arn>\
                    </GetCallerIdentityResult></GetCallerIdentityResponse>";
    let identity = Behaviour::Body { status: 200, content_type: "text/xml", bytes: identity.into() };
    cloud.script().always(Operation::GetCallerIdentity, identity);
    let shell = [("AWS_ENDPOINT_URL_STS", cloud.sts_url()), ("AWS_ENDPOINT_URL_SSO", &sso.url)];
    let laptop = Laptop::start(folder.path(), &["--port=0", "--profile=sso"], &shell).await.unwrap();
    let document = laptop.ask().await.unwrap().json();
    assert_eq!((&document["AccessKeyId"], &document["AccountId"]), (&"ASIASSO".into(), &"111122223333".into()));
}

#[tokio::test]
async fn what_is_wrong_with_a_profile_is_told_at_once() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    profiles(folder.path(), &cloud);
    for (profile, text) in [("sso", "aws sso login --profile sso"), ("nobody", "profile `nobody` was not defined")] {
        let flag = format!("--profile={profile}");
        let output = Laptop::end(folder.path(), &["--port=0", &flag], &[("AWS_REGION", REGION)]).await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(text), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn it_is_no_source_of_its_own_credentials() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    profiles(folder.path(), &cloud);
    let own = "http://127.0.0.1:9911/v1/credentials";
    let shell = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", own), ("AWS_ACCESS_KEY_ID", "X"), ("AWS_SECRET_ACCESS_KEY", "Y")];
    let output = Laptop::end(folder.path(), &["--profile=me"], &shell).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("can't come from itself"), "{}", stderr(&output));
}
