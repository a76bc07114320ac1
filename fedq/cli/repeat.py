"""The command that repeats a run on any machine: the flags that its config needs over fedq's defaults."""

import shlex
from typing import Any

from fedq.cli.flags import SECTION
from fedq.config import NOT_HASHED, PARTS, RunConfig, make_config, resolve
from fedq.errors import FedqError
from fedq.runs import Run
from fedq.settings import flatten, read_toml
from fedq.sweep import word

FLAG = {key: f"--{name.replace('_', '-')}" for name, key in SECTION.items()}
CHOICES = [f"{part}.name" for part in PARTS]


def repeating(run: Run) -> str:
    """`fedq simulate` and flags; the run's own run.toml where flags cannot say it."""
    try:
        config = resolve(read_toml(run.path / "run.toml"))
        words = shlex.join(("fedq", "simulate", *flags(config)))
    except FedqError:
        return shlex.join(("fedq", "simulate", str(run.path / "run.toml")))
    return words


def flags(config: RunConfig) -> list[str]:
    """The fewest flags that resolve to `config`, data folders and workers left out. FedqError if there are none."""
    wanted = flatten(config.as_dict())
    given = {k: wanted[k] for k in CHOICES if k in wanted}
    for key in reversed(CHOICES):  # what the others bring along need not be said
        fewer = {k: v for k, v in given.items() if k != key}
        if flatten(make_config(fewer).as_dict()).get(key) == wanted.get(key):
            given = fewer
    brought = flatten(make_config(given).as_dict())
    given |= {k: v for k, v in wanted.items() if brought.get(k) != v and k not in NOT_HASHED}
    if make_config(given).hash != config.hash:
        raise FedqError("FQ105", "no flags say this config")
    return [flag for key, value in given.items() for flag in _flag(key, value)]


def _flag(key: str, value: Any) -> list[str]:
    if key not in FLAG:
        return ["--set", f"{key}={word(value)}"]
    return [FLAG[key], *([] if value is True else [word(value)])]
