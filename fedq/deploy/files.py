"""What `fedq deploy init` writes besides keys: start scripts, systemd units, a compose file, Flower's configuration."""

import re
import shlex
import shutil
from importlib.metadata import version
from importlib.resources import as_file, files
from ipaddress import ip_address
from pathlib import Path

from fedq.deploy import keys
from fedq.deploy.layout import Deployment, Site
from fedq.deploy.lines import connect
from fedq.errors import FedqError

HIGHEST = 65535  # port
RUNTIME_PORT = 9094  # of the first site's SuperNode, on its own loopback; one more for each further site


def init(
    folder: Path, host: str, clients: int, *, port: int = 8000, also: tuple[str, ...] = (), runtime_port: int = 0
) -> Deployment:
    """Make a deployment: keys, certificate and files, for the server and for `clients` sites.

    The certificate is good for `host`, what is in `also`, and loopback. FedqError FQ207 if `folder` has one already, or
    anything that would be written over.
    """
    _check_host(host, "--host")
    for name in also:
        _check_host(name, "--also")
    first = runtime_port or RUNTIME_PORT
    if first + clients - 1 > HIGHEST:
        raise FedqError("FQ105", f"{clients} ports from {first} on go beyond {HIGHEST}",
                        where=f"--runtime-port {first}", hint="choose a lower one")  # fmt: skip
    names = tuple(f"site-{k}" for k in range(clients))
    for name in ("deploy.toml", "ca.key", "server.key", "app", "systemd", *names):
        if (folder / name).exists():
            raise FedqError("FQ207", f"`{folder}` holds `{name}` already", where=f"--out {folder}",
                            hint="choose another folder; keys are never replaced")  # fmt: skip
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)  # one that was there stays as open as it was; keys are their owner's alone
    made = Deployment(folder, host, port, names)
    keys.make_ca(folder, host)
    keys.make_server(folder, [host, *also])
    made.write()
    connect(made)
    _copy_app(folder / "app")
    _script(folder / "start.sh", ["fedq", "deploy", "server", "--dir"])
    _units(folder, names)
    (folder / "compose.yaml").write_text(_compose(made), encoding="utf-8")
    for k, name in enumerate(names):
        site = made.site(name)
        site.mkdir(mode=0o700)
        keys.make_node(site, name)
        shutil.copy(folder / "ca.crt", site / "ca.crt")
        Site(site, host, port, name, k, clients, first + k).write()
        _script(site / "start.sh", ["fedq", "deploy", "client", "--dir"])
    return made


def _check_host(name: str, flag: str) -> None:
    """FedqError FQ106 for what is neither an address nor a name of letters, digits, dashes and dots."""
    try:
        ip_address(name)
    except ValueError:
        if not re.fullmatch(r"(?=.{1,253}$)(?!.*(^|\.)\d+\.?$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?)+", name):
            hint = "give a name such as fl.example.org, or an address such as 10.1.2.3; the port is --port"
            raise FedqError("FQ106", f"`{name}` is no host", where=f"{flag} {name}", hint=hint) from None


def renew(of: Deployment, also: tuple[str, ...] = ()) -> None:
    """A new server certificate by the same CA; sites need nothing new. The old one is kept as `server.*.old`."""
    for name in also:
        _check_host(name, "--also")
    if not (of.folder / "ca.key").exists():
        raise FedqError("FQ207", "the CA's key is not here", where=str(of.folder / "ca.key"),
                        hint="bring it back from where it is kept")  # fmt: skip
    try:
        keys.make_server(of.folder, [of.host, *also])
    except ValueError as error:
        raise FedqError("FQ207", f"the CA's key cannot be read: {error}", where=str(of.folder / "ca.key"),
                        hint="bring it back from where it is kept") from error  # fmt: skip


def _copy_app(to: Path) -> None:
    with as_file(files("fedq.deploy") / "app") as source:
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))


def _script(path: Path, words: list[str]) -> None:
    here = '"$(cd "$(dirname "$0")" && pwd)"'
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} {here} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _units(folder: Path, names: tuple[str, ...]) -> None:
    units = folder / "systemd"
    units.mkdir()
    (units / "fedq-server.service").write_text(_unit("fedq server", "/srv/fedq/deploy", "server"), encoding="utf-8")
    for name in names:
        unit = _unit(f"fedq client {name}", f"/srv/fedq/{name}", "client")
        (units / f"fedq-{name}.service").write_text(unit, encoding="utf-8")


def _unit(what: str, folder: str, command: str) -> str:
    return f"""[Unit]
Description={what}
Wants=network-online.target
After=network-online.target

[Service]
User=fedq
# where fedq is installed, and where the folder was put
ExecStart=/srv/fedq/.venv/bin/fedq deploy {command} --dir {folder}
Restart=on-failure
RestartSec=5
Environment=HF_HOME={folder}/huggingface
UMask=0077
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=strict
ProtectHome=true
ReadWritePaths={folder}

[Install]
WantedBy=multi-user.target
"""


def _compose(of: Deployment) -> str:
    """The server and all sites on one machine, to try a deployment out; the image holds this version of fedq."""
    build = f"""    build:
      context: .
      dockerfile_inline: |
        FROM python:3.12-slim
        RUN pip install --no-cache-dir fedq=={version("fedq")}"""
    server = f"""  server:
{build}
    command: fedq deploy server --dir /deploy
    volumes: [".:/deploy"]
    ports: ["{of.port}:{of.port}"]
    networks: {{default: {{aliases: ["{of.host}"]}}}}
    restart: on-failure"""
    clients = [
        f"""  {name}:
{build}
    command: fedq deploy client --dir /site
    volumes: ["./{name}:/site"]
    depends_on: [server]
    restart: on-failure"""
        for name in of.sites
    ]
    return "\n".join(["services:", server, *clients]) + "\n"
