"""Adds what a static binary and its image take from Debian to a bill of materials of crates (CycloneDX, JSON).

python3 tests/image/materials.py BILL FOLDER    FOLDER: the packages' database of the image that it was built in
"""

import json
import pathlib
import subprocess
import sys
import urllib.parse

# The libraries that are linked in, and the roots that are copied.
PACKAGES = ["libc6-dev", "libgcc-12-dev", "ca-certificates"]


def main(bill: pathlib.Path, database: pathlib.Path) -> None:
    document = json.loads(bill.read_text())
    document["components"] += components(database)
    bill.write_text(json.dumps(document, indent=2))


def components(database: pathlib.Path) -> list[dict]:
    query = ["dpkg-query", "--admindir", database, "--show", "--showformat", "${Package} ${Version} ${Architecture}\n", *PACKAGES]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return [component(*line.split()) for line in lines]


def component(name: str, version: str, architecture: str) -> dict:
    purl = f"pkg:deb/debian/{name}@{urllib.parse.quote(version)}?arch={architecture}&distro=debian-12"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
