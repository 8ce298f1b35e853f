"""Checks the image that tests/image/build made: what is in it, and that it serves in a container confined as the chart does it.
Root, runc, iproute2. Makes a network namespace for itself, so nothing of this machine's network is touched or needed.
"""

import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest
import urllib.error
import urllib.request
import zlib

import names
from archive import Archive, file_capabilities
from container import UID, Container

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLONE_NEWNET = 0x40000000
# Number 10 of linux/capability.h.
NET_BIND_SERVICE = 1 << 10
MIB = 1 << 20
# What the image may take: a dependency that doubles it should be a decision.
LIMIT_MIB = {"unpacked": 24, "compressed": 10}

ADDRESSES = ["169.254.170.23/32", "fd00:ec2::23/128", f"{names.BY_HOSTS[1]}/32", f"{names.BY_DNS[1]}/32"]
FOLDERS = {"etc", "etc/ssl", "etc/ssl/certs", "licenses"}
LICENSES = {f"licenses/{name}.txt" for name in ("crates", "credlet", "debian")}
FILES = {"credlet", "etc/group", "etc/nsswitch.conf", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", *LICENSES}
LINKS = {"go-runner", "eks-pod-identity-agent"}


def cache_folder() -> pathlib.Path:
    user = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("CREDLET_CACHE") or pathlib.Path(user) / "credlet") / "image"


def setUpModule() -> None:
    global ARCHIVE, FOLDER
    ARCHIVE = Archive(cache_folder() / "credlet.tar")
    unittest.addModuleCleanup(ARCHIVE.close)
    temporary = tempfile.TemporaryDirectory(prefix="credlet-image-")
    unittest.addModuleCleanup(temporary.cleanup)
    FOLDER = pathlib.Path(temporary.name)
    (FOLDER / "rootfs").mkdir()
    ARCHIVE.unpack(FOLDER / "rootfs")
    if ctypes.CDLL(None).unshare(CLONE_NEWNET):
        raise OSError("no network namespace: this needs root")
    for command in ["link set lo up", *(f"addr add {address} dev lo" for address in ADDRESSES)]:
        subprocess.run(["ip", *command.split()], check=True)


class Content(unittest.TestCase):
    """What is in the image."""

    def test_nothing_but_the_binary_and_what_it_reads(self) -> None:
        entries = ARCHIVE.entries()
        self.assertEqual({path for path, entry in entries.items() if entry.isfile()}, FILES)
        self.assertEqual({path for path, entry in entries.items() if entry.issym()}, LINKS)
        self.assertEqual({path for path, entry in entries.items() if entry.isdir()} - {""}, FOLDERS)

    def test_the_incumbents_paths_lead_to_the_binary(self) -> None:
        self.assertEqual({ARCHIVE.entries()[link].linkname for link in LINKS}, {"credlet"})

    def test_the_binary_may_bind_low_ports(self) -> None:
        self.assertEqual(file_capabilities(ARCHIVE.entries()["credlet"]), (NET_BIND_SERVICE, True))

    def test_the_binary_is_anybodys_to_run_and_roots_to_write(self) -> None:
        owners = {(entry.uid, entry.gid) for entry in ARCHIVE.entries().values()}
        # Some builders keep the bits of the file's type.
        mode = ARCHIVE.entries()["credlet"].mode & 0o7777
        self.assertEqual((owners, oct(mode)), ({(0, 0)}, "0o755"))

    def test_the_user_has_an_own_name(self) -> None:
        self.assertIn(f"credlet:x:{UID}:{UID}:", (FOLDER / "rootfs/etc/passwd").read_text())

    def test_the_machines_own_roots_stay_outside(self) -> None:
        roots = (FOLDER / "rootfs/etc/ssl/certs/ca-certificates.crt").read_text()
        self.assertGreater(roots.count("BEGIN CERTIFICATE"), 100)
        for own in pathlib.Path("/usr/local/share/ca-certificates").glob("*.crt"):
            self.assertNotIn(own.read_text().strip(), roots, own)

    def test_one_time_for_everything(self) -> None:
        created = ARCHIVE.config["created"]
        times = {time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.mtime)) for entry in ARCHIVE.entries().values()}
        self.assertEqual(times, {created})
        self.assertEqual({step["created"] for step in ARCHIVE.config["history"]}, {created})

    def test_size(self) -> None:
        unpacked, compressed = (size / MIB for size in ARCHIVE.sizes())
        binary = ARCHIVE.entries()["credlet"].size / MIB
        print(f"image: {unpacked:.1f} MiB, compressed {compressed:.1f} MiB, of it the binary {binary:.1f} MiB", file=sys.stderr)
        self.assertLess(unpacked, LIMIT_MIB["unpacked"])
        self.assertLess(compressed, LIMIT_MIB["compressed"])


