"""Certificates, keys, tokens and kubeconfigs of one cluster, made anew for each run by openssl."""

import json
import pathlib
import subprocess
from collections.abc import Sequence

from commands import run

# Who logs in by which token: name, user and groups as the API server sees them.
USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
}
DAYS = "30"
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


class Pki:
    """A certificate authority in a folder and what it has issued there."""

    def __init__(self, folder: pathlib.Path, server: str) -> None:
        self.folder, self.server = folder, server
        self.users = dict(USERS)
        folder.mkdir()
        self._openssl("req", "-x509", *NEW_KEY, *self._into("ca"), "-days", DAYS, "-subj", "/CN=credlet-test")
        self._openssl("genrsa", "-out", "service-accounts.key", "2048")
        self._openssl("rsa", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub")

    def path(self, file: str) -> pathlib.Path:
        return self.folder / file

    def issue(self, name: str, subject: str, alternatives: Sequence[str] = ()) -> None:
        """`name`.crt and `name`.key for both sides of a connection."""
        request, extensions = f"{name}.csr", f"{name}.ext"
        lines = ["extendedKeyUsage=serverAuth,clientAuth"]
        lines += [f"subjectAltName={','.join(alternatives)}"] if alternatives else []
        self.path(extensions).write_text("\n".join(lines))
        self._openssl("req", *NEW_KEY, "-keyout", f"{name}.key", "-out", request, "-subj", subject)
        authority = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
        self._openssl("x509", "-req", "-in", request, *authority, "-days", DAYS, "-extfile", extensions, "-out", f"{name}.crt")

    def add_node(self, name: str, address: str) -> None:
        """A kubelet's certificate and login."""
        self.issue(name, f"/CN={name}", [f"IP:{address}", f"DNS:{name}"])
        self.users[name] = (f"system:node:{name}", "system:nodes")

    def write_logins(self) -> None:
        """tokens.csv for the API server, and a kubeconfig `NAME.conf` for each user."""
        rows = [f'{name}-token,{user},{name},"{groups}"\n' for name, (user, groups) in self.users.items()]
        self.path("tokens.csv").write_text("".join(rows))
        for name in self.users:
            self.path(f"{name}.conf").write_text(json.dumps(self._kubeconfig(f"{name}-token")))

    def _kubeconfig(self, token: str) -> dict:
        cluster = {"server": self.server, "certificate-authority": str(self.path("ca.crt"))}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
        }

    def _into(self, name: str) -> list[str]:
        return ["-keyout", f"{name}.key", "-out", f"{name}.crt"]

    def _openssl(self, *words: str) -> None:
        run("openssl", *words, cwd=self.folder, stderr=subprocess.DEVNULL)
