"""The archive of an image, as `docker save` writes it: its configuration, and what is in its layers."""

import gzip
import json
import pathlib
import struct
import subprocess
import tarfile

# How a layer's entry bears a file capability (`tar --xattrs`), and the kernel's struct of one (linux/capability.h, revision 2).
CAPABILITY = "SCHILY.xattr.security.capability"
REVISION_2, EFFECTIVE = 0x02000000, 1


class Archive:
    """An image in a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._tar = tarfile.open(path)
        (self.manifest,) = json.load(self._tar.extractfile("manifest.json"))
        self.config = json.load(self._tar.extractfile(self.manifest["Config"]))

    def close(self) -> None:
        self._tar.close()

    def entries(self) -> dict[str, tarfile.TarInfo]:
        """Everything in the image, by its path in it."""
        entries = {}
        for layer in self.manifest["Layers"]:
            with tarfile.open(fileobj=self._tar.extractfile(layer)) as tar:
                entries.update({entry.name.strip("/"): entry for entry in tar})
        return entries

    def sizes(self) -> tuple[int, int]:
        """Bytes of all layers: as they are, and compressed as a registry keeps them."""
        layers = [self._tar.extractfile(layer).read() for layer in self.manifest["Layers"]]
        return sum(map(len, layers)), sum(len(gzip.compress(layer)) for layer in layers)

    def unpack(self, folder: pathlib.Path) -> None:
        """The root filesystem, file capabilities included."""
        for layer in self.manifest["Layers"]:
            tar = ["tar", "--extract", "--xattrs", "--xattrs-include=security.capability", "--directory", folder]
            subprocess.run(tar, input=self._tar.extractfile(layer).read(), check=True)


def file_capabilities(entry: tarfile.TarInfo) -> tuple[int, bool]:
    """The permitted capabilities of a file as bits, and whether they are effective at once."""
    # The header is text, which tarfile keeps losslessly.
    packed = entry.pax_headers.get(CAPABILITY, "").encode("utf-8", "surrogateescape")
    magic, low, _, high, _ = struct.unpack("<5I", packed)
    assert magic & ~EFFECTIVE == REVISION_2, hex(magic)
    return high << 32 | low, bool(magic & EFFECTIVE)
