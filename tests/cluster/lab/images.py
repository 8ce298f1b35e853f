"""Container images made by hand: an archive as `docker save` writes it, of one layer, without an engine or a registry."""

import dataclasses
import hashlib
import io
import json
import pathlib
import platform
import tarfile

# The first process of each pod's sandbox.
PAUSE = "credlet.test/pause:1"
# Symbolic links into /usr only: with this machine's /usr mounted there, a pod runs this machine's own programs.
MACHINE = "credlet.test/machine:1"

# As images call what the kernel calls otherwise.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
FOLDERS = {"etc": 0o755, "tmp": 0o1777, "proc": 0o755, "sys": 0o755, "dev": 0o755, "run": 0o755, "var": 0o755}
USERS = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"


@dataclasses.dataclass
class Image:
    """An image: what it is called, what it runs, and what is in it, by paths without the first slash."""

    name: str
    command: list[str]
    files: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    links: dict[str, str] = dataclasses.field(default_factory=dict)

    def save(self, archive: pathlib.Path) -> None:
        layer = self._layer()
        digest = hashlib.sha256(layer).hexdigest()
        config = {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": self.command, "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "w") as tar:
            add(tar, "config.json", json.dumps(config).encode())
            add(tar, "layer.tar", layer)
            add(tar, "manifest.json", json.dumps(manifest).encode())

    def _layer(self) -> bytes:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            for folder, mode in FOLDERS.items():
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                tar.addfile(entry)
            add(tar, "etc/passwd", USERS)
            for path, source in self.files.items():
                add(tar, path, source.read_bytes(), mode=0o755)
            for path, target in self.links.items():
                entry = tarfile.TarInfo(path)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                tar.addfile(entry)
        return layer.getvalue()


def add(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
