//! `credlet policy` as pipelines and people run it.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;

use crate::harness::setup::credlet;

/// The example of the documentation.
const EXAMPLE: &str = r#"rules:
  - match: { namespace: default, serviceAccount: s3-sa }
    exchange: pod-identity
  - match: { namespace: ci-namespace, serviceAccount: ci-serviceaccount }
    exchange: web-identity
    role: arn:aws:iam::111111111111:role/ci-account-iam-role
    duration: 1h
    sessionName: "{namespace}-{serviceAccount}"
    targets:
      target-env:
        chain:
          - role: arn:aws:iam::222222222222:role/target-account-iam-role
            sessionName: xactarget
            externalId: "{cluster}/{namespace}/{serviceAccount}"
            tags: { team: ci }
            transitiveTags: [team]
            duration: 1h
            policyArns: []
  - match: { namespace: "team-*", serviceAccount: "*" }
    exchange: pod-identity
    chain: [ { role: "arn:aws:iam::333333333333:role/shared" } ]
"#;

const FAULTY: &str = "rules:
  - match: { namespace: a, serviceAccount: no }
    role: my-role
  - match: { namespace: a, serviceAccount: b }
    exchange: pod-identity
    chain: [ { role: 'arn:aws:iam::333333333333:role/shared', duration: 2h } ]
";

async fn run(arguments: &[&str], variables: &[(&str, &Path)]) -> (i32, String, String) {
    let mut command = credlet("policy");
    text(command.args(arguments).envs(variables.iter().copied()).output().await.unwrap())
}

fn text(output: Output) -> (i32, String, String) {
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), out, err)
}

async fn check_standard_input(input: &[u8], flags: &[&str]) -> (i32, String, String) {
    let mut command = credlet("policy");
    command
        .args(["check", "-", "--cluster-name=demo"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input).await.unwrap();
    text(process.wait_with_output().await.unwrap())
}

#[tokio::test]
async fn check_tells_every_fault_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let [good, bad] = ["good.yaml", "bad.yaml"].map(|name| folder.path().join(name));
    std::fs::write(&good, EXAMPLE).unwrap();
    std::fs::write(&bad, FAULTY).unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());

    let fine = format!("{good}: no faults: rules: 3, targets: 1\n");
    let (status, out, err) = run(&["check", good, "--cluster-name=demo"], &[]).await;
    assert_eq!((status, &out, &*err), (0, &fine, ""));
    let (status, out, err) = run(&["check", good], &[]).await;
    assert_eq!((status, out, err.lines().count()), (0, fine, 3));
    assert!(err.starts_with(&format!("{good}:3: rules[0].exchange: pod-identity needs the cluster's name")), "{err}");
    let (status, out, _) = run(&["check", bad], &[]).await;
    let places: Vec<&str> = out.lines().map(|line| line.strip_prefix(bad).unwrap()).collect();
    assert_eq!((status, places.len()), (1, 3), "{out}");
    for (line, place) in places.iter().zip([
        ":2: rules[0].match.serviceAccount: is a boolean in YAML",
        ":3: rules[0].role: \"my-role\" is not an ARN",
        ":6: rules[1].chain[0].duration: 2h is too long: a chained session lasts 1h at most",
    ]) {
        assert!(line.starts_with(place), "{line}");
    }
    assert_eq!(run(&["check"], &[]).await.0, 64, "usage");
    let (status, _, err) = run(&["check", "/nowhere"], &[]).await;
    assert!(status == 1 && err.contains("/nowhere"), "{err}");
}

#[tokio::test]
async fn check_reads_standard_input_and_warns_of_rules_that_never_decide() {
    let (status, out, err) = check_standard_input(EXAMPLE.as_bytes(), &[]).await;
    assert_eq!((status, &*out, &*err), (0, "-: no faults: rules: 3, targets: 1\n", ""));
    let twice = format!("{EXAMPLE}  - match: {{ namespace: team-a, serviceAccount: x }}\n");
    let (status, _, err) = check_standard_input(twice.as_bytes(), &[]).await;
    let warning = "-:22: rules[3]: never decides: the rule in line 19 matches all that it could\n";
    assert_eq!((status, &*err), (0, warning));
    let (status, out, err) = check_standard_input(twice.as_bytes(), &["--strict"]).await;
    assert_eq!((status, &*out, &*err), (1, warning, ""));
}

#[tokio::test]
async fn check_takes_text_of_a_megabyte_in_utf_8() {
    for (input, words) in [
        (&b"rules: \xe9"[..], "-: is not UTF-8 text, but perhaps Latin-1 or Windows-1252: save it as UTF-8"),
        (b"\xff\xfer\0u\0", "-: is not UTF-8 text, but UTF-16: save it as UTF-8"),
        (b"\xfe\xff\0r\0u", "UTF-16"),
    ] {
        let (status, _, err) = check_standard_input(input, &[]).await;
        assert!(status == 1 && err.contains(words), "{err}");
    }
    let (status, _, err) = run(&["check", "/dev/zero"], &[]).await;
    assert!(status == 1 && err.contains("/dev/zero: is larger than 1 MiB"), "{err}");
}

#[tokio::test]
async fn check_goes_through_all_files_and_fails_for_any() {
    let folder = tempfile::tempdir().unwrap();
    let [good, bad] = ["good.yaml", "bad.yaml"].map(|name| folder.path().join(name));
    std::fs::write(&good, EXAMPLE).unwrap();
    std::fs::write(&bad, FAULTY).unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let fine = format!("{good}: no faults: rules: 3, targets: 1\n");
    let (status, out, err) = run(&["check", "/nowhere", bad, good], &[]).await;
    assert!(status == 1 && out.ends_with(&fine) && out.lines().count() == 4 && err.contains("/nowhere"), "{out}{err}");
    let (status, out, _) = run(&["check", good, good, "--cluster-name=demo", "--strict"], &[]).await;
    assert_eq!((status, out), (0, fine.repeat(2)));
    let (status, out, err) = run(&["check", good, "--strict"], &[]).await;
    assert!(
        status == 1 && out.contains("needs the cluster's name") && !out.contains("no faults") && err.is_empty(),
        "{out}{err}"
    );
}

