"""Relays in front of a server that count what passes: the bytes of TCP, or the requests inside TLS.

Used by `deploy_load.py` and `deploy_bytes.py`; of no use alone.
"""

import socket
import socketserver
import ssl
import threading
from collections import Counter
from pathlib import Path
from typing import BinaryIO


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to a port of this machine and counts them as TCP carries them: TLS, HTTP, polling and all."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, to: int, handler: type["Passing"] | None = None) -> None:
        self.up = self.down = self.connections = 0
        self.to = to
        super().__init__(("127.0.0.1", 0), handler or Passing)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class Passing(socketserver.BaseRequestHandler):
    """One connection."""

    server: Relay

    def handle(self) -> None:
        """Both ways until either side closes."""
        self.server.connections += 1
        with socket.create_connection(("127.0.0.1", self.server.to)) as there:
            back = threading.Thread(target=self._pass, args=(there, self.request, "down"), daemon=True)
            back.start()
            self._pass(self.request, there, "up")
            back.join()

    def _pass(self, source: socket.socket, to: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65536):
                setattr(self.server, way, getattr(self.server, way) + len(data))
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Reading(Relay):
    """Ends TLS with the server's own certificate, and counts what requests and answers consist of, by path."""

    def __init__(self, to: int, folder: Path) -> None:
        self.inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.inward.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.outward = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self.seen: Counter[tuple[str, str]] = Counter()  # (path, what) -> bytes, or how often
        super().__init__(to, Requests)


class Requests(Passing):
    """One connection of HTTP/1.1 within TLS."""

    server: Reading

    def handle(self) -> None:
        """A request, its answer, and so on."""
        try:
            with (
                socket.create_connection(("127.0.0.1", self.server.to)) as plain,
                self.server.outward.wrap_socket(plain, server_hostname="localhost") as there,
                self.server.inward.wrap_socket(self.request, server_side=True) as here,
                here.makefile("rb") as asks,
                there.makefile("rb") as answers,
            ):
                while head := _head(asks):
                    path = head.split(b" ", 2)[1].decode().rsplit("/", 1)[-1]
                    there.sendall(head + self._counted(path, "up", head, asks))
                    found = _head(answers)
                    here.sendall(found + self._counted(path, "down", found, answers))
                    self.server.seen[path, "requests"] += 1
        except OSError:
            pass

    def _counted(self, path: str, way: str, head: bytes, rest: BinaryIO) -> bytes:
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = rest.read(int(lengths[0].split(b":")[1])) if lengths else b""
        self.server.seen[path, f"{way} head"] += len(head)
        self.server.seen[path, f"{way} body"] += len(body)
        return body


def _head(source: BinaryIO) -> bytes:
    """A request or an answer up to its body; nothing at the end."""
    lines = []
    while line := source.readline():
        lines.append(line)
        if line == b"\r\n":
            break
    return b"".join(lines)
