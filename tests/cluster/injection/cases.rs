//! Pods that have, lack and half have what injection adds, and what must become of each.
//!
//! Environment variables are written `NAME=VALUE`, and `NAME<FIELD` when their value comes from a field of the pod; `+` at the end of
//! a value stands for the addresses that no proxy may see.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::pod::IMAGE;

/// A namespace that asks for all its pods, and one that says nothing.
pub(super) const ASKING: &str = "injection-asking";
pub(super) const SILENT: &str = "injection-silent";

const URL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials";
const FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/var/run/secrets/credlet.io/serviceaccount/token";
const PROXY: &str = "HTTPS_PROXY=http://proxy.example:3128";
const POD_IDENTITY: &str = "pods.eks.amazonaws.com";
const WEB_IDENTITY: &str = "sts.amazonaws.com";

/// One pod.
pub(super) struct Case {
    name: &'static str,
    pub(super) pod: Value,
    /// Lists of the pod's spec, by their JSON pointers.
    expected: Vec<(String, Value)>,
}

impl Case {
    pub(super) fn check(&self, stored: &Value) -> anyhow::Result<()> {
        for (pointer, expected) in &self.expected {
            let actual = stored["spec"].pointer(pointer).cloned().unwrap_or_default();
            ensure!(actual == *expected, "{}: {pointer}: {actual:#}", self.name);
        }
        Ok(())
    }
}

/// A container's lists; those that are empty are absent.
#[derive(Clone, Copy)]
struct Container<'a> {
    env: &'a [&'a str],
    mounted: bool,
}

/// A container that had nothing.
const SERVED: Container<'_> = Container { env: &[URL, FILE], mounted: true };
const BARE: Container<'_> = Container { env: &[], mounted: false };

/// What is expected of a pod: its containers, its init containers, and for whom its token is.
#[derive(Clone, Copy)]
struct Pod<'a> {
    containers: &'a [Container<'a>],
    init_containers: &'a [Container<'a>],
    audience: Option<&'a str>,
}

const ONE_SERVED: Pod<'_> = Pod { containers: &[SERVED], init_containers: &[], audience: Some(POD_IDENTITY) };
const ONE_BARE: Pod<'_> = Pod { containers: &[BARE], init_containers: &[], audience: None };

fn env(variables: &[&str]) -> Value {
    variables.iter().map(|text| variable(text)).collect()
}

fn variable(text: &str) -> Value {
    if let Some((name, field)) = text.split_once('<') {
        return json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": field } } });
    }
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    json!({ "name": name, "value": value.replace('+', "169.254.170.23,fd00:ec2::23") })
}

fn mounts() -> Value {
    json!([{ "name": "credlet-token", "mountPath": "/var/run/secrets/credlet.io/serviceaccount", "readOnly": true }])
}

fn volumes(audience: &str) -> Value {
    let token = json!({ "audience": audience, "expirationSeconds": 86_400, "path": "token" });
    json!([{ "name": "credlet-token", "projected": { "defaultMode": 420, "sources": [{ "serviceAccountToken": token }] } }])
}

impl Container<'_> {
    fn lists(self) -> [(&'static str, Value); 2] {
        let env = if self.env.is_empty() { Value::Null } else { env(self.env) };
        [("env", env), ("volumeMounts", if self.mounted { mounts() } else { Value::Null })]
    }

    fn spec(self, name: &str) -> Value {
        let mut container = json!({ "name": name, "image": IMAGE });
        for (list, items) in self.lists() {
            container[list] = items;
        }
        container
    }
}

