"""Which pods there are, where they run, and who finds them."""

import re
import subprocess
import unittest

import chart

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


class Pods(unittest.TestCase):
    def test_variants_exclude_each_other(self):
        sets = chart.daemonsets(chart.named("hybrid"))
        self.assertEqual(set(sets), {"cloud", "hybrid", "hybrid-bottlerocket"})
        self.assertEqual({each["metadata"]["name"] for each in sets.values()}, {f"credlet{suffix}" for suffix in SUFFIXES})
        for node, agents in NODES:
            with self.subTest(node):
                chosen = {component for component, each in sets.items() if chooses(chart.pod_spec(each)["affinity"], node)}
                self.assertEqual(chosen, agents)

    def test_what_goes_with_the_agent_goes_where_the_agent_may_be(self):
        sets = chart.daemonsets(chart.named("hybrid")).values()
        agents = [chart.pod_spec(each)["affinity"] for each in sets]
        for path in ("cleanup.yaml", "fresh-nodes/reporter.yaml"):
            daemonset = chart.of_kind(chart.objects((chart.DAEMONSET / path).read_text()), "DaemonSet")[0]
            for node, _ in NODES:
                with self.subTest(path, node=node):
                    own = chooses(chart.pod_spec(daemonset)["affinity"], node)
                    self.assertEqual(own, any(chooses(each, node) for each in agents))

    def test_the_operators_annotations_win(self):
        def annotations(name):
            return chart.daemonsets(chart.named(name))["cloud"]["spec"]["template"]["metadata"]["annotations"]

        default = "kubectl.kubernetes.io/default-container"
        self.assertEqual(annotations("minimal"), {default: "credlet"})
        self.assertEqual(annotations("watched"), {default: "watch-link"})
        self.assertEqual(annotations("placed")[default], "credlet")

    def test_selectors_choose_their_own_pods_only(self):
        sets = chart.daemonsets(chart.named("hybrid"))
        labels = {component: each["spec"]["template"]["metadata"]["labels"] for component, each in sets.items()}
        for component, each in sets.items():
            selector = each["spec"]["selector"]["matchLabels"].items()
            self.assertEqual({name for name, of_pod in labels.items() if selector <= of_pod.items()}, {component})

    def test_the_injection_policy_knows_the_agent_by_its_name(self):
        for name, _, daemonset in chart.every_daemonset():
            with self.subTest(name):
                self.assertEqual(daemonset["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"], "credlet")

    def test_the_agent_comes_to_nodes_that_wait_for_it(self):
        daemonset = chart.daemonsets(chart.named("minimal"))["cloud"]
        self.assertEqual(chart.pod_spec(daemonset)["tolerations"], [{"operator": "Exists"}])
        self.assertEqual(chart.pod_spec(daemonset)["priorityClassName"], "system-node-critical")

    def test_agents_follow_each_other_node_by_node(self):
        def rollout(name):
            spec = chart.daemonsets(chart.named(name))["cloud"]["spec"]
            return spec["updateStrategy"], spec["minReadySeconds"]

        def rolling(surge, unavailable):
            return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}

        self.assertEqual(rollout("minimal"), (rolling(1, 0), 10))
        self.assertEqual(rollout("without-handover"), (rolling(0, 1), 0))
        self.assertEqual(rollout("placed"), (rolling("10%", 0), 30))
        self.assertEqual(rollout("monitored"), (rolling(0, "10%"), 10))
        self.assertEqual(rollout("no-link"), ({"type": "OnDelete"}, 10))

    def test_the_link_is_made_kept_or_left_alone(self):
        def link(name):
            spec = chart.pod_spec(chart.daemonsets(chart.named(name))["cloud"])
            return {each: container.get("args") for each, container in chart.containers(spec).items() if each != "credlet"}

        self.assertEqual(link("minimal"), {"initialize": ["initialize"]})
        self.assertEqual(link("no-link"), {"initialize": ["initialize", "--no-link"]})
        more = ["--link-kind=ifb"]
        self.assertEqual(link("watched"), {"initialize": ["initialize", *more], "watch-link": ["initialize", "--watch", *more]})
        spec = chart.pod_spec(chart.daemonsets(chart.named("watched"))["cloud"])
        for name in ("initialize", "watch-link"):
            self.assertIn({"name": "CREDLET_LINK_KIND", "value": "ifb"}, chart.containers(spec)[name]["env"])

    def test_every_key_of_placement_counts(self):
        documents = chart.named("placed")
        daemonset = chart.daemonsets(documents)["cloud"]
        spec = chart.pod_spec(daemonset)
        self.assertEqual(daemonset["metadata"]["name"], "eks-pod-identity-agent")
        self.assertEqual(spec["nodeSelector"], {"team": "platform"})
        self.assertEqual(spec["tolerations"], [{"key": "dedicated", "operator": "Exists"}])
        self.assertEqual([spec["dnsPolicy"], spec["terminationGracePeriodSeconds"]], ["ClusterFirstWithHostNet", 30])
        self.assertNotIn("affinity", spec)
        metadata = daemonset["spec"]["template"]["metadata"]
        self.assertEqual(metadata["annotations"]["prometheus.io/port"], "2705")
        self.assertEqual(metadata["labels"]["team"], "platform")
        self.assertEqual(chart.containers(spec)["credlet"]["resources"]["limits"], {"cpu": 1, "memory": "512Mi"})

    def test_monitors_choose_the_pods_and_the_service_their_port(self):
        documents = chart.named("monitored")
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
        self.assertEqual({each["kind"] for each in chart.named("no-link")}, {"DaemonSet"})

    def test_the_plain_manifest_is_what_the_chart_renders(self):
        self.assertEqual(chart.PLAIN.read_text(), chart.render_plain(), "run: python3 tests/chart --render")

    def test_the_plain_manifests_own_command_puts_the_names_in(self):
        head, _, _ = chart.PLAIN_HEAD.partition("| kubectl")
        sed = head[head.index("#   sed") :].replace("#", "").replace("\\\n", " ")
        said = subprocess.run(["sh", "-ec", sed], cwd=chart.DAEMONSET, capture_output=True, text=True, check=True).stdout
        names = ("123456789012.dkr.ecr.eu-central-1.amazonaws.com/credlet", "my-cluster", "eu-central-1")
        rendered = chart.render_plain(dict(zip(chart.PLACEHOLDERS, names, strict=True)))
        self.assertEqual(chart.objects(said), chart.objects(rendered))
