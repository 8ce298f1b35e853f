//! The image swapped: command lines of the EKS Pod Identity Agent's manifests, by the names that they use.

use std::path::Path;

use crate::harness::setup::{CREDLET, Setup, image_paths};
use crate::world::{World, cloud, pod, token};

/// What each of its charts and sample manifests passes to `server`; ports are those of the test.
const MANIFESTS: [(&str, &str); 7] = [
    ("default", "--port PORT --cluster-name demo --probe-port PROBE -v trace"),
    ("with metrics", "--port PORT --cluster-name demo --probe-port PROBE --metrics-port METRICS -v trace"),
    ("hybrid", "--port PORT --cluster-name demo --probe-port PROBE -v trace --rotate-credentials true"),
    ("hybrid, metrics", "--port PORT --cluster-name demo --probe-port PROBE --metrics-port METRICS --rotate-credentials true"),
    ("pod liveness", "--port PORT --cluster-name demo --probe-port PROBE -v trace"),
    ("sample", "--endpoint ENDPOINT -p PORT -v trace -c demo --probe-port PROBE"),
    (
        "arguments twice",
        "--port PORT --cluster-name demo --probe-port 1 --metrics-port METRICS --probe-port PROBE -v info -v trace",
    ),
];

/// `arguments` for the addresses and endpoint of a test.
fn words(paths: &[String], command: &str, arguments: &str, setup: &Setup, endpoint: &str) -> Vec<String> {
    let addresses = setup.addresses();
    let known = [
        ("PORT", addresses.credentials.port().to_string()),
        ("PROBE", addresses.probes.port().to_string()),
        ("METRICS", addresses.metrics.port().to_string()),
        ("ENDPOINT", endpoint.to_owned()),
    ];
    let value =
        |word: &str| known.iter().find(|(name, _)| *name == word).map_or_else(|| word.to_owned(), |(_, value)| value.clone());
    paths.iter().cloned().chain([command.to_owned()]).chain(arguments.split_whitespace().map(value)).collect()
}

#[tokio::test]
async fn each_manifest_starts_and_serves() {
    for (name, arguments) in MANIFESTS {
        let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
        let (key, secret) = cloud.node_credentials();
        let home = folder.path().join(".aws");
        std::fs::create_dir_all(&home).unwrap();
        let profile = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {}\n", secret.expose());
        std::fs::write(home.join("credentials"), profile).unwrap();
        let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).without_flag("cluster-name");
        let setup = setup.without_variable("AWS_ACCESS_KEY_ID").without_variable("AWS_SECRET_ACCESS_KEY");
        let line = words(&image_paths(folder.path()).unwrap(), "server", arguments, &setup, cloud.eks_auth_url());
        let agent = setup.line(&line).start().await.unwrap();
        assert_eq!(agent.ask(&token(&cloud, &pod("app-0"))).await.unwrap().status, 200, "{name}: {}", agent.log());
        let told = agent.log().lines().filter(|line| line.contains("other than with")).count();
        assert_eq!(told, usize::from(name == "sample"), "{name}: {}", agent.log());
    }
}

#[tokio::test]
async fn differences_and_what_is_unknown_are_told_once_at_the_start() {
    let (cloud, folder) = (cloud().await, tempfile::tempdir().unwrap());
    let setup = Setup::on_loopback(folder.path()).unwrap().of(&cloud).without_flag("cluster-name");
    let arguments = "-c demo -p PORT --max-service-qps 3 --enable-imds-credentials true --of-a-later-version=7";
    let [_, path] = image_paths(folder.path()).unwrap();
    let line = words(&[path], "server", arguments, &setup, "");
    let agent = setup.line(&line).start().await.unwrap();
    let log = agent.log();
    for text in [
        "--max-service-qps: other than with",
        "--enable-imds-credentials is ignored together with",
        "--of-a-later-version is ignored",
    ] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(text)).collect();
        assert!(lines.len() == 1 && lines[0].contains("WARN"), "{text}: {log}");
    }
}

#[tokio::test]
async fn by_its_own_name_an_unknown_flag_stays_a_fault_and_nothing_differs() {
    let world = World::with(|setup| setup.flag("max-service-qps", 4)).await;
    assert!(!world.agent.log().contains("other than with"), "{}", world.agent.log());
    let folder = tempfile::tempdir().unwrap();
    let line = [CREDLET, "server", "-c", "demo", "--of-a-later-version"];
    let output = Setup::on_loopback(folder.path()).unwrap().line(&line).end().await.unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[tokio::test]
async fn go_runner_becomes_what_it_is_told_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let [runner, agent] = image_paths(folder.path()).unwrap();
    let run = async |words: &[&str]| {
        let output = Setup::on_loopback(folder.path()).unwrap().variable("SEEN", "yes").line(words).end().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, error) = run(&[&runner, "/bin/sh", "-c", "echo $$ $SEEN; exit 7"]).await;
    assert!(code == Some(7) && out.contains("yes") && error.is_empty(), "{out} {error}");
    let (code, out, error) = run(&[&runner, "--log-file", "/x", "--also-stdout", &agent, "version"]).await;
    assert!(code == Some(0) && out.starts_with("credlet "), "{out}");
    assert!(error.contains("--log-file is ignored") && !Path::new("/x").exists(), "{error}");
    let (code, _, error) = run(&[&runner]).await;
    assert!(code == Some(64) && error.contains("nothing to execute"), "{error}");
    let missing = folder.path().join("missing").display().to_string();
    let (code, _, error) = run(&[&runner, &missing]).await;
    assert!(code == Some(1) && error.contains(&missing) && error.contains("No such file"), "{error}");
    let (code, _, error) = run(&[&runner, folder.path().to_str().unwrap()]).await;
    assert!(code == Some(1) && error.contains("can't be executed: Permission denied"), "{error}");
}
