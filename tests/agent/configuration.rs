//! Configurations that can't work: told whole, before anything is served.

use std::process::Output;

use crate::harness::setup::Setup;
use crate::world::cloud;

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn all_faults_are_told_at_once_a_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let setup = Setup::on_loopback(folder.path()).unwrap();
    let setup = setup.flag("port", "eighty").flag("bind-hosts", "0.0.0.0").flag("pod-rate", "-1").flag("verbosity", "loud");
    let setup = setup.flag("source-check", "yes");
    let output = setup.variable("AWS_CA_BUNDLE", missing.display()).end().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    for fault in [
        "--cluster-name: ",
        "--port: ",
        "--bind-hosts: ",
        "--source-check: \"yes\" is not off, observe or enforce",
        "--pod-rate: ",
        "--verbosity: ",
        "AWS_CA_BUNDLE names ",
    ] {
        assert_eq!(text.lines().filter(|line| line.starts_with(fault)).count(), 1, "{fault} in {text}");
    }
    assert_eq!(text.lines().count(), 7, "{text}");
}

#[tokio::test]
async fn an_unknown_flag_is_a_fault_of_the_same_kind() {
    let folder = tempfile::tempdir().unwrap();
    let output = Setup::on_loopback(folder.path()).unwrap().flag("colour", "red").end().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("--colour"));
}

#[tokio::test]
async fn its_own_endpoint_is_no_source_of_its_own_credentials() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).without_variable("AWS_ACCESS_KEY_ID");
    let url = setup.url();
    let output = setup.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", url).end().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    assert!(text.contains("AWS_CONTAINER_CREDENTIALS_FULL_URI") && text.contains("can't come from itself"), "{text}");
}

#[tokio::test]
async fn variables_stand_in_for_flags_and_flags_win() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).without_flag("cluster-name");
    let setup = setup.variable("CREDLET_CLUSTER_NAME", "demo").variable("CREDLET_PORT", "1");
    let agent = setup.start().await.unwrap();
    let token = crate::world::token(&cloud, &crate::world::pod("app-0"));
    assert_eq!(agent.ask(&token).await.unwrap().status, 200);
}
