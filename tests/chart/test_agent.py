"""What the agent is told by values: arguments, variables, files, probes."""

import re
import unittest

import chart

# Value sets and variants that pass every flag between them.
ALL_FLAGS = [("every-flag",), ("annotations",), ("hybrid", "hybrid")]


def arguments(name: str, component: str = "cloud") -> list[str]:
    spec = chart.pod_spec(chart.daemonsets(chart.named(name))[component])
    return chart.containers(spec)["credlet"]["args"]


def environment(name: str, component: str = "cloud") -> dict:
    spec = chart.pod_spec(chart.daemonsets(chart.named(name))[component])
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in chart.containers(spec)["credlet"]["env"]}


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
        self.assertEqual(passed - flags, set())
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
            told = [word.split("=", 1)[1] for word in agent["args"] if word.startswith("--policy=")]
            told += [each["value"] for each in agent["env"] if each["name"] in ("AWS_CA_BUNDLE", "AWS_SHARED_CREDENTIALS_FILE")]
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
