"""Every manifest that the project ships, against the strict schemas of several versions of Kubernetes."""

import unittest

import chart
import custom_resources
import jsonschema
import kubernetes_validate
import yaml

# The oldest that the chart installs on, the one of the test cluster, the newest there is a schema of, and one between.
VERSIONS = ["1.25", "1.30", "1.34", "1.37"]


def judge(document: dict, version: str) -> None:
    """Raises if a document is not what that Kubernetes takes, or if nobody here knows its kind."""
    custom = custom_resources.schema_of(document)
    if custom:
        jsonschema.validate(document, custom)
        return
    validated = kubernetes_validate.validate(document, version, strict=True)
    # An unknown version is judged by the newest known, silently.
    if validated != version:
        raise AssertionError(f"no schemas of {version}: {validated} was taken")


class Schemas(unittest.TestCase):
    def test_there_are_at_least_ten_value_sets(self):
        self.assertGreaterEqual(len(chart.value_sets()), 10)

    def test_each_value_set_renders_valid_objects(self):
        for values in chart.value_sets():
            self.judge_all(values.name, chart.rendered(values))

    def test_each_manifest_is_valid(self):
        paths = [path for path in chart.DAEMONSET.rglob("*.yaml") if chart.CHART not in path.parents]
        # Those of injection/ need an API of a certain version: the cluster's tests apply them to a real one.
        paths = [path for path in paths if path.parent.name != "injection" and path != chart.NODE_POOL_PATCH]
        self.assertGreaterEqual(len(paths), 6)
        for path in paths:
            self.judge_all(str(path.relative_to(chart.DAEMONSET)), chart.objects(path.read_text()))

    def test_the_patch_is_of_a_node_pool_and_has_the_taint_of_the_rule(self):
        patch = yaml.safe_load(chart.NODE_POOL_PATCH.read_text())
        jsonschema.validate(patch, custom_resources.NODE_POOL_PATCH)
        rule = yaml.safe_load((chart.DAEMONSET / "fresh-nodes/rule.yaml").read_text())
        self.assertEqual(patch["spec"]["template"]["spec"]["startupTaints"], [rule["spec"]["taint"]])

    def judge_all(self, name: str, documents: list[dict]) -> None:
        self.assertTrue(documents, name)
        for document in documents:
            for version in VERSIONS:
                with self.subTest(name, kind=document["kind"], name=document["metadata"]["name"], version=version):
                    judge(document, version)

    def test_the_judge_can_say_no(self):
        daemonset = chart.daemonsets(chart.rendered(chart.MINIMAL))["cloud"]
        text = yaml.safe_dump(daemonset)
        for faulty in (text.replace("hostNetwork:", "hostNetworking:"), text.replace("periodSeconds: 5", "periodSeconds: often")):
            self.assertNotEqual(text, faulty)
            with self.assertRaises(kubernetes_validate.ValidationError):
                judge(yaml.safe_load(faulty), "1.34")
        with self.assertRaises(kubernetes_validate.SchemaNotFoundError):
            judge({**daemonset, "kind": "DemonSet"}, "1.34")
        with self.assertRaises(AssertionError):
            judge(daemonset, "1.36.9")
        monitor = chart.of_kind(chart.rendered(chart.VALUES / "monitored.yaml"), "PodMonitor")[0]
        with self.assertRaises(jsonschema.ValidationError):
            judge({**monitor, "spec": {**monitor["spec"], "selectors": {}}}, "1.34")
