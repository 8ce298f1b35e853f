"""Values: what is refused, and what the chart's README says of them."""

import json
import re
import tempfile
import unittest

import chart
import yaml


class Values(unittest.TestCase):
    def test_the_chart_passes_helm_lint_with_each_value_set(self):
        for values in chart.value_sets():
            with self.subTest(values.name):
                result = chart.helm("lint", "--strict", chart.CHART, "--values", values)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_bad_values_are_refused_and_the_operator_is_told_why(self):
        cases = yaml.safe_load(chart.REFUSALS.read_text())
        for case in cases:
            with self.subTest(case["name"]), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(case["values"], file)
                file.flush()
                base = [] if case.get("alone") else ["--values", chart.MINIMAL]
                result = chart.template(*base, "--values", file.name)
                self.assertNotEqual(result.returncode, 0, "accepted")
                for part in case["says"]:
                    self.assertIn(part, result.stderr)

    def test_no_object_of_the_schema_takes_keys_that_it_does_not_know(self):
        schema = json.loads((chart.CHART / "values.schema.json").read_text())
        for path, node in objects(schema, "values"):
            with self.subTest(path):
                self.assertIn("additionalProperties", node)

    def test_the_schema_knows_each_key_and_no_other(self):
        schema = json.loads((chart.CHART / "values.schema.json").read_text())
        values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
        # Helm gives `global` to every chart.
        self.assertEqual(known(schema) - {"global"}, keys(values))

    def test_the_readme_has_a_row_for_each_key(self):
        values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
        text = (chart.CHART / "README.md").read_text()
        section = text[text.index("\n## Values\n") :].split("\n## ")[1]
        rows = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
        # A row may stand for all keys below it.
        covered = {key for key in keys(values) if any(key == row or key.startswith(f"{row}.") for row in rows)}
        self.assertEqual(keys(values) - covered, set(), "without a row")
        self.assertEqual({row for row in rows if not any(key == row or key.startswith(f"{row}.") for key in keys(values))}, set())

    def test_the_readme_has_a_home_for_each_key_of_the_eks_pod_identity_agent(self):
        text = (chart.CHART / "README.md").read_text()
        section = text[text.index("\n## From the EKS Pod Identity Agent's values\n") :].split("\n## ")[1]
        rows = re.findall(r"^\| (.+?) \| (.+?) \|", section, re.MULTILINE)
        theirs = {key for row in rows for key in re.findall(r"`([^`]+)`", row[0])}
        for key in THEIRS:
            with self.subTest(key):
                self.assertTrue({key, re.sub(r"^daemonsets\.[^.]+", "daemonsets.*", key)} & theirs)
        # What is named on our side is there, if `none` is not.
        ours = {key for row in rows for key in re.findall(r"`([^`]+)`", row[1])}
        values = keys(yaml.safe_load((chart.CHART / "values.yaml").read_text()))
        known = {re.sub(r"^variants\.[^.]+", "variants.*", key) for key in values} | values
        self.assertEqual({key for key in ours if not any(each == key or each.startswith(f"{key}.") for each in known)}, set())

    def test_the_version_is_that_of_the_agent(self):
        manifest = (chart.DAEMONSET.parent / "Cargo.toml").read_text()
        version = re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)[1]
        self.assertEqual(yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["appVersion"], version)


VARIANTS_OF_THEIRS = ("cloud", "hybrid", "hybrid-bottlerocket")
# The keys of the EKS Pod Identity Agent's chart, of its repository in 2026.
THEIRS = [
    *(f"daemonsets.{variant}.create" for variant in VARIANTS_OF_THEIRS),
    *(f"daemonsets.{variant}.{key}" for variant in VARIANTS_OF_THEIRS for key in ("volumes", "volumeMounts", "nameSuffix", "affinity")),
    *(f"daemonsets.{variant}.{key}" for variant in VARIANTS_OF_THEIRS for key in ("additionalArgs", "additionalSecurityContext")),
    *(f"agent.{key}" for key in ("additionalArgs", "advertiseProxyPort", "command", "livenessEndpoint", "probePort", "readinessEndpoint")),
    *(f"metrics.{key}" for key in ("enabled", "port", "path", "extraLabels")),
    *(f"metrics.serviceMonitor.{key}" for key in ("enabled", "extraLabels", "interval")),
    *(f"image.{key}" for key in ("containerRegistry", "pullPolicy", "region", "tag", "override")),
    *(f"init.{key}" for key in ("additionalArgs", "command", "create")),
    *(f"serviceAccount.{key}" for key in ("create", "annotations", "name")),
    *("affinity", "clusterName", "env", "env.AWS_REGION", "fullnameOverride", "nameOverride", "imagePullSecrets", "nodeSelector"),
    *("podAnnotations", "podLabels", "podLivenessCheck.enabled", "priorityClassName", "resources", "tolerations", "updateStrategy"),
]

# Values whose content is Kubernetes's business or the operator's names.
FREE = {"env", "policy.content", "caBundle", "nodeSelector", "podAnnotations", "podLabels", "serviceAccount.annotations"}


def is_free(path: str) -> bool:
    return path in FREE or path.endswith((".affinity", ".seLinuxOptions", ".labels", ".requests", ".limits"))


def keys(values: dict, prefix: str = "") -> set[str]:
    """The paths of all leaves."""
    found = set()
    for key, value in values.items():
        path = prefix + key
        found |= keys(value, f"{path}.") if isinstance(value, dict) and not is_free(path) else {path}
    return found


def known(schema: dict) -> set[str]:
    """The paths of all leaves that a schema has."""

    def walk(node: dict, prefix: str) -> set[str]:
        found = set()
        for key, child in node["properties"].items():
            path = prefix + key
            child = schema["definitions"][child["$ref"].rsplit("/", 1)[1]] if "$ref" in child else child
            found |= walk(child, f"{path}.") if "properties" in child and not is_free(path) else {path}
        return found

    return walk(schema, "")


def objects(node, path: str):
    """Each schema of an object with named properties that is a schema by itself, not a condition."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            yield path, node
        for key, child in node.items():
            if key not in ("if", "then"):
                yield from objects(child, f"{path}.{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from objects(child, f"{path}[{index}]")
