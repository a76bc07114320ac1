"""Real processes of a deployment on loopback, ended whatever happens."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.processes import FEDQ, until


def free_ports(n: int) -> int:
    """The first of `n` neighbouring ports that nobody listens on."""
    for first in range(20_000 + os.getpid() % 5_000 * 4, 60_000, n):
        sockets = [socket.socket() for _ in range(n)]
        try:
            for k, s in enumerate(sockets):
                s.bind(("127.0.0.1", first + k))
        except OSError:
            continue
        else:
            return first
        finally:
            for s in sockets:
                s.close()
    raise AssertionError("no free ports")


class Cluster:
    """A deployment of `clients` sites in a folder, and the processes that were started from it.

    `spaces` are network namespaces: the server's and each site's.
    """

    def __init__(self, folder: Path, clients: int, host: str = "localhost", spaces: Sequence[str] = ()) -> None:
        self.folder, self.clients, self.host, self.spaces = folder, clients, host, spaces
        self.port = free_ports(clients + 1)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        flags = ["--host", host, "--clients", clients, "--port", self.port, "--runtime-port", self.port + 1]
        self.fedq("deploy", "init", *flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in list(self.processes):
            self.kill(name)
        for process in self.left():  # what Flower started, and left
            os.kill(process, signal.SIGKILL)
        if kind is not None:
            for log in self.folder.glob("*.log"):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")

    def fedq(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder."""
        line = [*self._inside("server"), *FEDQ, *map(str, words)]
        done = subprocess.run(line, cwd=self.folder, capture_output=True, text=True, timeout=1400)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done

    def start(self, name: str, *words: object) -> "subprocess.Popen[bytes]":
        """Start a command in the background."""
        line = [*self._inside(name), *FEDQ, *map(str, words)]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(line, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        self.processes[name] = process
        return process

    def start_server(self) -> None:
        self.start("server", "deploy", "server", "--bind", "0.0.0.0" if self.spaces else "127.0.0.1")
        connect = f"import socket; socket.create_connection(({self.host!r}, {self.port}), 2)"
        line = [*self._inside("server"), sys.executable, "-c", connect]
        until(lambda: subprocess.run(line, capture_output=True).returncode == 0, self.processes["server"])

    def start_site(self, k: int, *words: object) -> None:
        self.start(f"site-{k}", "deploy", "client", "--dir", f"deploy/site-{k}", *words)

    def stop_site(self, k: int) -> None:
        self.fedq("deploy", "stop", "--dir", f"deploy/site-{k}")
        self.processes.pop(f"site-{k}").wait(30)

    def start_all(self, *sites: int) -> None:
        self.start_server()
        self.fedq("deploy", "register")
        for k in sites or range(self.clients):
            self.start_site(k)

    def _inside(self, name: str) -> list[str]:
        if not self.spaces:
            return []
        place = 1 + int(name.removeprefix("site-")) if name.startswith("site-") else 0
        return ["ip", "netns", "exec", self.spaces[place]]

    def kill(self, name: str) -> None:
        """kill -9; what it started finds that out by itself."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def left(self) -> list[int]:
        """Processes whose command line or environment names this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                except OSError:
                    continue
                if str(self.folder).encode() in text:
                    found.append(int(entry.name))
        return found
