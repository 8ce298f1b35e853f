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
LINK_CONTEXT = confined(ROOT, "NET_ADMIN", "NET_BIND_SERVICE")


class Rights(unittest.TestCase):
    def test_each_container_has_exactly_its_rights(self):
        for name, component, daemonset in chart.every_daemonset():
            for container in chart.containers(chart.pod_spec(daemonset)).values():
                with self.subTest(name, container=container["name"]):
                    context = dict(container["securityContext"])
                    context.pop("seLinuxOptions", None)
                    expected = AGENT_CONTEXT if component == "cloud" else HYBRID_CONTEXT
                    self.assertEqual(context, expected if container["name"] == "credlet" else LINK_CONTEXT)

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
