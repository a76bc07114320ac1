"""The server's half of the Flower App: the same round loop as in simulation, over Flower's own Grid."""

import logging
import tomllib
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedq._flower import traffic
from fedq.attacks import parse as parse_attack
from fedq.attacks.base import OmniscientAttack
from fedq.build import Simulation
from fedq.config import RunConfig, make_config
from fedq.data.site import told_of
from fedq.deploy.grid import SAID, DeployedGrid, SuperLinkGone
from fedq.errors import FedqError
from fedq.kernels import active
from fedq.ledger import Ledger, MeteredGrid
from fedq.runs import Run
from fedq.simulation import begin, logging_to, play, reopen

log = logging.getLogger("fedq")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play a run: a new one from the TOML in `fedq-config`, or the one whose directory `fedq-run` names."""
    try:
        _main(grid, context)
    except SuperLinkGone as gone:
        raise RuntimeError(f"the SuperLink does not answer: {gone}") from gone


def _main(grid: Grid, context: Context) -> None:
    told = context.run_config
    names = tuple(str(told["fedq-sites"]).split()) or None
    run, simulation = _opened(str(told["fedq-run"]), str(told["fedq-config"]), str(told["fedq-out"]))
    try:
        played = deployed(simulation, grid, names, timeout=float(told["fedq-timeout"]))
        run.update(status="running", flower_run_id=str(context.run_id))
        with logging_to(run.path / "log.txt"):
            _wait(played, run, float(told["fedq-wait"]))
    except BaseException as error:
        ours = isinstance(error, Exception)  # else somebody stopped it, or the SuperLink is gone: it can go on
        run.update(**{"status": "failed", "error": str(error)} if ours else {"status": "interrupted"})
        run.release()
        raise
    for record in play(run, played):
        log.info("round %d: %d clients, accuracy %s", record.round, record.clients, record.accuracy)


def deployed(simulation: Simulation, grid: Grid, names: tuple[str, ...] | None, *, timeout: float) -> Simulation:
    """The same parts, with clients behind Flower's Grid instead of in this process."""
    check(simulation.config)
    top, ledger = simulation.config.top, Ledger()
    columns = (top.data.text_column or "", top.data.label_column or "")
    hello = {"clients": top.clients, "fedq": version("fedq"), **told_of(simulation.data, columns)}
    clients = DeployedGrid(grid, top.clients, names, hello, timeout=timeout, sent=ledger.sent)
    metered = MeteredGrid(clients, ledger, lambda: traffic(grid), enters_sent=True)
    return replace(simulation, clients=clients, grid=metered)


def check(config: RunConfig) -> None:
    """FedqError FQ105 for what exists in simulation only."""
    if config.top.attack and isinstance(parse_attack(config.top.attack)[1], OmniscientAttack):
        name = config.top.attack.split(":")[0]
        raise FedqError(
            "FQ105",
            f"`{name}` sees every client's reply, which exists in simulation only",
            where=f"attack = {config.top.attack}",
            hint="deployed clients can make: stall, sign_flip, random, gaussian, label_flip",
        )


def _opened(path: str, text: str, out: str) -> tuple[Run, Simulation]:
    if path:
        run, simulation = reopen(path, deployed=True)
        if run.status != "submitted":  # whoever submitted it left while Flower took it
            run.release()
            raise FedqError("FQ205", "the run was stopped before it began", where=path)
        return run, simulation
    return begin(make_config(tomllib.loads(text)), out)


def _wait(played: Simulation, run: Run, seconds: float) -> None:
    """Wait for the sites, and note what each of them says of itself."""
    grid: Any = played.clients
    missing = grid.wait_for_sites(1 - played.config.top.tolerate, seconds)
    for name in missing:
        log.warning("%s is not there; the run goes on without it until it comes", name)
    said = [key for key in SAID if key != "partition"]
    sites = {grid.name(k): {key: answer[key] for key in said} for k, answer in grid.sites.items()}
    run.update(deployed=True, kernels=active.isa(), sites=sites)
