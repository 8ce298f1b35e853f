"""A container from an unpacked image, confined as the chart confines the agent: an own uid, no capability but NET_BIND_SERVICE,
no new privileges, a read-only root, and the network of its caller, as with `hostNetwork`. The capabilities are set as containerd
sets them for a kubelet: in the bounding, permitted and effective sets, and neither inheritable nor ambient, so that a program of
that uid has them only by its file.
"""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import uuid

UID = 17023
NET_BIND_SERVICE = "CAP_NET_BIND_SERVICE"


@dataclasses.dataclass
class Container:
    """What to run: `files` are mounted over those of the image, by their paths in the container."""

    folder: pathlib.Path
    args: list[str]
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    capabilities: tuple[str, ...] = (NET_BIND_SERVICE,)
    uid: int = UID
    name: str = dataclasses.field(default_factory=lambda: f"credlet-image-{uuid.uuid4().hex[:8]}")

    def run(self) -> subprocess.CompletedProcess:
        """Runs it to its end."""
        self._write()
        return subprocess.run(self._runc("run"), capture_output=True, text=True, timeout=60, check=False)

    @contextlib.contextmanager
    def running(self):
        """Runs it as long as the context lasts; what it says is shown when that fails."""
        self._write()
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(self._runc("run", "--pid-file", self.folder / "pid"), stdout=log, stderr=log)
        try:
            yield
        except BaseException:
            print((self.folder / "log").read_text(), file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(timeout=30)

    def pid(self) -> int:
        """Of its first process, while it runs."""
        return int((self.folder / "pid").read_text())

    def _runc(self, command: str, *options) -> list[str]:
        return ["runc", "--root", self.folder / "state", command, *options, "--bundle", self.folder, self.name]

    def _write(self) -> None:
        (self.folder / "config.json").write_text(json.dumps(self._config()))

    def _config(self) -> dict:
        """https://github.com/opencontainers/runtime-spec/blob/main/config.md"""
        sets = dict.fromkeys(("bounding", "permitted", "effective"), list(self.capabilities))
        mounts = [mount("proc", "/proc"), mount("tmpfs", "/dev"), mount("tmpfs", "/run/credlet", f"uid={self.uid}", "mode=700")]
        mounts += [mount("bind", path, "bind", "ro", source=str(file)) for path, file in self.files.items()]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "args": self.args,
                "cwd": "/",
                "env": [f"{name}={value}" for name, value in self.env.items()],
                "user": {"uid": self.uid, "gid": self.uid},
                "capabilities": sets,
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs", "readonly": True},
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "cgroupsPath": f"/{self.name}",
            },
        }


def mount(kind: str, path: str, *options: str, source: str | None = None) -> dict:
    return {"type": kind, "destination": path, "source": source or kind, "options": ["nosuid", "noexec", *options]}
