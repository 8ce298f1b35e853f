"""A real Kubernetes cluster of one or two nodes in namespaces of this machine: etcd, API server, controllers, scheduler,
kubelets, containerd, runc and a bridge network, without an engine or an image registry. Root, Debian, Go, Python; 10 s to start.

    python3 tests/cluster/lab build             makes what a cluster needs (12 min) in $CREDLET_CACHE
    python3 tests/cluster/lab up [--nodes 2]    the same, then a cluster until standard input ends
    python3 tests/cluster/lab kubectl ARGS…     as its admin, from another terminal
    python3 tests/cluster/lab helm ARGS…        the same
    python3 tests/cluster/lab node N ARGS…      a command in the namespaces of node N

`up` describes the cluster in a line of JSON. On its standard input a line "stop api-server" or "start api-server" does so, and is
answered by a line "done". When the input ends, or this process does in any way, everything ends: processes, namespaces, cgroups
and, at the next run at the latest, files.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import signal
import sys

from build import build
from cluster import Cluster

# Locked while a cluster runs, which it describes: the nodes' addresses and cgroups are this machine's.
RUNNING = pathlib.Path("/run/lock/credlet-cluster")


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    commands.add_parser("up").add_argument("--nodes", type=int, choices=(1, 2), default=1)
    # Others take their own arguments, which argparse would take for its.
    command, *words = sys.argv[1:] or ["--help"]
    if command == "node" and words:
        enter(int(words[0]) - 1, words[1:])
    if command in ("kubectl", "helm"):
        # To enter a node's mounts is to leave the folder.
        enter(0, ["env", f"--chdir={os.getcwd()}", *running()[command], *words])
    arguments = parser.parse_args()
    if arguments.command == "build":
        build()
    else:
        up(arguments.nodes)


def up(nodes: int) -> None:
    # The same as the end of the input: the cluster is left as a context is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    build()
    with contextlib.suppress(KeyboardInterrupt), RUNNING.open("a+") as lock, the_only_one(lock), Cluster(nodes) as cluster:
        description = json.dumps(cluster.description())
        print(description, file=lock, flush=True)
        say(description)
        for line in sys.stdin:
            obey(cluster, line.strip())


@contextlib.contextmanager
def the_only_one(lock):
    """Waits until no other cluster runs on this machine."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("cluster: another one runs on this machine: waiting for its end", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    lock.truncate(0)
    yield
    lock.truncate(0)


def obey(cluster: Cluster, line: str) -> None:
    orders = {"stop api-server": cluster.stop_api_server, "start api-server": cluster.start_api_server}
    if line not in orders:
        sys.exit(f"no such order: {line}")
    orders[line]()
    say("done")


def say(line: str) -> None:
    print(line, flush=True)


def running() -> dict:
    try:
        return json.loads(RUNNING.read_text())
    except (OSError, ValueError):
        sys.exit("no cluster runs on this machine")


def enter(index: int, argv: list[str]) -> None:
    pid = running()["nodes"][index]["pid"]
    command = ["nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--", *argv]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
