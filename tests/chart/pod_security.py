"""The Pod Security Standards' profile "restricted", which has "baseline" in it, for what pods of this project can have:
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

# Volumes of `restricted`; hostPath is already against `baseline`.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def findings(spec: dict) -> set[str]:
    """What `restricted` forbids in a pod's spec, as "where: control"."""
    found = {f"pod: {field}" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)}
    found |= {f"pod: {field}" for field in ("sysctls", "windowsOptions") if spec.get("securityContext", {}).get(field)}
    for volume in spec.get("volumes", []):
        found |= {f"volume {volume['name']}: {kind}" for kind in volume if kind != "name" and kind not in VOLUMES}
    for container in spec.get("initContainers", []) + spec["containers"]:
        found |= {f"{container['name']}: {finding}" for finding in of_container(container, spec.get("securityContext", {}))}
    return found


def of_container(container: dict, pod: dict) -> set[str]:
    context = {**pod, **container.get("securityContext", {})}
    capabilities = context.get("capabilities", {})
    selinux = context.get("seLinuxOptions", {})
    probes = [container.get(name, {}) for name in ("livenessProbe", "readinessProbe", "startupProbe")]
    probes += container.get("lifecycle", {}).values()
    controls = {
        "privileged": context.get("privileged", False),
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is not False,
        "capabilities not dropped": "ALL" not in capabilities.get("drop", []),
        "runAsNonRoot": context.get("runAsNonRoot") is not True,
        "runAsUser 0": context.get("runAsUser") == 0,
        "seccompProfile": context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
        "AppArmor": context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined",
        "procMount": context.get("procMount", "Default") != "Default",
        "host port": any(port.get("hostPort") for port in container.get("ports", [])),
        f"SELinux type {selinux.get('type')}": selinux.get("type") not in SELINUX_TYPES,
        "SELinux user or role": bool(selinux.get("user") or selinux.get("role")),
        # Since 1.34: such a host may lead the kubelet anywhere.
        "probe host": any(probe.get(way, {}).get("host") for probe in probes for way in ("httpGet", "tcpSocket")),
    }
    added = {f"capability {name}" for name in capabilities.get("add", []) if name != "NET_BIND_SERVICE"}
    return {control for control, violated in controls.items() if violated} | added