#[tokio::test]
async fn explain_prints_the_rule_and_all_that_follows_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let who = ["explain", "--namespace", "ci-namespace", "--service-account", "ci-serviceaccount", "--cluster-name", "demo"];
    let (status, out, err) = run(&who, &[("CREDLET_POLICY", &file)]).await;
    let expected = "service account: ci-namespace/ci-serviceaccount
decided by: rules[1] in line 4 (namespace ci-namespace, service account ci-serviceaccount)
token audience: sts.amazonaws.com

default role (GET /v1/credentials):
  exchange: STS AssumeRoleWithWebIdentity arn:aws:iam::111111111111:role/ci-account-iam-role
    session name: ci-namespace-ci-serviceaccount
    duration: 1h

target target-env (GET /v1/credentials/target-env):
  exchange: STS AssumeRoleWithWebIdentity arn:aws:iam::111111111111:role/ci-account-iam-role
    session name: ci-namespace-ci-serviceaccount
    duration: 1h
  hop 1: STS AssumeRole arn:aws:iam::222222222222:role/target-account-iam-role
    session name: xactarget
    duration: 1h
    external id: demo/ci-namespace/ci-serviceaccount
    tags: team=ci (transitive)
";
    assert_eq!((status, &*out, &*err), (0, expected, ""));

    let who = ["explain", "--namespace", "team-a", "--service-account", "x"];
    let (_, out, _) = run(&who, &[("CREDLET_POLICY", &file)]).await;
    assert!(out.contains("rules[2] in line 19") && out.contains("pods.eks.amazonaws.com"), "{out}");
    assert!(
        out.contains("exchange: EKS Auth") && out.contains("hop 1: STS AssumeRole") && out.contains("session name: team-a.x"),
        "{out}"
    );
}

#[tokio::test]
async fn explain_knows_annotations_and_what_holds_without_a_policy() {
    let who = ["explain", "--namespace", "n", "--service-account", "s"];
    let (status, out, _) = run(&who, &[]).await;
    assert!(
        status == 0 && out.contains("the token's audience, since no rule matches") && out.contains("exchange: EKS Auth"),
        "{out}"
    );
    let annotated = [&who[..], &["--annotation", "eks.amazonaws.com/role-arn=arn:aws:iam::111111111111:role/r"]].concat();
    let (_, out, _) = run(&annotated, &[]).await;
    assert!(out.contains("sts.amazonaws.com") && out.contains("AssumeRoleWithWebIdentity"), "{out}");
    let refused = [&who[..], &["--audience", "sts.amazonaws.com"]].concat();
    let (status, out, _) = run(&refused, &[]).await;
    assert!(status == 0 && out.contains("refused (no_role): No rule of this node's policy"), "{out}");
    let faulty = [&who[..], &["--annotation", "credlet.io/duration=3h"]].concat();
    let (status, _, err) = run(&faulty, &[]).await;
    assert!(status == 1 && err.contains("credlet.io/duration"), "{err}");
    let both = [&who[..], &["--annotation", "credlet.io/duration=3m", "--annotation", "eks.amazonaws.com/role-arn=bad"]].concat();
    let (status, _, err) = run(&both, &[]).await;
    assert!(status == 1 && err.contains("credlet.io/duration") && err.contains("eks.amazonaws.com/role-arn"), "{err}");
}

#[tokio::test]
async fn explain_tells_what_will_not_work_though_it_is_legal() {
    let who = ["explain", "--namespace", "n", "--service-account", "s"];
    let bad = [&who[..], &["--annotation", "eks.amazonaws.com/role-arn=bad"]].concat();
    for audience in [&[][..], &["--audience=sts.amazonaws.com"], &["--audience=pods.eks.amazonaws.com"]] {
        let (status, out, _) = run(&[&bad, audience].concat(), &[]).await;
        let fault = "note: the annotation is of no use: eks.amazonaws.com/role-arn: \"bad\" is not an ARN";
        assert!(status == 0 && out.contains(fault), "{out}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let who = ["explain", "--namespace", "ci-namespace", "--service-account", "ci-serviceaccount"];
    let note =
        "note: STS takes a token of this audience only if the role's OIDC provider has pods.eks.amazonaws.com as a client id";
    let (_, out, _) = run(&[&who[..], &["--audience", "pods.eks.amazonaws.com"]].concat(), &[("CREDLET_POLICY", &file)]).await;
    assert!(out.contains(note), "{out}");
    let (_, out, _) = run(&who, &[("CREDLET_POLICY", &file)]).await;
    assert!(!out.contains("note:"), "{out}");
}

#[tokio::test]
async fn explain_takes_names_that_kubernetes_can_have() {
    for (namespace, service_account) in [("CI", "s"), ("a_b", "s"), ("a.b", "s"), ("", "s"), ("n", "S"), ("n", "a..b")] {
        let (status, _, err) = run(&["explain", "--namespace", namespace, "--service-account", service_account], &[]).await;
        assert!(status == 64 && err.contains("of Kubernetes has this name"), "{err}");
    }
    assert_eq!(run(&["explain", "--namespace", "n-1", "--service-account", "a.b"], &[]).await.0, 0);
}
