"""What the chart's pods are, and what they may do."""

import re
import unittest

import chart
import pod_security

AGENT = {"runAsUser": 17023, "runAsGroup": 17023, "runAsNonRoot": True}
ROOT = {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False}
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}


def confined(user: dict, *capabilities: str) -> dict:
    return {**CONFINED, **user, "capabilities": {"drop": ["ALL"], "add": list(capabilities)}}


AGENT_CONTEXT = confined(AGENT, "NET_BIND_SERVICE")
HYBRID_CONTEXT = confined(ROOT, "NET_BIND_SERVICE")
LINK_CONTEXT = confined(ROOT, "NET_ADMIN", "NET_BIND_SERVICE")


def named(name: str) -> list[dict]:
    return chart.rendered(chart.VALUES / f"{name}.yaml")


def every_daemonset():
    for values in chart.value_sets():
        for component, daemonset in chart.daemonsets(chart.rendered(values)).items():
            yield f"{values.stem} {component}", component, daemonset


def arguments(name: str, component: str = "cloud") -> list[str]:
    spec = chart.pod_spec(chart.daemonsets(named(name))[component])
    return chart.containers(spec)["credlet"]["args"]


def environment(name: str, component: str = "cloud") -> dict:
    spec = chart.pod_spec(chart.daemonsets(named(name))[component])
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in chart.containers(spec)["credlet"]["env"]}


