//! What flags mean, and that every fault is told.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tempfile::NamedTempFile;
use tracing::level_filters::LevelFilter;

use super::*;
use crate::token::{KeySource, Mode};

#[derive(Parser)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    flags: ServerFlags,
}

fn check(line: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let flags = Line::try_parse_from(["server"].into_iter().chain(line.split_whitespace())).unwrap().flags;
    let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Config::of_server(&flags, &variable).map_err(|Faults(faults)| faults)
}

#[test]
fn the_incumbents_arguments_work() {
    let config = check("--port 80 --cluster-name myeks --probe-port 2703", &[]).unwrap();
    let expected = ["169.254.170.23:80", "[fd00:ec2::23]:80"].map(|address| address.parse::<SocketAddr>().unwrap());
    assert_eq!(addresses(&config.front), expected);
    assert_eq!(config.admin.metrics, Some("0.0.0.0:2705".parse().unwrap()));
    assert_eq!((config.token.mode, config.cache.capacity), (Mode::Auto, 2000));
    assert_eq!(config.token.audiences.len(), 2);
    assert_eq!(config.logging.level, LevelFilter::INFO);
}

#[test]
fn values_are_spelled_as_the_incumbent_takes_them() {
    let config =
        check("-c demo -b localhost -b [::1] --metrics-address localhost -v TRACE --port=9000 --port 9001", &[]).unwrap();
    let expected = ["127.0.0.1:9001", "[::1]:9001"].map(|address| address.parse::<SocketAddr>().unwrap());
    assert_eq!(addresses(&config.front), expected);
    assert_eq!(config.admin.metrics, Some("127.0.0.1:2705".parse().unwrap()));
    assert_eq!(config.logging.level, LevelFilter::TRACE);
    for (word, seconds) in [("1h30m", 5400), ("1.5h", 5400), ("90m0s", 5400), ("0s", 0), ("0", 0)] {
        let config = check(&format!("-c demo --max-credential-retention-before-renewal {word}"), &[]).unwrap();
        assert_eq!(config.cache.longest_retention, Some(Duration::from_secs(seconds)), "{word}");
    }
}

#[test]
fn all_parts_share_one_name_of_the_cluster() {
    let config = check("--cluster-name myeks", &[]).unwrap();
    let names = [config.token.cluster, config.grants.cluster_name, config.exchange.cluster_name].map(Option::unwrap);
    assert_eq!(&*names[0], "myeks");
    assert!(names.iter().all(|name| Arc::ptr_eq(name, &names[0])));
}

#[test]
fn all_faults_are_told_together() {
    let line = "--service-account-roles=maybe --policy /nowhere/policy.yaml \
                --bind-hosts 0.0.0.0,nowhere --port 70000 --probe-port x --metrics-port -1 --issuer http://far.example \
                --issuer https://ok.example= --token-verification maybe --source-check maybe --source-binding maybe --pod-watch=maybe --pod-rate 0 \
                --endpoint ftp://x --max-cache-size many --max-service-qps nan --max-credential-retention-before-renewal soon --verbosity loud --log-format xml";
    let line = line.replace("--metrics-port -1", "--metrics-port=-1");
    let faults = check(&line, &[]).unwrap_err();
    let flags = [
        "bind-hosts",
        "bind-hosts",
        "port",
        "probe-port",
        "metrics-port",
        "max-cache-size",
        "service-account-roles",
        "policy",
        "issuer",
        "issuer",
        "token-verification",
        "source-check",
        "source-binding",
        "pod-watch",
        "pod-rate",
        "endpoint",
        "max-service-qps",
        "max-credential-retention-before-renewal",
        "verbosity",
        "log-format",
    ];
    for flag in flags {
        assert!(faults.iter().any(|fault| fault.starts_with(&format!("--{flag}: "))), "{flag} in {faults:#?}");
    }
    assert_eq!(faults.len(), flags.len(), "{faults:#?}");
}

#[test]
fn what_needs_a_pod_has_what_it_needs() {
    let faults = check("-c demo --pod-watch", &[]).unwrap_err();
    assert!(faults.len() == 2 && faults.iter().all(|fault| fault.starts_with("--pod-watch: needs ")), "{faults:?}");
    assert_eq!(check("-c demo --pod-watch --node-name n", &[]).unwrap_err().len(), 1);
    let faults =
        check("-c demo --token-verification delegated --source-binding enforce --pod-watch", &[("NODE_NAME", "n")]).unwrap_err();
    let told = |flag: &str| faults.iter().any(|fault| fault.starts_with(flag) && fault.contains("delegated"));
    assert!(told("--source-binding: ") && told("--pod-watch: "), "{faults:?}");
    let config = check("-c demo --token-verification delegated", &[]).unwrap();
    assert_eq!((config.source_binding, config.pod_watch.is_none()), (source::Mode::Observe, true));
}

