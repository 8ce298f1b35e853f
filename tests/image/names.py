"""Names to resolve, and who stands behind them: a DNS server that knows one name, and a listener that hears for whom TLS
connections are meant. All in the network namespace of this process.
"""

import socket
import struct
import threading

# From RFC 5737's blocks for documentation.
BY_HOSTS = ("by-hosts.credlet.test", "192.0.2.1")
BY_DNS = ("by-dns.credlet.test", "192.0.2.2")


def serve_dns(name: str, address: str) -> None:
    """Answers on 127.0.0.1:53 with `address` for `name`, and for anything else that there is no such record (RFC 1035, 4.1)."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + struct.pack(">BHH", 0, 1, 1)
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)

    def serve() -> None:
        while True:
            query, client = server.recvfrom(512)
            # Header, then one question, of which an OPT record may come after.
            asked = query[12 : query.index(b"\0", 12) + 5]
            records = [record] if asked == question else []
            header = query[:2] + struct.pack(">5H", 0x8180, 1, len(records), 0, 0)
            server.sendto(header + asked + b"".join(records), client)

    threading.Thread(target=serve, daemon=True).start()


class TlsListener:
    """Listens on port 443 of all addresses. A client's first message has the name that it wants in the clear (RFC 6066, 3)."""

    def __init__(self) -> None:
        self._server = socket.create_server(("0.0.0.0", 443))
        self._server.settimeout(10)

    def __enter__(self) -> "TlsListener":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def wait_for(self, names: set[str]) -> None:
        """Returns once a client has asked for each of `names`."""
        missing = set(names)
        while missing:
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                raise AssertionError(f"nobody connected for {missing}") from None
            with connection:
                hello = connection.recv(4096)
            missing -= {name for name in missing if name.encode() in hello}
