"""Everything that a cluster needs and that this machine may lack: Debian packages, Kubernetes, etcd and Helm from their Go modules,
the first process of a pod, images, and the Python packages that tests use. Twelve minutes on two cores, then seconds.
"""

import os
import re
import subprocess

import images
from cache import BINARIES, HERE, IMAGES, PYTHON, kubernetes_version, once
from commands import run

NODE_PACKAGES = "containerd runc containernetworking-plugins conntrack iptables iproute2 openssl curl".split()
PACKAGES = [*NODE_PACKAGES, "gcc", "libc6-dev", "python3-venv"]
PROGRAMS = "kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl".split()

# boto3 is the one that tests/sdk drives.
REQUIREMENTS = [HERE / "requirements.txt", HERE.parents[1] / "sdk/clients/python/requirements.txt"]


def build() -> None:
    install_packages()
    build_kubernetes()
    build_etcd()
    build_helm()
    build_pause()
    pack_images()
    build_credlet()
    install_python_packages()


def install_packages() -> None:
    status = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *PACKAGES]
    found = subprocess.run(status, capture_output=True, text=True, check=False).stdout.split("\n")
    missing = [package for package in PACKAGES if f"{package} installed" not in found]
    if missing:
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
        run("apt-get", "update", "-qq", **quiet)
        run("apt-get", "install", "-qqy", "--no-install-recommends", *missing, **quiet)


def build_kubernetes() -> None:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    go_build("kube", {f"k8s.io/component-base/version.{name}": value for name, value in variables.items()})
    for program in PROGRAMS:
        link = BINARIES / program
        if not link.is_symlink():
            link.symlink_to("kube")


def build_etcd() -> None:
    go_build("etcd")


def build_helm() -> None:
    """Helm, which takes the version of Kubernetes that `helm template` and `helm lint` reckon with from its build."""
    required = (HERE / "helm/go.mod").read_text()
    version = re.search(r"^\s*helm\.sh/helm/v3 (v\S+)", required, re.MULTILINE)[1]
    minor = re.search(r"^\s*k8s\.io/client-go v0\.(\d+)", required, re.MULTILINE)[1]
    kubernetes = {
        f"helm.sh/helm/v3/pkg/{package}.k8sVersion{part}": value
        for package in ("chartutil", "lint/rules")
        for part, value in (("Major", "1"), ("Minor", minor))
    }
    go_build("helm", {"helm.sh/helm/v3/internal/version.version": version, **kubernetes}, package="helm.sh/helm/v3/cmd/helm")


def go_build(module: str, variables: dict[str, str] | None = None, package: str = ".") -> None:
    """A static binary of a package of the Go module in the folder of that name, with values for variables of its packages."""
    source, target = HERE / module, BINARIES / module
    stamps = [f"-X {name}={value}" for name, value in (variables or {}).items()]
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s", "-w", *stamps]), "-o", target]
    inputs = [path for path in (source / file for file in ("main.go", "go.mod", "go.sum")) if path.exists()]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    once(target, inputs, lambda: run("go", "build", *flags, package, cwd=source, env=environment))


def build_pause() -> None:
    source, target = HERE / "pause.c", BINARIES / "pause"
    once(target, [source], lambda: run("gcc", "-static", "-O2", "-Wall", "-o", target, source))


def pack_images() -> None:
    pause, source = BINARIES / "pause", HERE / "images.py"
    image = images.Image(images.PAUSE, ["/pause"], files={"pause": pause})
    once(IMAGES / "pause.tar", [source, pause], lambda: image.save(IMAGES / "pause.tar"))
    links = {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}
    machine = images.Image(images.MACHINE, ["/bin/sh"], links=links)
    once(IMAGES / "machine.tar", [source], lambda: machine.save(IMAGES / "machine.tar"))


def build_credlet() -> None:
    """credlet's own image, as it is now."""
    run(HERE.parents[1] / "image/build")


def install_python_packages() -> None:
    def install() -> None:
        # Debian's Python, which a pod finds under its /usr.
        run("/usr/bin/python3", "-m", "venv", "--clear", PYTHON)
        pip = [PYTHON / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run(*pip, *(word for path in REQUIREMENTS for word in ("-r", path)))

    once(PYTHON, REQUIREMENTS, install)
