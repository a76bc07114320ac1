"""A deployed run on the screen."""

import json
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fedq.cli.signals import heard
from fedq.config import RunConfig
from fedq.deploy.layout import Deployment
from fedq.errors import EXIT_DONE, EXIT_INTERRUPTED, FedqError

TOLERATE = 0.5  # the share of sites that may fail in a round, where the config says nothing


class _Line:
    """A line of metrics.jsonl, as the screen takes it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def metrics(self) -> Mapping[str, Any]:
        return self._values


def run_on_screen(
    of: Deployment, config: Path, out: Path, sets: list[str], *, waits: dict[str, float], as_json: bool, quiet: bool
) -> int:
    """Begin or go on with a run, and show it until it ends; returns the exit status."""
    from fedq.deploy.supervise import follow, left
    from fedq.report.screen import Screen, outcome, plan
    from fedq.runs import best
    from fedq.simulation import begin, reopen

    again = (config / "run.toml").is_file()
    if again and sets:
        raise FedqError("FQ106", "a run goes on as it was begun", where=f"--set {sets[0]}", hint="leave --set out")
    run, simulation = reopen(config, deployed=True) if again else begin(_config(of, config, sets), out)
    run.release()
    if again:
        _check_fit(of, simulation.config)
    sites, status = f"{len(of.sites)} site" + "s" * (len(of.sites) > 1), EXIT_DONE
    with heard(signal.default_int_handler), Screen(simulation, json=as_json, quiet=quiet) as screen:
        screen.say(plan(simulation, str(run.path), workers=f"{sites} of {of.address}"))
        try:
            with closing(follow(of, run.path, **waits, say=screen.say)) as found:
                for line in found:
                    screen.show(_Line(line))
            screen.say(outcome(run.totals(), best(run.records())))
            screen.say(f"  {run.path}/   run.toml  metrics.jsonl  model.safetensors")
            screen.say(f"Next:  fedq compare {run.path.parent}/*")
        except KeyboardInterrupt:
            screen.say(left(of, run.path))
            status = EXIT_INTERRUPTED
    if as_json:
        print(json.dumps(run.totals()))
    return status


def _config(of: Deployment, file: Path, sets: list[str]) -> RunConfig:
    """The config, for as many clients as there are sites."""
    from fedq.config import over, resolve
    from fedq.settings import Setting, parse_set, read_toml

    settings = over(read_toml(file), parse_set(sets))
    settings.setdefault("clients", Setting(len(of.sites), f"{len(of.sites)} sites"))
    settings.setdefault("tolerate", Setting(TOLERATE, "fedq deploy run"))
    config = resolve(settings)
    _check_fit(of, config)
    return config


def _check_fit(of: Deployment, config: RunConfig) -> None:
    """FedqError FQ105 where a run is not for these sites, or for none."""
    from fedq.config import blaming
    from fedq.deploy.server import check

    check(config)
    with blaming(config.origins):
        if config.top.clients != len(of.sites):
            raise FedqError(
                "FQ105",
                f"{config.top.clients} clients, but the deployment has {len(of.sites)} sites",
                key="clients",
                hint=f"--set clients={len(of.sites)}, or leave it out",
            )
