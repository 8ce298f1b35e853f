"""Schemas of the custom resources that daemonset/ has, as far as it uses them; any other field is a fault. Their definitions are in:
prometheus-operator (PodMonitor, ServiceMonitor), cilium (CiliumNetworkPolicy), node-readiness-controller (NodeReadinessRule),
karpenter (NodePool).
"""


def struct(required: str = "", /, **properties) -> dict:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required.split()}


def items(schema: dict) -> dict:
    return {"type": "array", "minItems": 1, "items": schema}


STRING = {"type": "string", "minLength": 1}
LABELS = {"type": "object", "additionalProperties": STRING, "minProperties": 1}
SELECTOR = struct(matchLabels=LABELS, matchExpressions=items(struct("key operator", key=STRING, operator=STRING, values=items(STRING))))
RELABELING = struct(
    sourceLabels=items(STRING),
    regex=STRING,
    targetLabel=STRING,
    replacement=STRING,
    action={"enum": ["keep", "drop", "replace"]},
)
INTERVAL = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
TAINT = struct("key effect", key=STRING, value=STRING, effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]})
PORTS = items(struct("ports", ports=items(struct("port", port={"type": "string"}, protocol={"enum": ["TCP", "UDP", "ANY"]}))))
EGRESS = struct(
    toEntities=items({"enum": ["host", "remote-node", "kube-apiserver", "cluster", "world", "all"]}), toCIDR=items(STRING), toPorts=PORTS
)

# https://github.com/kubernetes-sigs/node-readiness-controller, v1alpha1: taints have its prefix, selectors are not empty.
READINESS_TAINT = {
    "allOf": [TAINT, {"properties": {"key": {"pattern": "^readiness\\.k8s\\.io/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"}}}]
}
CONDITION = struct("type requiredStatus", type=STRING, requiredStatus={"enum": ["True", "False", "Unknown"]})

SPECS = {
    ("monitoring.coreos.com/v1", "PodMonitor"): struct(
        "selector podMetricsEndpoints",
        selector=SELECTOR,
        podMetricsEndpoints=items(struct(path=STRING, interval=INTERVAL, relabelings=items(RELABELING))),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): struct(
        "selector endpoints", selector=SELECTOR, endpoints=items(struct("port", port=STRING, path=STRING, interval=INTERVAL))
    ),
    ("cilium.io/v2", "CiliumNetworkPolicy"): struct(
        "endpointSelector egress", endpointSelector={**SELECTOR, "minProperties": 0}, egress=items(EGRESS)
    ),
    ("readiness.node.x-k8s.io/v1alpha1", "NodeReadinessRule"): struct(
        "conditions enforcementMode nodeSelector taint",
        conditions=items(CONDITION),
        enforcementMode={"enum": ["bootstrap-only", "continuous"]},
        nodeSelector={**SELECTOR, "minProperties": 1},
        taint=READINESS_TAINT,
        dryRun={"type": "boolean"},
    ),
}

# A merge patch of a NodePool (karpenter.sh/v1).
NODE_POOL_PATCH = struct(
    "spec", spec=struct("template", template=struct("spec", spec=struct("startupTaints", startupTaints=items(TAINT))))
)


def schema_of(document: dict) -> dict | None:
    """What a custom resource must look like, or nothing for one that is not known here."""
    spec = SPECS.get((document["apiVersion"], document["kind"]))
    metadata = struct("name", name=STRING, namespace=STRING, labels=LABELS)
    return spec and struct("apiVersion kind metadata spec", apiVersion=STRING, kind=STRING, metadata=metadata, spec=spec)