impl<'a> Pod<'a> {
    fn kinds(self) -> [(&'static str, &'a [Container<'a>]); 2] {
        [("containers", self.containers), ("initContainers", self.init_containers)]
    }

    fn spec(self) -> Value {
        // Without the volume of the pod's own token, so that lists can be absent.
        let mut spec = json!({ "automountServiceAccountToken": false });
        for (kind, containers) in self.kinds() {
            let named = |(index, container): (usize, &Container<'_>)| container.spec(&format!("{}{index}", kind.to_lowercase()));
            spec[kind] = containers.iter().enumerate().map(named).collect();
        }
        spec["volumes"] = self.audience.map_or(Value::Null, volumes);
        spec
    }

    fn lists(self) -> Vec<(String, Value)> {
        let of_container = |kind: &'static str, index: usize, container: &Container<'_>| {
            container.lists().map(|(list, items)| (format!("/{kind}/{index}/{list}"), items))
        };
        let lists = self.kinds().into_iter().flat_map(|(kind, containers)| {
            containers.iter().enumerate().flat_map(move |(index, container)| of_container(kind, index, container))
        });
        let volumes = ("/volumes".to_owned(), self.audience.map_or(Value::Null, volumes));
        lists.chain([volumes]).collect()
    }
}

/// A pod of the namespace that asks.
fn case(name: &'static str, before: Pod<'_>, after: Pod<'_>) -> Case {
    let metadata = json!({ "namespace": ASKING, "name": name.replace(' ', "-"), "labels": {} });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": before.spec() });
    Case { name, pod, expected: after.lists() }
}

/// A pod of that namespace with one container that has these variables, and then those. With a token if it comes to need it.
fn variables(name: &'static str, before: &[&str], after: &[&str]) -> Case {
    let needs_token = after.contains(&FILE);
    let after = [Container { env: after, mounted: needs_token }];
    let audience = needs_token.then_some(POD_IDENTITY);
    let before = [Container { env: before, mounted: false }];
    case(name, Pod { containers: &before, ..ONE_BARE }, Pod { containers: &after, audience, ..ONE_BARE })
}

/// A bare pod with labels.
fn labelled(name: &'static str, namespace: &str, labels: Value, after: Pod<'_>) -> Case {
    let mut case = case(name, ONE_BARE, after);
    case.pod["metadata"]["namespace"] = json!(namespace);
    case.pod["metadata"]["labels"] = labels;
    case
}

pub(super) fn all() -> Vec<Case> {
    [who_asks(), halves(), others(), exceptions(), special_pods()].into_iter().flatten().collect()
}

fn who_asks() -> Vec<Case> {
    let inject = |value: &str| json!({ "credlet.io/inject": value });
    let web_identity = Pod { audience: Some(WEB_IDENTITY), ..ONE_SERVED };
    vec![
        labelled("nobody asks", SILENT, json!({}), ONE_BARE),
        labelled("the namespace asks", ASKING, json!({ "other": "label" }), ONE_SERVED),
        labelled("the pod asks", SILENT, inject("true"), ONE_SERVED),
        labelled("the pod asks for pod identity", SILENT, inject("pod-identity"), ONE_SERVED),
        labelled("the pod asks for web identity", SILENT, inject("web-identity"), web_identity),
        labelled("the pod wins over its namespace", ASKING, inject("web-identity"), web_identity),
        labelled("the pod stays out", ASKING, inject("false"), ONE_BARE),
        labelled("the pod asks for what is not there", ASKING, inject("yes"), ONE_BARE),
        labelled("credlet itself", ASKING, json!({ "app.kubernetes.io/name": "credlet" }), ONE_BARE),
    ]
}

fn halves() -> Vec<Case> {
    let target = "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials/target-env";
    let ipv6 = "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://[fd00:ec2::23]/v1/credentials";
    let own_file = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/var/run/secrets/own/token";
    let with_mount = [Container { env: &[URL], mounted: true }];
    let with_mount = Pod { containers: &with_mount, audience: Some(POD_IDENTITY), ..ONE_BARE };
    let other_audience = Pod { audience: Some(WEB_IDENTITY), ..ONE_BARE };
    vec![
        variables("has other variables", &["A=1", "B<metadata.name"], &["A=1", "B<metadata.name", URL, FILE]),
        case("has all", ONE_SERVED, ONE_SERVED),
        variables("has the url", &[URL], &[URL, FILE]),
        variables("has the file", &[FILE], &[FILE, URL]),
        variables("has a target", &[target], &[target, FILE]),
        variables("has the other address", &[ipv6], &[ipv6, FILE]),
        variables("has a token of its own", &[own_file], &[own_file, URL]),
        variables("has both of its own", &[target, own_file], &[target, own_file]),
        case("has mount and volume", with_mount, ONE_SERVED),
        case("has the mount", Pod { audience: None, ..with_mount }, ONE_SERVED),
        case("has the volume", Pod { audience: Some(POD_IDENTITY), ..ONE_BARE }, ONE_SERVED),
        case("has a volume of its own", other_audience, Pod { audience: Some(WEB_IDENTITY), ..ONE_SERVED }),
    ]
}

/// Containers with another source of credentials are left alone.
fn others() -> Vec<Case> {
    let sources = [
        ("has an endpoint", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://localhost:9911/v1/credentials"),
        (
            "has an endpoint with a similar name",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23.example.com/v1/credentials",
        ),
        (
            "has an endpoint with a similar path",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials-of-mine",
        ),
        ("has an endpoint from elsewhere", "AWS_CONTAINER_CREDENTIALS_FULL_URI<metadata.name"),
        ("has a relative uri", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials"),
        ("has a token as text", "AWS_CONTAINER_AUTHORIZATION_TOKEN=text"),
    ];
    let alone = |(name, source)| variables(name, &[source, PROXY], &[source, PROXY]);
    let one = Container { env: &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials"], mounted: false };
    let mixed = case(
        "one of two has another source",
        Pod { containers: &[one, BARE], ..ONE_BARE },
        Pod { containers: &[one, SERVED], ..ONE_SERVED },
    );
    sources.into_iter().map(alone).chain([mixed]).collect()
}

fn exceptions() -> Vec<Case> {
    let proxies = [
        ("http proxy", "HTTP_PROXY=p"),
        ("http proxy in lower case", "http_proxy=p"),
        ("https proxy in lower case", "https_proxy=p"),
        ("proxy in mixed case", "Https_Proxy=p"),
        ("proxy for all", "ALL_PROXY=p"),
        ("proxy from elsewhere", "HTTPS_PROXY<status.hostIP"),
    ];
    let any = |(name, proxy)| variables(name, &[proxy], &[proxy, URL, FILE, "NO_PROXY=+", "no_proxy=+"]);
    let behind =
        |name, before: &[&str], after: &[&str]| variables(name, &[&[PROXY], before].concat(), &[&[PROXY], after].concat());
    let table = [
        variables("no proxy", &["NO_PROXY=a"], &["NO_PROXY=a", URL, FILE]),
        behind("upper case", &["NO_PROXY=a,b"], &["NO_PROXY=a,b,+", URL, FILE, "no_proxy=a,b,+"]),
        behind("lower case", &["no_proxy=a"], &["no_proxy=a,+", URL, FILE, "NO_PROXY=a,+"]),
        behind("both", &["NO_PROXY=a", "X=1", "no_proxy=b"], &["NO_PROXY=a,+", "X=1", "no_proxy=b,+", URL, FILE]),
        behind("empty", &["no_proxy="], &["no_proxy=+", URL, FILE, "NO_PROXY=+"]),
        behind("all there", &["NO_PROXY=+", "no_proxy=+"], &["NO_PROXY=+", "no_proxy=+", URL, FILE]),
        behind(
            "one there",
            &["NO_PROXY=fd00:ec2::23", "no_proxy=+"],
            &["NO_PROXY=fd00:ec2::23,169.254.170.23", "no_proxy=+", URL, FILE],
        ),
        behind(
            "a longer address",
            &["NO_PROXY=169.254.170.230", "no_proxy=+"],
            &["NO_PROXY=169.254.170.230,+", "no_proxy=+", URL, FILE],
        ),
        behind("from elsewhere", &["NO_PROXY<status.podIP"], &["NO_PROXY<status.podIP", URL, FILE, "no_proxy=$(NO_PROXY),+"]),
    ];
    proxies.into_iter().map(any).chain(table).collect()
}

fn special_pods() -> Vec<Case> {
    let init = [BARE, Container { env: &["A=1"], mounted: false }];
    let init_served = [SERVED, Container { env: &["A=1", URL, FILE], mounted: true }];
    let mut restartable = case(
        "init containers and a sidecar",
        Pod { containers: &[BARE, BARE], init_containers: &init, ..ONE_BARE },
        Pod { containers: &[SERVED, SERVED], init_containers: &init_served, ..ONE_SERVED },
    );
    restartable.pod["spec"]["initContainers"][1]["restartPolicy"] = json!("Always");
    let mut host_network = case("a pod of the host network", ONE_BARE, ONE_SERVED);
    host_network.pod["spec"]["hostNetwork"] = json!(true);
    vec![restartable, host_network, automounted(), large()]
}

/// With the lists that the API server itself makes.
fn automounted() -> Case {
    let mut case = case("a pod with the token of its service account", ONE_BARE, ONE_SERVED);
    case.pod["spec"]["automountServiceAccountToken"] = json!(true);
    case.expected = vec![
        ("/containers/0/env".to_owned(), env(&[URL, FILE])),
        ("/containers/0/volumeMounts/1".to_owned(), mounts()[0].clone()),
        ("/volumes/1".to_owned(), volumes(POD_IDENTITY)[0].clone()),
    ];
    case
}

/// Near what a pod may be, and still within what admission may cost.
fn large() -> Case {
    let names: Vec<String> = (0..60).map(|index| format!("VARIABLE_{index}=a value as long as values often are")).collect();
    let before: Vec<&str> = names.iter().map(String::as_str).chain([PROXY, "NO_PROXY=a"]).collect();
    let after = [&before[..before.len() - 1], &["NO_PROXY=a,+", URL, FILE, "no_proxy=a,+"]].concat();
    let before = [Container { env: &before, mounted: false }; 25];
    let after = [Container { env: &after, mounted: true }; 25];
    case("a large pod", Pod { containers: &before, ..ONE_BARE }, Pod { containers: &after, ..ONE_SERVED })
}
