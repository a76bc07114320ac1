"""`fedq deploy`: Flower's SuperLink and SuperNodes with TLS and node keys; every line of Flower is printed."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

deploy = Typer(help="Run between machines: Flower servers and clients, with TLS and node keys.", no_args_is_help=True)

Dir = Annotated[Path, Option("--dir", help="The deployment's folder, as `init` made it.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, Option("--debug", help="Show the traceback of an error.")]


@deploy.callback()
def _group() -> None:
    """Run between machines: Flower servers and clients, with TLS and node keys."""


@deploy.command()
def init(
    host: Annotated[str, Option(help="Name or address by which sites reach the server.")],
    clients: Annotated[int, Option(help="Number of sites.", min=1, max=10_000)],
    out: Annotated[Path, Option(help="Folder to make.")] = Path("deploy"),
    port: Annotated[int, Option(help="Port of the server.", min=1, max=65535)] = 8000,
    also: Annotated[list[str] | None, Option(help="More names or addresses of the server; may be repeated.")] = None,
    runtime_port: Annotated[
        int, Option(help="Port on the first site's own loopback; one more for each further site.", min=1024, max=65535)
    ] = 9094,
    debug: Debug = False,
) -> int:
    """Make keys, certificate, start scripts, systemd units and a compose file.

    Example: fedq deploy init --host fl.lab.org --clients 3
    """
    from fedq.deploy.files import init as make

    made = make(out, host, clients, port=port, also=tuple(also or ()), runtime_port=runtime_port)
    print(f"wrote  {out}/   ca.crt  server.pem  server.key  start.sh  systemd/  compose.yaml  app/")
    print(f"       {out}/ca.key   signs server certificates: keep it offline")
    sites = f"{made.sites[0]} ... {made.sites[-1]}" if clients > 1 else made.sites[0]
    print(f"       {out}/{sites}   give each site its folder, by a safe channel")
    print(f"Next:  fedq deploy server --dir {out}")
    return 0


@deploy.command()
def renew(
    folder: Dir = Path("deploy"),
    also: Annotated[list[str] | None, Option(help="More names or addresses of the server; may be repeated.")] = None,
    debug: Debug = False,
) -> int:
    """Make a new certificate for the server, by the same CA: sites need nothing new.

    Example: fedq deploy renew --dir deploy --also 10.1.2.3
    """
    from fedq.deploy.files import renew as make
    from fedq.deploy.layout import Deployment

    make(Deployment.read(folder), tuple(also or ()))
    print(f"wrote  {folder}/server.pem  server.key   (the old ones: *.old)")
    print(f"Next:  start the server again: fedq deploy server --dir {folder}")
    return 0


@deploy.command()
def server(
    folder: Dir = Path("deploy"),
    bind: Annotated[str, Option(help="Address to listen on.")] = "0.0.0.0",
    debug: Debug = False,
) -> int:
    """Become Flower's SuperLink.

    Example: fedq deploy server --dir deploy
    """
    from fedq.deploy import lines
    from fedq.deploy.layout import Deployment
    from fedq.deploy.nodes import free_port, not_twice

    of = Deployment.read(folder)
    not_twice(of.folder / "server.pid", "the server")
    free_port(bind, of.port, "choose another: fedq deploy init --port")
    lines.become(lines.superlink(of, bind), of.home, of.folder / "server.pid")


@deploy.command()
def register(folder: Dir = Path("deploy"), debug: Debug = False) -> int:
    """Tell the running server the public keys of all sites, once.

    Example: fedq deploy register --dir deploy
    """
    from fedq.deploy import lines
    from fedq.deploy.layout import Deployment
    from fedq.deploy.nodes import register_all

    of = Deployment.read(folder)
    for site, line in register_all(of):
        print(lines.said(line) if line else f"{site} is registered already", flush=True)
    print(f"Next:  at each site  fedq deploy client --dir {of.sites[0]}    then  fedq deploy run CONFIG --dir {folder}")
    return 0


@deploy.command()
def client(
    folder: Annotated[Path, Option("--dir", help="The site's folder.")],
    data_dir: Annotated[Path | None, Option(help="The site's own data, a folder in the hub's layout.")] = None,
    debug: Debug = False,
) -> int:
    """Become Flower's SuperNode of a site.

    Without --data-dir the site takes its partition of the data that the run names.

    Example: fedq deploy client --dir site-0
    """
    from dataclasses import replace

    from fedq.deploy import lines
    from fedq.deploy.layout import Site
    from fedq.deploy.nodes import free_port, free_to_start, not_twice
    from fedq.errors import FedqError

    of = Site.read(folder)
    not_twice(of.folder / "client.pid", f"a client of {of.name}")
    if data_dir is not None:
        if not data_dir.expanduser().is_dir():
            raise FedqError("FQ201", f"there is no folder `{data_dir}`", where=f"--data-dir {data_dir}")
        of = replace(of, data_dir=str(data_dir.expanduser().resolve()))
        of.write()
    of.trust()
    of.home.mkdir(exist_ok=True, mode=0o700)
    free_to_start(of, lambda text: print(text, file=sys.stderr, flush=True))
    free_port("127.0.0.1", of.runtime_port, f"change runtime_port in {of.folder / 'site.toml'}")
    lines.become(lines.supernode(of), of.home, of.folder / "client.pid")


@deploy.command()
def run(
    config: Annotated[Path, Argument(help="A TOML file, or a run directory to go on with.")],
    folder: Dir = Path("deploy"),
    out: Annotated[Path, Option(help="Folder for run directories.")] = Path("runs"),
    timeout: Annotated[float, Option(help="Seconds a site may take for a reply.", min=1)] = 600.0,
    wait: Annotated[float, Option(help="Seconds to wait for sites to come online.", min=0)] = 120.0,
    patience: Annotated[float, Option(help="Seconds to wait for a server that is away.", min=0)] = 600.0,
    set_: Annotated[list[str] | None, Option("--set", help="Any config key: KEY=VALUE; may be repeated.")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object at the end, on stdout.")] = False,
    quiet: Annotated[bool, Option("--quiet", help="Say nothing but errors.")] = False,
    debug: Debug = False,
) -> int:
    """Train on the deployment, on the server's machine; the run directory is that of a simulation.

    If the server is killed, the run goes on from its last checkpoint when the server is back.

    Example: fedq deploy run fmnist.toml --dir deploy
    """
    from fedq.cli.deployed import run_on_screen
    from fedq.deploy.layout import Deployment

    waits = {"timeout": timeout, "wait": wait, "patience": patience}
    return run_on_screen(Deployment.read(folder), config, out, set_ or [], waits=waits, as_json=json, quiet=quiet)


@deploy.command()
def status(folder: Dir = Path("deploy"), json: Json = False, debug: Debug = False) -> int:
    """Show sites and runs: who is online, and the bytes of each run.

    Example: fedq deploy status --dir deploy
    """
    import json as json_

    from fedq.deploy.layout import Deployment
    from fedq.deploy.nodes import overview
    from fedq.report.tables import table

    found = overview(Deployment.read(folder))
    if json:
        print(json_.dumps(found))
        return 0
    for rows in found.values():
        print(table([{k: str(v) for k, v in row.items()} for row in rows]) if rows else "no runs yet")
    return 0


@deploy.command()
def stop(folder: Dir = Path("deploy"), debug: Debug = False) -> int:
    """Stop the runs, and the server and clients that were started from this folder.

    Example: fedq deploy stop --dir deploy
    """
    from fedq.deploy.layout import Deployment
    from fedq.deploy.nodes import stop_all

    if not (folder / "site.toml").exists():
        Deployment.read(folder)
    stopped = list(stop_all(folder))
    print("\n".join(stopped) if stopped else f"nothing started from {folder} is running")
    return 0