#[test]
fn issuers_bring_their_keys_or_are_discovered() {
    let line = "-c demo --issuer https://a.example --issuer https://a.example=keys.json,b=https://b.example/jwks";
    let issuers = check(line, &[]).unwrap().token.issuers;
    assert_eq!(issuers.len(), 2);
    assert!(matches!(&issuers[0].sources[..], [KeySource::Discovery, KeySource::File(_)]));
    assert!((&*issuers[1].issuer, &issuers[1].sources[..]).0 == "b" && matches!(issuers[1].sources[..], [KeySource::Url(_)]));
}

#[test]
fn more_addresses_than_one_agent_hands_to_another_are_refused() {
    let check_of = |count| {
        let hosts: Vec<_> = (1..=count).map(|number| format!("127.0.0.{number}")).collect();
        check(&format!("-c demo --bind-hosts {}", hosts.join(",")), &[])
    };
    assert!(check_of(12).is_ok());
    let faults = check_of(13).unwrap_err();
    assert!(matches!(&faults[..], [fault] if fault.contains("names 13 addresses")), "{faults:?}");
}

#[test]
fn a_loop_to_itself_is_refused() {
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://[fd00:0ec2:0:0::23]/v1/credentials");
    let faults = check("-c demo", &[full]).unwrap_err();
    assert!(faults[0].contains("AWS_CONTAINER_CREDENTIALS_FULL_URI"), "{faults:?}");
    assert!(check("-c demo --bind-hosts 127.0.0.1 --port 9999", &[full]).is_ok());
}

#[test]
fn what_the_environment_gets_wrong_is_told_with_the_flags_faults() {
    let environment = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
        ("AWS_CA_BUNDLE", "/nowhere/ca.pem"),
        ("HTTPS_PROXY", "socks5://h:1"),
    ];
    let faults = check("--verbosity loud", &environment).unwrap_err();
    for name in ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CA_BUNDLE", "HTTPS_PROXY", "--cluster-name", "--verbosity"] {
        assert!(faults.iter().any(|fault| fault.contains(name)), "{name} in {faults:#?}");
    }
    assert_eq!(faults.len(), 5, "{faults:#?}");
}

#[test]
fn zero_switches_caching_off_with_a_warning() {
    assert_eq!(check("-c demo --max-cache-size 0", &[]).unwrap().warnings.len(), 1);
    let config = check("-c demo --max-credential-retention-before-renewal 0", &[]).unwrap();
    assert_eq!((config.cache.longest_retention, config.warnings.len()), (Some(Duration::ZERO), 1));
    let config = check("-c demo --max-credential-retention-before-renewal 3h0m0s", &[]).unwrap();
    assert_eq!(config.cache.longest_retention, Some(Duration::from_secs(10_800)));
}

#[test]
fn keys_must_come_from_somewhere_when_local_is_asked_for() {
    assert!(check("--token-verification local", &[]).unwrap_err().iter().any(|fault| fault.contains("local needs keys")));
    let config = check("-c demo --token-verification local", &[]).unwrap();
    assert_eq!(config.token.cluster.as_deref(), Some("demo"), "EKS is asked for the issuer");
    assert!(check("-c demo --token-verification local --issuer https://a.example", &[]).is_ok());
    assert!(check("-c demo --token-verification delegated --issuer https://a.example", &[]).is_err());
}

#[test]
fn something_must_lead_to_a_role() {
    let keys = "--issuer https://a.example";
    let faults = check(keys, &[]).unwrap_err();
    assert!(faults[0].starts_with("--cluster-name: is needed") && faults.len() == 1, "{faults:?}");
    let policy = policy("rules: [{ match: { namespace: ns, serviceAccount: sa }, role: 'arn:aws:iam::111122223333:role/r' }]");
    let config = check(&format!("{keys} --policy {}", policy.path().display()), &[]).unwrap();
    assert!(config.grants.policy.is_some() && config.exchange.cluster_name.is_none());
    assert_eq!(config.token.mode, Mode::Local, "without a cluster name there is nobody to delegate to");
    let delegated = format!("--token-verification delegated --policy {}", policy.path().display());
    assert!(check(&delegated, &[]).unwrap_err()[0].contains("delegated needs --cluster-name"));
}

