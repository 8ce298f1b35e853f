"""The chart as Helm renders it."""

import functools
import pathlib
import subprocess

import yaml
from cache import BINARIES

HERE = pathlib.Path(__file__).resolve().parent
DAEMONSET = HERE.parents[1] / "daemonset"
CHART = DAEMONSET / "chart"
VALUES = HERE / "values"
MINIMAL = VALUES / "minimal.yaml"
REFUSALS = HERE / "refusals.yaml"
# The chart for kubectl alone.
PLAIN = DAEMONSET / "credlet.yaml"

NODE_POOL_PATCH = DAEMONSET / "fresh-nodes/karpenter-patch.yaml"

RELEASE, NAMESPACE = "credlet", "kube-system"

PLAIN_HEAD = """\
# credlet for `kubectl apply`, where there is no Helm: chart/ with its default values. Made by `python3 tests/chart --render`.
#
# Three names are yours to put in; while YOUR-IMAGE stands here, no pod starts:
#
#   sed -e 's|YOUR-IMAGE|123456789012.dkr.ecr.eu-central-1.amazonaws.com/credlet|' \\
#       -e 's|YOUR-CLUSTER|my-cluster|' -e 's|YOUR-REGION|eu-central-1|' credlet.yaml | kubectl apply -f -
"""
PLACEHOLDERS = {"image.repository": "YOUR-IMAGE", "clusterName": "YOUR-CLUSTER", "region": "YOUR-REGION"}


def helm(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([BINARIES / "helm", *arguments], capture_output=True, text=True, check=False)


def template(*arguments) -> subprocess.CompletedProcess:
    return helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *arguments)


@functools.cache
def rendered(values: pathlib.Path) -> list[dict]:
    """The objects of a file of values."""
    result = template("--values", values)
    if result.returncode:
        raise AssertionError(f"{values.name}: {result.stderr}")
    return objects(result.stdout)


class Strict(yaml.SafeLoader):
    """Takes no key twice, as a strict API server does."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key comes twice: {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def objects(text: str) -> list[dict]:
    return [document for document in yaml.load_all(text, Strict) if document]


def value_sets() -> list[pathlib.Path]:
    return sorted(VALUES.glob("*.yaml"))


def of_kind(documents: list[dict], kind: str) -> list[dict]:
    return [document for document in documents if document["kind"] == kind]


def daemonsets(documents: list[dict]) -> dict[str, dict]:
    """The DaemonSets by the kind of their nodes."""
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in of_kind(documents, "DaemonSet")}


def pod_spec(daemonset: dict) -> dict:
    return daemonset["spec"]["template"]["spec"]


def named(name: str) -> list[dict]:
    return rendered(VALUES / f"{name}.yaml")


def every_daemonset():
    """Each DaemonSet of each value set: a name for people, the kind of its nodes, the object."""
    for values in value_sets():
        for component, daemonset in daemonsets(rendered(values)).items():
            yield f"{values.stem} {component}", component, daemonset


def containers(spec: dict) -> dict[str, dict]:
    """All containers of a pod by name, init containers too."""
    return {each["name"]: each for each in spec.get("initContainers", []) + spec["containers"]}


def render_plain(names: dict[str, str] = PLACEHOLDERS) -> str:
    sets = [f"{key}={name}" for key, name in names.items()]
    # Placeholders are what the schema is there to refuse.
    result = template("--skip-schema-validation", "--set", ",".join(sets))
    result.check_returncode()
    # Nothing of it is Helm's when kubectl applies it.
    foreign = ("app.kubernetes.io/managed-by: ", "helm.sh/chart: ")
    lines = [line for line in result.stdout.splitlines() if not line.strip().startswith(foreign)]
    return PLAIN_HEAD + "\n".join(lines) + "\n"
