"""Sites as the server knows them: registering, who is online, and stopping what was started."""

import errno
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from fedq._flower import registered
from fedq.deploy import lines
from fedq.deploy.layout import Deployment, Site
from fedq.errors import FedqError

HEARTBEATS = 70.0  # seconds after which a SuperNode without a heartbeat counts as offline: Flower's 60, and some
ENDING = 20.0  # seconds that a process is given to end
ORPHANED = 5.0  # ... and what it started, once it is gone


def register_all(of: Deployment) -> Iterator[tuple[str, list[str]]]:
    """Register every site whose key the server does not know; yields each site, and the line or nothing."""
    known = _known(of)
    online = {node["node-id"] for node in lines.asked(lines.nodes(), of).get("nodes", [])}
    for site in of.sites:
        if known.get(site) in online:
            yield site, []
            continue
        line = lines.register(of, site)
        known[site] = str(lines.asked(line, of)["node-id"])
        (of.folder / "nodes.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        yield site, line


def overview(of: Deployment) -> dict[str, list[dict[str, Any]]]:
    """Sites and runs, as the server has them."""
    found = {node["node-id"]: node for node in lines.asked(lines.nodes(), of).get("nodes", [])}
    known = _known(of)
    sites = [{"site": site, **_seen(found.get(known.get(site, "")))} for site in of.sites]
    runs = [
        {
            "flower_run_id": str(run["run-id"]),
            "status": str(run["status"]),
            "wire_up_bytes": run["network-traffic"]["inbound-bytes"],
            "wire_down_bytes": run["network-traffic"]["outbound-bytes"],
        }
        for run in lines.asked(lines.runs(), of).get("runs", [])
    ]
    return {"sites": sites, "runs": runs}


def free_to_start(of: Site, say: Callable[[str], None], seconds: float = HEARTBEATS) -> None:
    """Wait until the server takes the site's client: one that was killed counts as online until its heartbeats end.

    FedqError FQ207 if the server does not know the site's key, shows a certificate that is refused, or another client
    of the site stays online. Where it does not answer nothing is waited for: Flower's client tries until it does.
    """
    ca, key = (of.folder / "ca.crt").read_bytes(), public_pem(of.folder / "key.pub")
    end, told = monotonic() + seconds, False
    while True:
        try:
            status = registered(of.address, ca).get(key, "not registered")
        except Exception as error:
            away = lines.unheard(of, of.address)
            if away.code == "FQ208":
                return
            raise away from error  # Flower's client would try for ever, and not say why
        if status in ("not registered", "unregistered"):
            hint = "on the server: fedq deploy register; fedq doctor --deploy DIR says more"
            raise FedqError("FQ207", f"the server does not know the key of {of.name}", where=str(of.folder), hint=hint)
        if status != "online":
            return
        if monotonic() > end:
            hint = "stop it first: fedq deploy stop --dir SITE"
            raise FedqError("FQ207", f"another client of {of.name} is online", where=str(of.folder), hint=hint)
        if not told:
            say(f"the server still counts on the last client of {of.name}: waiting for up to {seconds:.0f} s")
        told = True
        sleep(2)


def not_twice(mark: Path, what: str) -> None:
    """FedqError FQ207 if the process that a mark names runs: a second one would take its place in the mark only."""
    if process := running(mark):
        hint = f"stop it first: fedq deploy stop --dir {mark.parent}"
        raise FedqError("FQ207", f"{what} runs already, as process {process}", where=str(mark.parent), hint=hint)


def free_port(bind: str, port: int, hint: str) -> None:
    """FedqError FQ207 if nobody can listen there; `hint` says what to do where somebody does already."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((bind, port))
    except OSError as error:
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        hint = f"stop what listens there, or {hint}" if taken else "0.0.0.0 stands for all addresses of this machine"
        said = f"nobody can listen at {bind}:{port}: {(error.strerror or str(error)).lower()}"
        raise FedqError("FQ207", said, hint=hint) from error


def public_pem(file: Path) -> bytes:
    """An OpenSSH public key in the form in which Flower keeps it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    return load_ssh_public_key(file.read_bytes()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def stop_all(folder: Path) -> Iterator[str]:
    """Stop the runs of a deployment, and every server and client that was started from a folder of it."""
    try:
        of = Deployment.read(folder)
        for run in lines.asked(lines.runs(), of).get("runs", []):
            if not str(run["status"]).startswith("finished"):
                line = lines.stop(int(run["run-id"]))
                lines.asked(line, of)
                yield lines.said(line)
    except FedqError:
        pass  # a site's folder, or a server that does not answer: its processes are stopped all the same
    for mark in sorted([*folder.glob("*.pid"), *folder.glob("*/client.pid")], key=lambda m: m.name == "server.pid"):
        process = running(mark)
        if process:
            _end(process)
            yield f"stopped {mark.stem} {process} of {mark.parent}"
        mark.unlink(missing_ok=True)


def running(mark: Path) -> int | None:
    """The process that a mark names, if it is one of Flower's, of the mark's folder, and runs."""
    try:
        process = int(mark.read_text())
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return process if b"flower-super" in words and f"{mark.parent.resolve()}/".encode() in words else None


def _end(process: int) -> None:
    """End a process, and all that it started: what begins while it ends may look for it for minutes."""
    first = psutil.Process(process)
    family, end = {first, *_started(first)}, monotonic() + ENDING
    first.terminate()
    while any(map(_runs, family)) and monotonic() < end:
        family |= {one for member in family for one in _started(member)}
        if not _runs(first):
            end = min(end, monotonic() + ORPHANED)
        sleep(0.1)
    for left in filter(_runs, family):
        with suppress(psutil.NoSuchProcess):
            left.kill()


def _started(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _known(of: Deployment) -> dict[str, str]:
    file = of.folder / "nodes.json"
    found: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return found


def _seen(node: dict[str, Any] | None) -> dict[str, str]:
    if node is None:
        return {"node": "-", "status": "not registered", "since": "-"}
    since = node["online-at"] if node["status"] == "online" else node.get("offline-at")
    return {"node": node["node-id"], "status": node["status"], "since": str(since or "-")}
