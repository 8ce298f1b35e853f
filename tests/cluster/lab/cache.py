"""What is made once and found again, in `$CREDLET_CACHE/cluster-<version of Kubernetes>`: binaries, images, Python packages."""

import hashlib
import os
import pathlib
import re
import sys
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent


def kubernetes_version() -> str:
    """The version that kube/go.mod pins, like v1.34.4."""
    return re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (HERE / "kube/go.mod").read_text(), re.MULTILINE)[1]


def cache_folder() -> pathlib.Path:
    """Where credlet's builds are kept."""
    user = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("CREDLET_CACHE") or pathlib.Path(user) / "credlet")


FOLDER = cache_folder() / f"cluster-{kubernetes_version().removeprefix('v')}"
BINARIES = FOLDER / "bin"
IMAGES = FOLDER / "images"
PYTHON = FOLDER / "python"
# credlet's own image, which tests/image/build makes.
CREDLET_IMAGE = cache_folder() / "image/credlet.tar"


def once(target: pathlib.Path, inputs: list[pathlib.Path], make: Callable[[], None]) -> None:
    """Makes `target`, unless it was made from these very inputs before."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    stamp = target.with_name(f".{target.name}.made")
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    print(f"cluster: making {target.name}", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_text(digest)
