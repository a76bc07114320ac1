"""The lines of Flower that a deployment consists of, and the environment they run in."""

import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fedq.deploy.layout import CONNECTION, Deployment, Site
from fedq.errors import FedqError, reason


def superlink(of: Deployment, bind: str = "0.0.0.0") -> list[str]:
    """The server: TLS, registered node keys only, its state in a database, no installing at run time."""
    where = of.folder
    return [
        *("flower-superlink", "--host", bind, "--port", str(of.port)),
        *("--ssl-ca-certfile", str(where / "ca.crt")),
        *("--ssl-certfile", str(where / "server.pem")),
        *("--ssl-keyfile", str(where / "server.key")),
        *("--database", str(where / "superlink.db")),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]


def supernode(of: Site) -> list[str]:
    """A site's client. What it must know of itself stands in its node configuration."""
    config = {
        "partition-id": of.partition,
        "num-partitions": of.partitions,
        "fedq-site": str(of.folder),
        **({"fedq-data": of.data_dir} if of.data_dir else {}),
    }
    return [
        *("flower-supernode", "--superlink", of.address),
        *("--root-certificates", str(of.folder / "ca.crt")),
        *("--auth-supernode-private-key", str(of.folder / "key")),
        *("--node-config", " ".join(f"{k}={json.dumps(v)}" for k, v in config.items())),
        *("--port", str(of.runtime_port)),
    ]


def register(of: Deployment, site: str) -> list[str]:
    """Tell the server a site's public key, and its name."""
    return ["flwr", "supernode", "register", str(of.site(site) / "key.pub"), CONNECTION, "--name", site]


def run(of: Deployment, settings: Path) -> list[str]:
    """Start a Flower run of the app."""
    return ["flwr", "run", str(of.folder / "app"), CONNECTION, "-c", str(settings)]


def runs(run_id: int | None = None) -> list[str]:
    """List Flower runs, or one."""
    return ["flwr", "list", CONNECTION, *(["--run-id", str(run_id)] if run_id is not None else [])]


def nodes() -> list[str]:
    """List registered nodes."""
    return ["flwr", "supernode", "list", CONNECTION]


def stop(run_id: int) -> list[str]:
    """Stop a Flower run."""
    return ["flwr", "stop", str(run_id), CONNECTION]


def environment(home: Path) -> dict[str, str]:
    """What Flower's processes are given: a home of their own, no telemetry, no look for updates, short waits."""
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def said(line: Sequence[str]) -> str:
    """The line as one types it."""
    return shlex.join(line)


def become(line: Sequence[str], home: Path, mark: Path) -> NoReturn:
    """Print the line and turn this process into it; `mark` keeps the process id for `fedq deploy stop`."""
    environment_ = environment(home)
    program = shutil.which(line[0], path=environment_["PATH"])
    if program is None:
        raise FedqError("FQ206", f"`{line[0]}` is not installed", hint="it comes with flwr: pip install fedq")
    print(said(line), flush=True)
    mark.write_text(f"{os.getpid()}\n")
    os.execve(program, list(line), environment_)


def connect(of: Deployment) -> None:
    """Flower's own configuration in the deployment's folder, wherever that is now: the SuperLink, and whom to trust."""
    import tomli_w

    connection = {"address": of.address, "root-certificates": str(of.folder / "ca.crt")}
    text = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    file = of.home / "config.toml"
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        of.home.mkdir(exist_ok=True, mode=0o700)
        file.write_text(text, encoding="utf-8")


def asked(line: Sequence[str], of: Deployment, *, timeout: float = 60) -> dict[str, Any]:
    """What a `flwr` line answers, as JSON. FedqError FQ208 if the server does not answer, FQ207 if it says no."""
    of.trust()
    connect(of)
    words = [*line, "--format", "json"]
    try:
        done = subprocess.run(
            words, env=environment(of.home), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise FedqError("FQ208", f"no answer within {timeout:g} s", where=said(line), hint=HINT) from None
    found = _json(done.stdout)
    if done.returncode or not found.get("success", True):
        why = str(found.get("error-message") or done.stderr or done.stdout).strip()
        if "SuperLink is unavailable" in why:
            raise unheard(of, said(line))
        raise FedqError("FQ207", why.replace("\n", " "), where=said(line), hint=HINT)
    return found


def unheard(of: Deployment | Site, where: str) -> FedqError:
    """Why nothing is heard of a server: FQ207 if what is there is not the server, FQ208 if it may come yet."""
    code, why, doctor = "FQ208", "it is just starting", f"fedq doctor --deploy {of.folder}"
    try:
        of.handshake()
    except ssl.SSLCertVerificationError as error:
        code, why = "FQ207", f"the server's certificate is refused: {error.verify_message.rstrip('.')}"
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        why = reason(error)
    except ssl.SSLError:
        code, why = "FQ207", f"what listens at {of.address} does not speak TLS"
    except OSError as error:
        why = reason(error)
    if code == "FQ207":
        return FedqError(code, why, where=where, hint=f"{doctor} says more")
    hint = f"start it: fedq deploy server --dir {of.folder}; what is wrong: {doctor}"
    return FedqError(code, f"the server does not answer: {why}", where=where, hint=hint)


HINT = "fedq doctor --deploy DIR says what is wrong"


def _json(text: str) -> dict[str, Any]:
    """The last JSON object in a text that may have lines of talk before it."""
    start = text.find("{")
    try:
        found: Mapping[str, Any] = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        found = {}
    return dict(found)