class Configuration(unittest.TestCase):
    """What the image tells a runtime."""

    def test_no_user(self) -> None:
        self.assertFalse(ARCHIVE.config["config"].get("User"))

    def test_entrypoint(self) -> None:
        config = ARCHIVE.config["config"]
        self.assertEqual((config["Entrypoint"], config["Cmd"]), (["/credlet"], ["server"]))

    def test_the_binary_is_on_the_path(self) -> None:
        self.assertIn("PATH=/", ARCHIVE.config["config"]["Env"])
        done = Container(FOLDER, ["credlet", "version"], env={"PATH": "/"}).run()
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_labels(self) -> None:
        package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
        labels = {name.removeprefix("org.opencontainers.image."): value for name, value in ARCHIVE.config["config"]["Labels"].items()}
        expected = {"title": package["name"], "description": package["description"], "licenses": package["license"]}
        self.assertEqual({name: labels[name] for name in expected}, expected)
        self.assertEqual(labels["version"], package["version"])
        self.assertRegex(labels["revision"], "^[0-9a-f]{12}$")


class BillOfMaterials(unittest.TestCase):
    """What was made beside the image."""

    def test_crates_and_what_comes_from_debian(self) -> None:
        bill = json.loads((cache_folder() / "credlet.cdx.json").read_text())
        self.assertEqual((bill["bomFormat"], bill["metadata"]["component"]["name"]), ("CycloneDX", "credlet"))
        found = {(part["name"], part["version"]) for part in bill["components"] if part["purl"].startswith("pkg:cargo/")}
        locked = {(crate["name"], crate["version"]) for crate in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
        self.assertLessEqual(found, locked)
        names_found = {part["name"] for part in bill["components"]}
        self.assertLessEqual({"hyper", "aws-lc-sys", "tikv-jemalloc-sys", "libc6-dev", "ca-certificates"}, names_found)
        self.assertFalse({"criterion", "proptest"} & names_found, "crates of tests")


    def test_the_binary_bears_the_list_of_its_crates(self) -> None:
        section, binary = FOLDER / "crates", FOLDER / "rootfs/credlet"
        subprocess.run(["objcopy", "--dump-section", f".dep-v0={section}", binary, FOLDER / "copy"], check=True)
        packages = json.loads(zlib.decompress(section.read_bytes()))["packages"]
        found = {(part["name"], part["version"]) for part in packages if part.get("kind", "runtime") == "runtime"}
        locked = {(crate["name"], crate["version"]) for crate in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
        self.assertLessEqual(found, locked)
        names_found = {name for name, _ in found}
        self.assertLessEqual({"credlet", "hyper", "aws-lc-sys", "tikv-jemalloc-sys"}, names_found)
        self.assertFalse({"criterion", "proptest"} & names_found, "crates of tests")

    def test_licenses(self) -> None:
        crates = (FOLDER / "rootfs/licenses/crates.txt").read_text()
        for crate in ("hyper", "aws-lc-sys", "tikv-jemalloc-sys", "rustls"):
            self.assertRegex(crates, rf"==> {crate}-\d\S*/\S+ <==")
        self.assertIn("GNU LESSER GENERAL PUBLIC LICENSE", (FOLDER / "rootfs/licenses/debian.txt").read_text())


class Running(unittest.TestCase):
    """The binary, confined."""

    def test_version_by_each_path(self) -> None:
        revision = ARCHIVE.config["config"]["Labels"]["org.opencontainers.image.revision"]
        for command in (["/credlet"], ["/eks-pod-identity-agent"], ["/go-runner", "/eks-pod-identity-agent"]):
            done = Container(FOLDER, [*command, "version"]).run()
            self.assertEqual((done.returncode, done.stderr), (0, ""), command)
            self.assertRegex(done.stdout, rf"^credlet \S+ \(commit {revision}, features: none\)$", command)

    def test_no_simulated_cloud(self) -> None:
        done = Container(FOLDER, ["/credlet", "dev"]).run()
        self.assertEqual(done.returncode, 64, done)
        self.assertIn("unrecognized subcommand 'dev'", done.stderr)

    def test_without_the_capability_in_its_bounds_it_can_not_be_executed(self) -> None:
        done = Container(FOLDER, ["/credlet", "version"], capabilities=()).run()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("operation not permitted", done.stderr)

    def test_credentials_of_hybrid_nodes_are_looked_for_where_the_incumbents_pods_have_them(self) -> None:
        command = ["/eks-pod-identity-agent", "check", "--cluster-name=test", "--rotate-credentials"]
        done = Container(FOLDER, command, env={"AWS_REGION": "eu-west-1"}, uid=0).run()
        self.assertIn("/root/.aws/credentials can't be read", done.stdout)

    def test_serves_on_port_80_and_finds_names(self) -> None:
        names.serve_dns(*names.BY_DNS)
        container = server()
        with names.TlsListener() as listener, container.running():
            self.assertEqual(answer("http://127.0.0.1:2703/healthz"), 200)
            for host in ("169.254.170.23", "[fd00:ec2::23]"):
                self.assertEqual(answer(f"http://{host}/v1/credentials"), 400, "a request without a token")
            self.assertEqual(rights(container.pid()), RIGHTS)
            listener.wait_for({names.BY_HOSTS[0], names.BY_DNS[0]})


# Of /proc/PID/status, as text.
RIGHTS = {
    "Uid": f"{UID}\t" * 3 + f"{UID}",
    "Gid": f"{UID}\t" * 3 + f"{UID}",
    "CapInh": f"{0:016x}",
    "CapPrm": f"{NET_BIND_SERVICE:016x}",
    "CapEff": f"{NET_BIND_SERVICE:016x}",
    "CapBnd": f"{NET_BIND_SERVICE:016x}",
    "CapAmb": f"{0:016x}",
    "NoNewPrivs": "1",
}


def server() -> Container:
    """The image's own command, with two issuers whose keys are behind names."""
    (FOLDER / "hosts").write_text(f"127.0.0.1 localhost\n{names.BY_HOSTS[1]} {names.BY_HOSTS[0]}\n")
    (FOLDER / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    config = ARCHIVE.config["config"]
    issuers = [f"--issuer=https://{name}=https://{name}/keys" for name, _ in (names.BY_HOSTS, names.BY_DNS)]
    return Container(
        FOLDER,
        [*config["Entrypoint"], *config["Cmd"], "--cluster-name=test", *issuers],
        env={"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"},
        files={"/etc/hosts": FOLDER / "hosts", "/etc/resolv.conf": FOLDER / "resolv.conf"},
    )


def answer(url: str) -> int:
    """The status of an answer, once somebody listens there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def rights(pid: int) -> dict[str, str]:
    fields = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return {name: fields[name] for name in RIGHTS}


if __name__ == "__main__":
    unittest.main(verbosity=2)