class Rights(unittest.TestCase):
    def test_each_container_has_exactly_its_rights(self):
        for name, component, daemonset in every_daemonset():
            for container in chart.containers(chart.pod_spec(daemonset)).values():
                with self.subTest(name, container=container["name"]):
                    context = dict(container["securityContext"])
                    context.pop("seLinuxOptions", None)
                    expected = AGENT_CONTEXT if component == "cloud" else HYBRID_CONTEXT
                    self.assertEqual(context, expected if container["name"] == "credlet" else LINK_CONTEXT)

    def test_each_pod_is_confined_and_mounts_no_token_by_itself(self):
        for name, _, daemonset in every_daemonset():
            with self.subTest(name):
                spec = chart.pod_spec(daemonset)
                self.assertIs(spec["automountServiceAccountToken"], False)
                self.assertEqual(spec["securityContext"], {"seccompProfile": {"type": "RuntimeDefault"}})
                self.assertEqual([spec.get("hostPID"), spec.get("hostIPC")], [None, None])

    def test_no_container_declares_a_port(self):
        for name, _, daemonset in every_daemonset():
            for container in chart.containers(chart.pod_spec(daemonset)).values():
                with self.subTest(name, container=container["name"]):
                    self.assertNotIn("ports", container)

    def test_host_paths_are_those_that_were_asked_for(self):
        expected = {
            "hybrid hybrid": {"/eks-hybrid/.aws"},
            "hybrid hybrid-bottlerocket": {"/var/eks-hybrid/.aws"},
            "hybrid-only hybrid": {"/opt/aws"},
            "isolated cloud": {"/etc/pki/tls/certs/ca-bundle.crt"},
            "isolated hybrid": {"/etc/pki/tls/certs/ca-bundle.crt", "/eks-hybrid/.aws"},
            "watched hybrid": {"/eks-hybrid/.aws"},
        }
        for name, _, daemonset in every_daemonset():
            with self.subTest(name):
                volumes = chart.pod_spec(daemonset)["volumes"]
                self.assertEqual({each["hostPath"]["path"] for each in volumes if "hostPath" in each}, expected.get(name, set()))

    def test_the_api_server_is_for_those_who_ask_for_it(self):
        for values in chart.value_sets():
            documents = chart.rendered(values)
            roles = [each for kind in ("ClusterRole", "ClusterRoleBinding", "Role") for each in chart.of_kind(documents, kind)]
            tokens = [
                (name, each["name"])
                for daemonset in chart.daemonsets(documents).values()
                for name, container in chart.containers(chart.pod_spec(daemonset)).items()
                for each in container.get("volumeMounts", [])
                if each["mountPath"].startswith("/var/run/secrets")
            ]
            with self.subTest(values.stem):
                self.assertEqual(len(roles), 2 if values.stem == "annotations" else 0)
                # Never for the container that makes the link.
                expected = [("credlet", "api-server-token")] if values.stem in ("annotations", "outside-eks") else []
                self.assertEqual(tokens, expected)

    def test_annotations_need_one_right_for_one_account(self):
        documents = named("annotations")
        role, binding = chart.of_kind(documents, "ClusterRole")[0], chart.of_kind(documents, "ClusterRoleBinding")[0]
        self.assertEqual(role["rules"], [{"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]}])
        self.assertEqual(binding["roleRef"]["name"], role["metadata"]["name"])
        account = {"kind": "ServiceAccount", "name": "aws-agent", "namespace": "kube-system"}
        self.assertEqual(binding["subjects"], [account])
        self.assertEqual(chart.pod_spec(chart.daemonsets(documents)["cloud"])["serviceAccountName"], "aws-agent")
        # The same right as that of the manifest for those who write their own.
        shipped = chart.objects((chart.DAEMONSET / "rbac/service-account-roles.yaml").read_text())
        self.assertEqual(role["rules"], chart.of_kind(shipped, "ClusterRole")[0]["rules"])

    def test_what_the_restricted_profile_finds_is_what_the_readme_says(self):
        text = (chart.CHART / "README.md").read_text()
        section = text[text.index("\n## Rights\n") :].split("\n## ")[1]
        said = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
        found = set()
        for _, _, daemonset in every_daemonset():
            found |= pod_security.findings(chart.pod_spec(daemonset))
        for path in (chart.DAEMONSET / "cleanup.yaml",):
            for daemonset in chart.of_kind(chart.objects(path.read_text()), "DaemonSet"):
                found |= pod_security.findings(chart.pod_spec(daemonset))
        self.assertEqual(found, said)

    def test_the_profile_finds_what_is_wrong(self):
        spec = {
            "hostPID": True,
            "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
            "containers": [{"name": "bad", "securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}}}],
        }
        expected = {
            "pod: hostPID", "volume root: hostPath", "bad: privileged", "bad: capability SYS_ADMIN", "bad: allowPrivilegeEscalation",
            "bad: capabilities not dropped", "bad: runAsNonRoot", "bad: seccompProfile",
        }  # fmt: skip
        self.assertEqual(pod_security.findings(spec), expected)


class Agent(unittest.TestCase):
    def test_minimal_values_need_only_the_cluster(self):
        expected = "server --cluster-name=prod --log-format=json --metrics-address=0.0.0.0 --metrics-port=2705 --port=80 --probe-port=2703"
        self.assertEqual(arguments("minimal"), [*expected.split(), "--verbosity=info"])
        node = {"fieldRef": {"fieldPath": "spec.nodeName"}}
        self.assertEqual(environment("minimal"), {"NODE_NAME": node, "AWS_REGION": "eu-central-1"})

    def test_each_value_arrives_as_its_flag(self):
        expected = {
            "--cluster-name=Prod_1", "--bind-hosts=169.254.170.23", "--port=8080", "--probe-port=12703", "--issuer=https://one.example",
            "--issuer=https://two.example=https://keys.example/jwks?a=b,c", "--audience=pods.eks.amazonaws.com",
            "--token-verification=local", "--source-check=enforce", "--pod-rate=1000000", "--max-cache-size=0", "--max-service-qps=20",
            "--max-credential-retention-before-renewal=3h", "--endpoint=https://eks-auth.example", "--verbosity=debug",
            "--log-format=text", "--run-dir=/run/credlet", "--metrics-address=127.0.0.1", "--metrics-port=12705",
        }  # fmt: skip
        first, *rest = arguments("every-flag")
        self.assertEqual(first, "server")
        self.assertEqual(set(rest), expected)
        self.assertEqual(len(rest), len(expected))

    def test_flags_are_those_of_the_agent(self):
        source = (chart.DAEMONSET.parent / "src/config/flags.rs").read_text()
        flags = {name.replace("_", "-") for name in re.findall(r"^    pub (\w+): (?!\w+Flags)", source, re.MULTILINE)}
        passed = {re.match(r"--([^=]+)", word)[1] for name in ALL_FLAGS for word in arguments(*name)[1:]}
        self.assertLessEqual(passed - flags, AHEAD)
        # NODE_NAME says it.
        self.assertEqual(flags - passed, {"node-name"})

    def test_switches_are_passed_where_they_are_on(self):
        self.assertIn("--service-account-roles", arguments("annotations"))
        self.assertIn("--metrics-port=0", arguments("no-link"))
        for component in ("hybrid", "hybrid-bottlerocket"):
            self.assertIn("--rotate-credentials", arguments("hybrid", component))
            self.assertEqual(environment("hybrid", component)["AWS_SHARED_CREDENTIALS_FILE"], "/etc/credlet/aws/credentials")
        self.assertNotIn("--rotate-credentials", arguments("hybrid", "cloud"))

    def test_variables_arrive_as_text_or_as_references(self):
        proxied = environment("proxied")
        self.assertEqual(proxied["HTTPS_PROXY"], {"secretKeyRef": {"name": "proxy", "key": "url"}})
        self.assertEqual(proxied["NO_PROXY"], "10.0.0.0/8,.internal")
        isolated = environment("isolated")
        self.assertEqual([isolated["AWS_USE_FIPS_ENDPOINT"], isolated["AWS_USE_DUALSTACK_ENDPOINT"]], ["true", "true"])

    def test_probes_ask_this_very_process(self):
        for name, _, daemonset in every_daemonset():
            with self.subTest(name):
                agent = chart.containers(chart.pod_spec(daemonset))["credlet"]
                self.assertEqual(agent["readinessProbe"]["exec"]["command"], ["/credlet", "status", "--ready"])
                self.assertEqual(agent["livenessProbe"]["exec"]["command"], ["/credlet", "status", "--healthy"])

    def test_each_file_that_the_agent_is_told_of_is_mounted(self):
        for name, _, daemonset in every_daemonset():
            spec = chart.pod_spec(daemonset)
            agent = chart.containers(spec)["credlet"]
            mounts = {each["mountPath"]: each["name"] for each in agent["volumeMounts"]}
            told = [word.split("=", 1)[1] for word in agent["args"] if word.startswith("--policy=")]
            told += [each["value"] for each in agent["env"] if each["name"] in ("AWS_CA_BUNDLE", "AWS_SHARED_CREDENTIALS_FILE")]
            with self.subTest(name):
                for path in told:
                    self.assertTrue(path in mounts or path.rsplit("/", 1)[0] in mounts, f"{path} in {mounts}")
                self.assertEqual(set(mounts.values()), {each["name"] for each in spec["volumes"]})

    def test_the_policy_is_a_config_map_under_the_name_that_is_mounted(self):
        for name, key in (("outside-eks", "policy.yaml"), ("policy-as-text", "policy.yaml"), ("annotations", "roles.yaml")):
            with self.subTest(name):
                documents = named(name)
                volumes = chart.pod_spec(chart.daemonsets(documents)["cloud"])["volumes"]
                volume = next(each for each in volumes if each["name"] == "policy")["configMap"]
                self.assertEqual(volume["items"], [{"key": key, "path": "policy.yaml"}])
                maps = {each["metadata"]["name"]: each["data"] for each in chart.of_kind(documents, "ConfigMap")}
                if name == "annotations":
                    self.assertEqual((maps, volume["name"]), ({}, "roles"))
                else:
                    self.assertEqual(len(chart.objects(maps[volume["name"]][key])[0]["rules"]), 1)

    def test_the_image_is_by_digest_where_there_is_one(self):
        def image(name):
            return {each["image"] for each in chart.containers(chart.pod_spec(chart.daemonsets(named(name))["cloud"])).values()}

        self.assertEqual(image("minimal"), {"123456789012.dkr.ecr.eu-central-1.amazonaws.com/credlet:0.1.0"})
        self.assertEqual(image("hybrid"), {"registry.example:5000/aws/credlet:v1.2.3"})
        self.assertRegex(*image("proxied"), "^registry.example/credlet@sha256:0123")


# Value sets and variants that pass every flag between them.
ALL_FLAGS = [("every-flag",), ("annotations",), ("hybrid", "hybrid")]
# Flags that the chart knows and this agent does not yet.
AHEAD = {"source-check"}


class Pods(unittest.TestCase):
    def test_variants_exclude_each_other(self):
        sets = chart.daemonsets(named("hybrid"))
        self.assertEqual(set(sets), {"cloud", "hybrid", "hybrid-bottlerocket"})
        self.assertEqual({each["metadata"]["name"] for each in sets.values()}, {f"credlet{suffix}" for suffix in SUFFIXES})
        for node, agents in NODES:
            with self.subTest(node):
                chosen = {component for component, each in sets.items() if chooses(chart.pod_spec(each)["affinity"], node)}
                self.assertEqual(chosen, agents)

    def test_selectors_choose_their_own_pods_only(self):
        sets = chart.daemonsets(named("hybrid"))
        labels = {component: each["spec"]["template"]["metadata"]["labels"] for component, each in sets.items()}
        for component, each in sets.items():
            selector = each["spec"]["selector"]["matchLabels"].items()
            self.assertEqual({name for name, of_pod in labels.items() if selector <= of_pod.items()}, {component})

    def test_the_injection_policy_knows_the_agent_by_its_name(self):
        for name, _, daemonset in every_daemonset():
            with self.subTest(name):
                self.assertEqual(daemonset["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"], "credlet")

    def test_the_agent_comes_to_nodes_that_wait_for_it_and_goes_one_by_one(self):
        daemonset = chart.daemonsets(named("minimal"))["cloud"]
        self.assertEqual(chart.pod_spec(daemonset)["tolerations"], [{"operator": "Exists"}])
        self.assertEqual(daemonset["spec"]["updateStrategy"]["rollingUpdate"], {"maxUnavailable": 1, "maxSurge": 0})
        self.assertEqual(chart.pod_spec(daemonset)["priorityClassName"], "system-node-critical")

    def test_the_link_is_made_kept_or_left_alone(self):
        def link(name):
            spec = chart.pod_spec(chart.daemonsets(named(name))["cloud"])
            return {each: container.get("args") for each, container in chart.containers(spec).items() if each != "credlet"}

        self.assertEqual(link("minimal"), {"initialize": ["initialize"]})
        self.assertEqual(link("no-link"), {})
        more = ["--link-kind=ifb"]
        self.assertEqual(link("watched"), {"initialize": ["initialize", *more], "watch-link": ["initialize", "--watch", *more]})
        spec = chart.pod_spec(chart.daemonsets(named("watched"))["cloud"])
        for name in ("initialize", "watch-link"):
            self.assertEqual(chart.containers(spec)[name]["env"], [{"name": "CREDLET_LINK_KIND", "value": "ifb"}])

    def test_every_key_of_placement_counts(self):
        documents = named("placed")
        daemonset = chart.daemonsets(documents)["cloud"]
        spec = chart.pod_spec(daemonset)
        self.assertEqual(daemonset["metadata"]["name"], "eks-pod-identity-agent")
        self.assertEqual(daemonset["spec"]["updateStrategy"]["rollingUpdate"], {"maxUnavailable": "10%", "maxSurge": 0})
        self.assertEqual(spec["nodeSelector"], {"team": "platform"})
        self.assertEqual(spec["tolerations"], [{"key": "dedicated", "operator": "Exists"}])
        self.assertEqual([spec["dnsPolicy"], spec["terminationGracePeriodSeconds"]], ["ClusterFirstWithHostNet", 30])
        self.assertNotIn("affinity", spec)
        metadata = daemonset["spec"]["template"]["metadata"]
        self.assertEqual(metadata["annotations"]["prometheus.io/port"], "2705")
        self.assertEqual(metadata["labels"]["team"], "platform")
        self.assertEqual(chart.containers(spec)["credlet"]["resources"]["limits"], {"cpu": 1, "memory": "256Mi"})

    def test_monitors_choose_the_pods_and_the_service_their_port(self):
        documents = named("monitored")
        service = chart.of_kind(documents, "Service")[0]
        self.assertEqual(service["spec"]["ports"], [{"name": "metrics", "port": 9405}])
        labels = chart.daemonsets(documents)["cloud"]["spec"]["template"]["metadata"]["labels"].items()
        self.assertLessEqual(service["spec"]["selector"].items(), labels)
        self.assertLessEqual(chart.of_kind(documents, "PodMonitor")[0]["spec"]["selector"]["matchLabels"].items(), labels)
        monitor = chart.of_kind(documents, "ServiceMonitor")[0]
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), service["metadata"]["labels"].items())
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")
        relabelings = chart.of_kind(documents, "PodMonitor")[0]["spec"]["podMetricsEndpoints"][0]["relabelings"]
        self.assertEqual([target(relabelings, ip) for ip in ("192.0.2.7", "2001:db8::7")], ["192.0.2.7:9405", "[2001:db8::7]:9405"])
        # No metrics, no monitors.
        self.assertEqual({each["kind"] for each in named("no-link")}, {"DaemonSet"})

    def test_the_plain_manifest_is_what_the_chart_renders(self):
        self.assertEqual(chart.PLAIN.read_text(), chart.render_plain(), "run: python3 tests/chart --render")
        for name in chart.PLACEHOLDERS.values():
            self.assertIn(name, chart.PLAIN.read_text().split("---", 1)[1])


SUFFIXES = ("", "-hybrid", "-hybrid-bottlerocket")
LINUX = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
COMPUTE = "eks.amazonaws.com/compute-type"
BOTTLEROCKET = {"os.bottlerocket.aws/variant": "vmware-k8s-1.34", "os.bottlerocket.aws/version": "1.50.0"}
# Nodes by their labels, and the agents that they get.
NODES = [
    (LINUX, {"cloud"}),
    ({**LINUX, **BOTTLEROCKET}, {"cloud"}),
    ({**LINUX, COMPUTE: "hybrid"}, {"hybrid"}),
    ({**LINUX, **BOTTLEROCKET, COMPUTE: "hybrid"}, {"hybrid-bottlerocket"}),
    ({**LINUX, COMPUTE: "auto"}, set()),
    ({**LINUX, COMPUTE: "fargate"}, set()),
    ({**LINUX, "kubernetes.io/os": "windows"}, set()),
]


def chooses(affinity: dict, node: dict) -> bool:
    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    meaning = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, _: value is not None,
        "DoesNotExist": lambda value, _: value is None,
    }
    holds = [[meaning[each["operator"]](node.get(each["key"]), each.get("values")) for each in term["matchExpressions"]] for term in terms]
    return any(all(term) for term in holds)


def target(relabelings: list[dict], ip: str) -> str:
    """What relabeling makes of a pod's address, as Prometheus does it: anchored expressions, $1."""
    labels = {"__meta_kubernetes_pod_container_name": "credlet", "__meta_kubernetes_pod_ip": ip, "__address__": ip}
    for each in relabelings:
        matched = re.fullmatch(each["regex"], ";".join(labels[name] for name in each["sourceLabels"]))
        if each.get("action") == "keep":
            assert matched, each
        elif matched:
            labels[each["targetLabel"]] = matched.expand(each["replacement"].replace("$1", r"\1"))
    return labels["__address__"]
