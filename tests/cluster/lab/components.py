"""The programs of a cluster and how each is told what it has to know."""

import json
import pathlib
import string
import subprocess

import images
from cache import BINARIES, CREDLET_IMAGE, HERE, IMAGES
from commands import succeeds, wait_until
from nodes import SERVICE_SUBNET, Node
from pki import Pki

ISSUER = "https://oidc.example/id/TEST"
# The API server's own port, and its address among those of services.
API_PORT = 6443
API_SERVICE = "10.96.0.1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def program(name: str, **flags: str) -> list[str]:
    """A command line; `_` in a flag's name stands for `-`."""
    return [str(BINARIES / name), *(f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items())]


def start_etcd(node: Node, data: pathlib.Path) -> subprocess.Popen:
    url, peers = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    argv = program("etcd", data_dir=data, listen_client_urls=url, advertise_client_urls=url, listen_peer_urls=peers)
    return node.spawn("etcd", *argv, "--unsafe-no-fsync")


def start_api_server(node: Node, pki: Pki) -> subprocess.Popen:
    argv = program(
        "kube-apiserver",
        etcd_servers="http://127.0.0.1:2379",
        secure_port=API_PORT,
        bind_address="0.0.0.0",
        advertise_address=node.address,
        tls_cert_file=pki.path("apiserver.crt"),
        tls_private_key_file=pki.path("apiserver.key"),
        client_ca_file=pki.path("ca.crt"),
        kubelet_client_certificate=pki.path("kubelet-client.crt"),
        kubelet_client_key=pki.path("kubelet-client.key"),
        kubelet_certificate_authority=pki.path("ca.crt"),
        kubelet_preferred_address_types="InternalIP",
        service_account_issuer=ISSUER,
        service_account_jwks_uri=f"{pki.server}/openid/v1/jwks",
        service_account_key_file=pki.path("service-accounts.pub"),
        service_account_signing_key_file=pki.path("service-accounts.key"),
        token_auth_file=pki.path("tokens.csv"),
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged="true",
        service_cluster_ip_range=SERVICE_SUBNET,
        feature_gates="MutatingAdmissionPolicy=true",
        runtime_config="admissionregistration.k8s.io/v1beta1=true",
    )
    return node.spawn("kube-apiserver", *argv)


def start_controllers(node: Node, pki: Pki) -> subprocess.Popen:
    argv = program(
        "kube-controller-manager",
        kubeconfig=pki.path("controllers.conf"),
        service_account_private_key_file=pki.path("service-accounts.key"),
        root_ca_file=pki.path("ca.crt"),
        use_service_account_credentials="true",
        leader_elect="false",
        bind_address="127.0.0.1",
    )
    return node.spawn("kube-controller-manager", *argv)


def start_scheduler(node: Node, pki: Pki) -> subprocess.Popen:
    flags = {"kubeconfig": pki.path("scheduler.conf"), "leader_elect": "false", "bind_address": "127.0.0.1"}
    return node.spawn("kube-scheduler", *program("kube-scheduler", **flags))


def start_proxy(node: Node, pki: Pki, folder: pathlib.Path) -> subprocess.Popen:
    """Makes the API server's service address work, at which pods are told to find it."""
    # The machine's own limits of connections stay as they are.
    conntrack = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": str(pki.path("proxy.conf"))},
        "conntrack": conntrack,
    }
    return node.spawn(f"kube-proxy-{node.number}", *program("kube-proxy", config=written(folder / "proxy.json", config)))


def start_containerd(node: Node, folder: pathlib.Path) -> subprocess.Popen:
    """Containers of one node and their network, with every image of the cache."""
    cni = folder / "cni"
    cni.mkdir()
    written(cni / "10-bridge.conflist", network(node))
    template = string.Template((HERE / "containerd.toml").read_text())
    config = folder / "containerd.toml"
    config.write_text(template.substitute(root=folder / "containerd", socket=CONTAINERD_SOCKET, pause=images.PAUSE, cni=cni))
    daemon = node.spawn(f"containerd-{node.number}", "containerd", "--config", config)
    client = ["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]
    wait_until(f"containerd of {node.name}", lambda: succeeds(*node.enter(*client, "version")))
    for archive in [*sorted(IMAGES.glob("*.tar")), CREDLET_IMAGE]:
        node.run(*client, "image", "import", archive, stdout=subprocess.DEVNULL)
    return daemon


def network(node: Node) -> dict:
    """Pods at a bridge, each with an address of both families, and routed: no address is translated."""
    ranges = [[{"subnet": subnet}] for subnet in node.pod_subnets]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    addresses = {"type": "host-local", "ranges": ranges, "routes": routes}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "test", "plugins": [bridge]}


def start_kubelet(node: Node, pki: Pki, folder: pathlib.Path) -> subprocess.Popen:
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.path("ca.crt"))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki.path(f"{node.name}.crt")),
        "tlsPrivateKeyFile": str(pki.path(f"{node.name}.key")),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        # Both need rights that a machine may keep to itself.
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        "resolvConf": "",
        # This machine's disk may be fuller than a kubelet likes.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        # A container that ends is started again after a second, however often: what an agent makes of it shows in a minute.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        # So soon a changed ConfigMap is in the pods that mount it.
        "syncFrequency": "2s",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
    }
    argv = program(
        "kubelet",
        config=written(folder / "kubelet.json", config),
        kubeconfig=pki.path(f"{node.name}.conf"),
        root_dir="/var/lib/kubelet",
        hostname_override=node.name,
        node_ip=node.address,
    )
    return node.spawn(f"kubelet-{node.number}", *argv)


def written(path: pathlib.Path, document: dict) -> pathlib.Path:
    path.write_text(json.dumps(document, indent=2))
    return path
