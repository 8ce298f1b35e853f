"""One run of a cluster: what is started in which order, what can be stopped meanwhile, and how all of it goes away."""

import pathlib
import shutil
import subprocess
import tempfile

import components
from cache import BINARIES, PYTHON
from commands import succeeds, wait_until
from nodes import Node, stop
from pki import Pki

FOLDER_PREFIX = "credlet-cluster-"


class Cluster:
    """A control plane and `count` nodes, the first of which holds the control plane. A context: leaving it ends everything."""

    def __init__(self, count: int) -> None:
        remove_leftovers()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        first = Node(1, self.logs)
        self.nodes = [first, *(Node(number, self.logs, first) for number in range(2, count + 1))]
        self.first = first
        self.pki: Pki | None = None
        self.api_server: subprocess.Popen | None = None

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException as error:
            self._report()
            self.__exit__(None, None, None)
            raise error
        return self

    def __exit__(self, *_exception) -> None:
        for node in self.nodes:
            node.end()
        for node in self.nodes:
            node.remove_cgroups()
        shutil.rmtree(self.folder)

    def description(self) -> dict:
        """What whoever uses the cluster has to know."""
        nodes = [{"name": node.name, "pid": node.pid, "address": node.address} for node in self.nodes]
        # With a home of their own they leave nothing in the user's.
        home, login = f"HOME={self.folder / 'home'}", f"--kubeconfig={self.pki.path('admin.conf')}"
        admin = {name: ["env", home, str(BINARIES / name), login] for name in ("kubectl", "helm")}
        return {"nodes": nodes, "python": str(PYTHON), **admin}

    def start_api_server(self) -> None:
        self.api_server = components.start_api_server(self.first, self.pki)
        wait_until("the API server", lambda: self._kubectl("get", "--raw=/readyz") == "ok")

    def stop_api_server(self) -> None:
        stop(self.api_server)

    def _start(self) -> None:
        self._make_pki()
        self.first.start()
        components.start_etcd(self.first, self.folder / "etcd")
        self.start_api_server()
        components.start_controllers(self.first, self.pki)
        components.start_scheduler(self.first, self.pki)
        for node in self.nodes:
            self._start_node(node)
        for node in self.nodes:
            self._wait_for(node)
        wait_until("the default service account", lambda: "default" in self._kubectl("get", "serviceaccount", "default"))

    def _make_pki(self) -> None:
        self.pki = Pki(self.folder / "pki", f"https://{self.first.address}:{components.API_PORT}")
        for node in self.nodes:
            self.pki.add_node(node.name, node.address)
        names = ["DNS:localhost", "DNS:kubernetes.default.svc"]
        addresses = ["IP:127.0.0.1", f"IP:{self.first.address}", f"IP:{components.API_SERVICE}"]
        self.pki.issue("apiserver", "/CN=kube-apiserver", names + addresses)
        self.pki.issue("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client")
        self.pki.write_logins()

    def _start_node(self, node: Node) -> None:
        folder = self.folder / node.name
        folder.mkdir()
        if node.first:
            node.start()
        components.start_containerd(node, folder)
        components.start_kubelet(node, self.pki, folder)
        components.start_proxy(node, self.pki, folder)

    def _wait_for(self, node: Node) -> None:
        wait_until(node.name, lambda: " Ready " in self._kubectl("get", "node", node.name, "--no-headers"))
        service = ["curl", "--silent", "--insecure", "--max-time", "1", f"https://{components.API_SERVICE}/readyz"]
        wait_until(f"the way of {node.name} to the API server", lambda: succeeds(*node.enter(*service)))

    def _kubectl(self, *argv: str) -> str:
        command = self.first.enter(*self.description()["kubectl"], *argv)
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def _report(self) -> None:
        """The end of each log, for whoever has to find out why there is no cluster: the files will be gone."""
        for log in sorted(self.logs.iterdir()):
            tail = log.read_text(errors="replace").split("\n")[-15:]
            print(f"--- {log.name}", *tail, sep="\n", flush=True)


def remove_leftovers() -> None:
    """Removes the files of a run that was killed: no other cluster runs now."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        shutil.rmtree(folder)
