"""What the chart's pods may do: users, capabilities, files of the host, the API server."""

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
WATCH_CONTEXT = confined(ROOT, "NET_ADMIN", "NET_BIND_SERVICE")


def initialize_context(name: str, component: str) -> dict:
    """Links are made by the one, folders given to another uid by the other."""
    link = [] if name.startswith("no-link") else ["NET_ADMIN"]
    handover = ["CHOWN"] if component == "cloud" and not name.startswith("without-handover") else []
    return confined(ROOT, *handover, *link, "NET_BIND_SERVICE")


class Rights(unittest.TestCase):
    def test_each_container_has_exactly_its_rights(self):
        for name, component, daemonset in chart.every_daemonset():
            for container in chart.containers(chart.pod_spec(daemonset)).values():
                with self.subTest(name, container=container["name"]):
                    context = dict(container["securityContext"])
                    context.pop("seLinuxOptions", None)
                    expected = {
                        "credlet": AGENT_CONTEXT if component == "cloud" else HYBRID_CONTEXT,
                        "initialize": initialize_context(name, component),
                        "watch-link": WATCH_CONTEXT,
                    }
                    self.assertEqual(context, expected[container["name"]])

    def test_each_pod_is_confined_and_mounts_no_token_by_itself(self):
        for name, _, daemonset in chart.every_daemonset():
            with self.subTest(name):
                spec = chart.pod_spec(daemonset)
                self.assertIs(spec["automountServiceAccountToken"], False)
                self.assertEqual(spec["securityContext"], {"seccompProfile": {"type": "RuntimeDefault"}})
                self.assertEqual([spec.get("hostPID"), spec.get("hostIPC")], [None, None])

    def test_no_container_declares_a_port(self):
        for name, _, daemonset in chart.every_daemonset():
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
        for name, _, daemonset in chart.every_daemonset():
            with self.subTest(name):
                volumes = chart.pod_spec(daemonset)["volumes"]
                found = {each["hostPath"]["path"] for each in volumes if "hostPath" in each and each["name"] != "handover"}
                self.assertEqual(found, expected.get(name, set()))

    def test_each_daemonset_has_a_handover_folder_of_its_own(self):
        def folders(*arguments):
            result = chart.template("--values", chart.VALUES / "hybrid.yaml", *arguments)
            for daemonset in chart.daemonsets(chart.objects(result.stdout)).values():
                volumes = chart.pod_spec(daemonset)["volumes"]
                yield next(each for each in volumes if each["name"] == "handover")["hostPath"]["path"]

        plain = {f"/run/credlet/kube-system/{name}" for name in ("credlet", "credlet-hybrid", "credlet-hybrid-bottlerocket")}
        self.assertEqual(set(folders()), plain)
        # Of another release, and of one by the same name in another namespace.
        self.assertFalse(plain & set(folders("--set", "fullnameOverride=second")))
        self.assertFalse(plain & set(folders("--namespace", "second")))

    def test_the_agent_owns_the_handover_folder_that_it_is_told_of(self):
        for name, _, daemonset in chart.every_daemonset():
            spec = chart.pod_spec(daemonset)
            containers = chart.containers(spec)
            told = {
                container: {each["name"]: each.get("value") for each in containers[container].get("env", [])}
                for container in containers
            }
            with self.subTest(name):
                if name.startswith("without-handover"):
                    self.assertNotIn("handover", {each["name"] for each in spec["volumes"]})
                    continue
                for container in ("initialize", "credlet"):
                    mounts = {each["name"]: each["mountPath"] for each in containers[container]["volumeMounts"]}
                    self.assertEqual(mounts["handover"], told[container]["CREDLET_HANDOVER_DIR"])
                owner = told["initialize"]["CREDLET_HANDOVER_OWNER"]
                self.assertEqual(owner, str(containers["credlet"]["securityContext"]["runAsUser"]))
                self.assertNotIn("CREDLET_HANDOVER_DIR", told.get("watch-link", {}))

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
                self.assertEqual(len(roles), 4 if values.stem == "annotations" else 0)
                # Never for the container that makes the link.
                expected = [("credlet", "api-server-token")] if values.stem in ("annotations", "outside-eks") else []
                self.assertEqual(tokens, expected)

    def test_each_value_needs_one_right_for_one_account(self):
        documents = chart.named("annotations")
        roles, bindings = chart.of_kind(documents, "ClusterRole"), chart.of_kind(documents, "ClusterRoleBinding")
        expected = {
            "service-account-roles": {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]},
            "pod-watch": {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        }
        account = {"kind": "ServiceAccount", "name": "aws-agent", "namespace": "kube-system"}
        for role, binding, (value, rule) in zip(roles, bindings, expected.items(), strict=True):
            with self.subTest(value):
                self.assertEqual(role["rules"], [rule])
                self.assertTrue(role["metadata"]["name"].endswith(f"-{value}"))
                self.assertEqual(binding["roleRef"]["name"], role["metadata"]["name"])
                self.assertEqual(binding["subjects"], [account])
                # The same right as that of the manifest for those who write their own.
                shipped = chart.objects((chart.DAEMONSET / f"rbac/{value}.yaml").read_text())
                self.assertEqual(role["rules"], chart.of_kind(shipped, "ClusterRole")[0]["rules"])
        self.assertEqual(chart.pod_spec(chart.daemonsets(documents)["cloud"])["serviceAccountName"], "aws-agent")

    def test_what_the_restricted_profile_finds_is_what_the_readme_says(self):
        text = (chart.CHART / "README.md").read_text()
        section = text[text.index("\n## Rights\n") :].split("\n## ")[1]
        said = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
        found = set()
        for _, _, daemonset in chart.every_daemonset():
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
