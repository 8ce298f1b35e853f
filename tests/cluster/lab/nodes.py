"""A node: mounts and a network of its own on this machine, with addresses that documentation reserves (RFC 5737, RFC 3849).

All nodes share the first one's process namespace: when its first process ends, so does everything, however a run ends. That
process is killed with this one.
"""

import dataclasses
import os
import pathlib
import signal
import subprocess

from cache import BINARIES
from commands import run, wait_until

# What a kubelet sets for the whole machine: each node gets files of its own in their place.
SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
# What a node must not share with this machine.
PRIVATE_FOLDERS = ["/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni"]
SERVICE_SUBNET = "10.96.0.0/16"
CGROUPS = pathlib.Path("/sys/fs/cgroup")


@dataclasses.dataclass
class Node:
    """A node of the cluster. `number` counts from 1."""

    number: int
    logs: pathlib.Path
    first: "Node | None" = None
    pid: int = 0
    holder: subprocess.Popen | None = None

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        return f"198.51.100.{9 + self.number}"

    @property
    def pod_subnets(self) -> list[str]:
        return [{1: "192.0.2.0/24", 2: "203.0.113.0/24"}[self.number], f"2001:db8:{self.number}::/64"]

    @property
    def cgroup(self) -> str:
        return f"credlet-{self.name}"

    def start(self) -> None:
        self._make_namespaces()
        self._make_mounts()
        self._make_network()
        self._make_cgroups()

    def enter(self, *argv) -> list[str]:
        """A command line that runs `argv` on this node."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--", *map(str, argv)]

    def run(self, *argv, **options) -> None:
        run(*self.enter(*argv), **options)

    def spawn(self, name: str, *argv) -> subprocess.Popen:
        """Starts a daemon on this node, with its log in a file."""
        return self._spawn(name, self.enter(*argv))

    def end(self) -> None:
        """Ends every process of the first node's process namespace, and returns when they are gone. Other nodes end with it."""
        if not self.holder:
            return
        if not self.first:
            # Without its child the holder ends by itself, and reaps it.
            os.kill(self.pid or self.holder.pid, signal.SIGKILL)
        self.holder.wait()

    def remove_cgroups(self) -> None:
        # Not only where it was made: runc makes it in a hierarchy without controllers as well.
        for cgroup in [CGROUPS / self.cgroup, *CGROUPS.glob(f"*/{self.cgroup}")]:
            remove_cgroup(cgroup)

    def _make_namespaces(self) -> None:
        pause, own = str(BINARIES / "pause"), ["unshare", "--mount", "--net", "--propagation=private"]
        if self.first:
            argv = [*self.first.enter(*own), pause]
        else:
            argv = ["setpriv", "--pdeathsig=KILL", "--", *own, "--pid", "--fork", "--kill-child", "--mount-proc", pause]
        self.holder = self._spawn(self.name, argv)
        wait_until(f"the namespaces of {self.name}", lambda: self._find(pause), 10)

    def _spawn(self, name: str, argv: list[str]) -> subprocess.Popen:
        """Starts a process in a session of its own, so that it can be ended with its children."""
        with open(self.logs / f"{name}.log", "ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            return subprocess.Popen(argv, start_new_session=True, **streams)

    def _find(self, executable: str) -> bool:
        """Sets `pid` to the holder's descendant that runs `executable`, as this machine numbers it."""
        pid = self.holder.pid
        try:
            while os.readlink(f"/proc/{pid}/exe") != executable:
                pid = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (OSError, IndexError):
            return False
        self.pid = pid
        return True

    def _make_mounts(self) -> None:
        lines = ["mount --make-rshared /"]
        lines += [f"mkdir -p {folder}; mount -t tmpfs tmpfs {folder}" for folder in PRIVATE_FOLDERS]
        lines += ["mkdir -p /run/netns /run/sysctl /var/log/pods"]
        for name, value in SYSCTLS.items():
            file = f"/run/sysctl/{name.replace('/', '_')}"
            lines += [f"[ ! -e /proc/sys/{name} ] || {{ echo {value} > {file}; mount --bind {file} /proc/sys/{name}; }}"]
        self._shell(lines)

    def _make_network(self) -> None:
        self._shell(
            [
                "ip link set lo up",
                "echo 1 > /proc/sys/net/ipv4/ip_forward",
                "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
                # Not every kernel has dummy links.
                f"ip link add node0 type ifb; ip address add {self.address}/32 dev node0; ip link set node0 up",
                # Only what has a route comes to where kube-proxy turns it to the API server.
                f"ip route add {SERVICE_SUBNET} dev node0",
            ]
        )
        if self.first:
            self._join(self.first)

    def _join(self, first: "Node") -> None:
        """A link to the first node, which routes what is for this one's address and pods."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text().split("\n")
        pid = next(line.split()[-1] for line in status if line.startswith("NSpid"))
        subnet, subnet6 = self.pod_subnets
        first._shell(
            [
                f"ip link add peer type veth peer name peer netns {pid}",
                "ip address add 198.51.100.1/30 dev peer; ip address add 2001:db8::1/126 dev peer nodad; ip link set peer up",
            ]
        )
        self._shell(
            [
                "ip address add 198.51.100.2/30 dev peer; ip address add 2001:db8::2/126 dev peer nodad; ip link set peer up",
                "ip route add default via 198.51.100.1; ip route add default via 2001:db8::1",
            ]
        )
        first._shell(
            [
                f"ip route add {self.address}/32 via 198.51.100.2; ip route add {subnet} via 198.51.100.2",
                f"ip route add {subnet6} via 2001:db8::2",
            ]
        )

    def _make_cgroups(self) -> None:
        # Those of a run that was killed.
        self.remove_cgroups()
        for hierarchy in hierarchies():
            own = hierarchy / self.cgroup
            own.mkdir()
            # In version 1 a new cgroup may use no processor until it is told which.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (own / file).exists() and (hierarchy / file).exists():
                    (own / file).write_text((hierarchy / file).read_text())

    def _shell(self, lines: list[str]) -> None:
        self.run("sh", "-ec", "\n".join(lines))


def stop(daemon: subprocess.Popen) -> None:
    """Kills a daemon that a node spawned, and returns when it is gone."""
    os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()


def hierarchies() -> list[pathlib.Path]:
    """The roots of all cgroup hierarchies: one for each controller in version 1; one in version 2, which is untried."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "tasks").exists() and not path.is_symlink()]


def remove_cgroup(cgroup: pathlib.Path) -> None:
    """Removes a cgroup and those in it. One whose last process has just ended may be busy for a moment."""
    rmdir = ["find", str(cgroup), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]

    def is_gone() -> bool:
        subprocess.run(rmdir, capture_output=True, check=False)
        return not cgroup.exists()

    wait_until(f"no {cgroup}", is_gone, 10)
