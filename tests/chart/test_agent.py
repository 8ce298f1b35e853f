"""What the agent is told by values: flags, variables, files, probes."""

import re
import unittest

import chart

# Value sets and variants that pass every flag between them.
ALL_FLAGS = [("every-flag",), ("annotations",), ("hybrid", "hybrid")]

PREFIX = "CREDLET_"


def environment(name: str, component: str = "cloud") -> dict:
    """Variables that are no flags of the agent."""
    return {name: value for name, value in variables(name, component).items() if not name.startswith(PREFIX)}


def flags(name: str, component: str = "cloud") -> dict:
    """Flags of the agent, by their names: they are variables, too."""
    passed = variables(name, component).items()
    return {name.removeprefix(PREFIX).lower().replace("_", "-"): value for name, value in passed if name.startswith(PREFIX)}


def variables(name: str, component: str) -> dict:
    spec = chart.pod_spec(chart.daemonsets(chart.named(name))[component])
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in chart.containers(spec)["credlet"]["env"]}


class Agent(unittest.TestCase):
    def test_minimal_values_need_only_the_cluster(self):
        expected = {
            "cluster-name": "prod", "handover-dir": "/run/credlet-handover", "log-format": "json", "metrics-address": "0.0.0.0", "metrics-port": "2705", "port": "80",
            "probe-port": "2703", "verbosity": "info",
        }  # fmt: skip
        self.assertEqual(flags("minimal"), expected)
        node = {"fieldRef": {"fieldPath": "spec.nodeName"}}
        self.assertEqual(environment("minimal"), {"NODE_NAME": node, "AWS_REGION": "eu-central-1"})

    def test_each_value_arrives_as_its_flag(self):
        expected = {
            "cluster-name": "Prod_1", "bind-hosts": "169.254.170.23", "port": "8080", "probe-port": "12703",
            "issuer": "https://one.example,https://two.example=https://keys.example/jwks?a=b", "audience": "pods.eks.amazonaws.com",
            "token-verification": "local", "source-check": "enforce", "source-binding": "enforce", "pod-rate": "1000000", "max-cache-size": "0",
            "max-service-qps": "20", "max-credential-retention-before-renewal": "3h", "endpoint": "https://eks-auth.example",
            "handover-dir": "/run/credlet-handover", "verbosity": "debug", "log-format": "text", "metrics-address": "127.0.0.1", "metrics-port": "12705",
        }  # fmt: skip
        self.assertEqual(flags("every-flag"), expected)
        agent = chart.containers(chart.pod_spec(chart.daemonsets(chart.named("every-flag"))["cloud"]))["credlet"]
        self.assertEqual(agent["args"], ["server", "--node-name=node-1"])

    def test_flags_are_those_of_the_agent(self):
        source = (chart.DAEMONSET.parent / "src/config/flags.rs").read_text()
        known = {name.replace("_", "-") for name in re.findall(r"^    pub (\w+): (?!\w+Flags)", source, re.MULTILINE)}
        passed = {flag for name in ALL_FLAGS for flag in flags(*name)}
        self.assertEqual(passed - known, set())
        # NODE_NAME says the one, the chart's own mount is the default of the other.
        self.assertEqual(known - passed, {"node-name", "run-dir"})

    def test_switches_are_passed_where_they_are_on(self):
        for switch in ("service-account-roles", "pod-watch"):
            self.assertEqual(flags("annotations")[switch], "true")
        self.assertEqual(flags("no-link")["metrics-port"], "0")
        for component in ("hybrid", "hybrid-bottlerocket"):
            self.assertEqual(flags("hybrid", component)["rotate-credentials"], "true")
            self.assertEqual(environment("hybrid", component)["AWS_SHARED_CREDENTIALS_FILE"], "/etc/credlet/aws/credentials")
        self.assertNotIn("rotate-credentials", flags("hybrid", "cloud"))

    def test_variables_arrive_as_text_or_as_references(self):
        proxied = environment("proxied")
        self.assertEqual(proxied["HTTPS_PROXY"], {"secretKeyRef": {"name": "proxy", "key": "url"}})
        self.assertEqual(proxied["NO_PROXY"], "10.0.0.0/8,.internal")
        isolated = environment("isolated")
        self.assertEqual([isolated["AWS_USE_FIPS_ENDPOINT"], isolated["AWS_USE_DUALSTACK_ENDPOINT"]], ["true", "true"])

    def test_certificates_are_the_operators_where_the_variable_is(self):
        self.assertEqual(environment("own-roots")["AWS_CA_BUNDLE"], "/etc/roots/ca.crt")

    def test_no_variable_comes_twice(self):
        for name, _, daemonset in chart.every_daemonset():
            for container in chart.containers(chart.pod_spec(daemonset)).values():
                names = [each["name"] for each in container.get("env", [])]
                with self.subTest(name, container=container["name"]):
                    self.assertEqual(len(names), len(set(names)), names)

    def test_probes_ask_this_very_process(self):
        for name, _, daemonset in chart.every_daemonset():
            with self.subTest(name):
                agent = chart.containers(chart.pod_spec(daemonset))["credlet"]
                self.assertEqual(agent["readinessProbe"]["exec"]["command"], ["/credlet", "status", "--ready"])
                self.assertEqual(agent["livenessProbe"]["exec"]["command"], ["/credlet", "status", "--healthy"])

    def test_each_file_that_the_agent_is_told_of_is_mounted(self):
        for name, _, daemonset in chart.every_daemonset():
            spec = chart.pod_spec(daemonset)
            agent = chart.containers(spec)["credlet"]
            mounts = {each["mountPath"]: each["name"] for each in agent["volumeMounts"]}
            files = ("CREDLET_POLICY", "AWS_CA_BUNDLE", "AWS_SHARED_CREDENTIALS_FILE")
            told = [each["value"] for each in agent["env"] if each["name"] in files]
            with self.subTest(name):
                for path in told:
                    self.assertTrue(path in mounts or path.rsplit("/", 1)[0] in mounts, f"{path} in {mounts}")
                self.assertEqual(set(mounts.values()), {each["name"] for each in spec["volumes"]})

    def test_the_policy_is_a_config_map_under_the_name_that_is_mounted(self):
        for name, key in (("outside-eks", "policy.yaml"), ("policy-as-text", "policy.yaml"), ("annotations", "roles.yaml")):
            with self.subTest(name):
                documents = chart.named(name)
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
            return {each["image"] for each in chart.containers(chart.pod_spec(chart.daemonsets(chart.named(name))["cloud"])).values()}

        self.assertEqual(image("minimal"), {"123456789012.dkr.ecr.eu-central-1.amazonaws.com/credlet:0.1.0"})
        self.assertEqual(image("hybrid"), {"registry.example:5000/aws/credlet:v1.2.3"})
        self.assertRegex(*image("proxied"), "^registry.example/credlet@sha256:0123")
        by_number = chart.template("--values", chart.MINIMAL, "--set", "image.tag=20260131").stdout
        self.assertIn("/credlet:20260131\"", by_number)
        without = chart.template("--values", chart.MINIMAL, "--set", "image.tag=null").stdout
        self.assertIn("/credlet:0.1.0\"", without)