#[test]
fn each_fault_of_the_policy_file_is_told() {
    let policy = policy("rules: [{ match: { namespace: ns }, exchange: pod-identity, colour: red }]");
    let faults = check(&format!("-c demo --port 70000 --policy {}", policy.path().display()), &[]).unwrap_err();
    let told = format!("--policy: {}: line 1: rules[0]", policy.path().display());
    assert!(faults.iter().filter(|fault| fault.starts_with(&told)).count() >= 2, "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.starts_with("--port: ")));
}

#[test]
fn roles_by_annotation_need_the_api_server() {
    let server = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
    for (flag, on) in [("--service-account-roles", true), ("--service-account-roles=true", true), ("", false)] {
        let checked = check(&format!("-c demo {flag}"), &server);
        let told = checked.err().is_some_and(|faults| faults.iter().any(|fault| fault.contains("mount a service account token")));
        assert_eq!(told, on, "{flag}");
    }
    assert!(check("-c demo --service-account-roles=perhaps", &[]).unwrap_err()[0].contains("not true or false"));
}

/// A policy file.
fn policy(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_node_name_comes_from_the_flag_or_kubernetes() {
    let name = |line: &str| check(line, &[("NODE_NAME", "n1")]).unwrap().token.node_name;
    assert_eq!(name("-c demo").as_deref(), Some("n1"));
    assert_eq!(name("-c demo --node-name n2").as_deref(), Some("n2"));
}

#[test]
fn keys_are_private_by_the_rule_that_fetches_them() {
    assert!(check("-c demo --issuer a=http://[::ffff:127.0.0.1]/keys", &[]).is_ok());
    assert!(check("-c demo --issuer a=http://192.0.2.1/keys", &[]).is_err());
}

#[test]
fn rotated_credentials_are_where_the_sdks_look_for_them() {
    let source = |line: &str, variables: &[_]| check(&format!("-c demo {line}"), variables).map(|config| config.node_credentials);
    let home = ("HOME", "/home/agent");
    assert_eq!(source("", &[home]), Ok(Source::Standard));
    assert_eq!(source("--rotate-credentials=false", &[home]), Ok(Source::Standard));
    for line in ["--rotate-credentials", "--rotate-credentials=true", "--rotate-credentials true", "--rotate-credentials=1"] {
        assert_eq!(source(line, &[home]), Ok(Source::RotatedFile("/home/agent/.aws/credentials".into())));
    }
    let named = |path: &'static str| source("--rotate-credentials", &[home, ("AWS_SHARED_CREDENTIALS_FILE", path)]);
    assert_eq!(named("/etc/aws/keys"), Ok(Source::RotatedFile("/etc/aws/keys".into())));
    assert_eq!(named("~/keys"), Ok(Source::RotatedFile("/home/agent/keys".into())));
    for (line, variables) in [("--rotate-credentials", &[][..]), ("--rotate-credentials=maybe", &[home])] {
        let faults = source(line, variables).unwrap_err();
        assert!(faults.len() == 1 && faults[0].starts_with("--rotate-credentials: "), "{faults:?}");
    }
}

#[test]
fn rates_have_bounds() {
    for flag in ["pod-rate", "max-service-qps"] {
        for rate in ["0", "-1", "0.009", "1e-20", "1000001", "inf", "nan", "ten"] {
            let faults = check(&format!("-c demo --{flag}={rate}"), &[]).unwrap_err();
            assert!(faults.len() == 1 && faults[0].starts_with(&format!("--{flag}: ")), "{faults:?}");
        }
        for rate in ["0.01", "0.4", "1000000"] {
            assert!(check(&format!("-c demo --{flag}={rate}"), &[]).is_ok(), "{rate}");
        }
    }
}

#[test]
fn two_listeners_want_two_ports() {
    assert_eq!(check("-c demo --port 9000 --probe-port 9000 --metrics-port 9000", &[]).unwrap_err().len(), 3);
    assert!(check("-c demo --port 0 --probe-port 0 --metrics-port 0", &[]).is_ok(), "the system chooses");
}

#[test]
fn metrics_can_be_switched_off() {
    assert_eq!(check("-c demo --metrics-port 0", &[]).unwrap().admin.metrics, None);
}

#[test]
fn a_handover_directory_is_taken_as_it_is_and_judged_at_the_start() {
    let directory = |line: &str| check(line, &[]).unwrap().handover_dir;
    assert_eq!(directory("-c demo"), None);
    assert_eq!(directory("-c demo --handover-dir="), None);
    assert_eq!(directory("-c demo --handover-dir not/absolute"), Some("not/absolute".into()));
}
