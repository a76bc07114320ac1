"""What `fedq deploy init` writes besides keys: start scripts, systemd units, a compose file, Flower's configuration."""

import re
import shlex
import shutil
from importlib.metadata import version
from importlib.resources import as_file, files
from ipaddress import ip_address
from pathlib import Path

from fedq.deploy import keys
from fedq.deploy.layout import CONNECTION, Deployment, Site
from fedq.errors import FedqError

RUNTIME_PORT = 9094  # of the first site's SuperNode, on its own loopback; one more for each further site


def init(
    folder: Path, host: str, clients: int, *, port: int = 8000, also: tuple[str, ...] = (), runtime_port: int = 0
) -> Deployment:
    """Make a deployment: keys, certificate and files, for the server and for `clients` sites.

    The certificate is good for `host`, what is in `also`, and loopback. FedqError FQ207 if `folder` has one already.
    """
    for name in (host, *also):
        _check_host(name)
    if (folder / "deploy.toml").exists() or (folder / "ca.key").exists():
        raise FedqError("FQ207", f"`{folder}` holds a deployment already", where=f"--out {folder}",
                        hint="choose another folder; keys are never replaced")  # fmt: skip
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    names = tuple(f"site-{k}" for k in range(clients))
    made = Deployment(folder, host, port, names)
    keys.make_ca(folder, host)
    keys.make_server(folder, [host, *also])
    made.write()
    write_flower_config(made)
    _copy_app(folder / "app")
    _script(folder / "start.sh", ["fedq", "deploy", "server", "--dir"])
    _units(folder, names)
    (folder / "compose.yaml").write_text(_compose(made), encoding="utf-8")
    for k, name in enumerate(names):
        site = made.site(name)
        site.mkdir(mode=0o700)
        keys.make_node(site, name)
        shutil.copy(folder / "ca.crt", site / "ca.crt")
        Site(site, host, port, name, k, clients, (runtime_port or RUNTIME_PORT) + k).write()
        _script(site / "start.sh", ["fedq", "deploy", "client", "--dir"])
    return made


def _check_host(name: str) -> None:
    """FedqError FQ106 for what is neither an address nor a name of letters, digits, dashes and dots."""
    try:
        ip_address(name)
    except ValueError:
        if not re.fullmatch(r"(?=.{1,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?)+", name):
            hint = "give a name such as fl.example.org, or an address such as 10.1.2.3; the port is --port"
            raise FedqError("FQ106", f"`{name}` is no host", where=f"--host {name}", hint=hint) from None


def renew(of: Deployment, also: tuple[str, ...] = ()) -> None:
    """A new server certificate by the same CA; sites need nothing new. The old one is kept as `server.*.old`."""
    if not (of.folder / "ca.key").exists():
        raise FedqError("FQ207", "the CA's key is not here", where=str(of.folder / "ca.key"),
                        hint="bring it back from where it is kept")  # fmt: skip
    for name in ("server.key", "server.pem"):
        if (of.folder / name).exists():
            (of.folder / name).replace(of.folder / f"{name}.old")
    keys.make_server(of.folder, [of.host, *also])


def write_flower_config(of: Deployment) -> None:
    """Flower's own configuration, in the deployment's folder: where the SuperLink is, and whom it trusts."""
    import tomli_w

    connection = {"address": of.address, "root-certificates": str(of.folder / "ca.crt")}
    of.home.mkdir(exist_ok=True, mode=0o700)
    text = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    (of.home / "config.toml").write_text(text, encoding="utf-8")


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
