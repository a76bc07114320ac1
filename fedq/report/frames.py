"""Runs as one long pandas table."""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedq.errors import FedqError
from fedq.finding import matching, opened
from fedq.runs import Run


def load_runs(*patterns: str | Path) -> Any:
    """The rounds of all runs that `patterns` name (`"runs/*"`, or a folder of runs), as a DataFrame.

    Columns: run, strategy, codec, data, model, seed, those of metrics.jsonl, and the bytes and seconds so far; what a
    strategy shows of a round is `strategy_shows`. FedqError FQ203 if there is no run.
    """
    return table_of(opened(matching(patterns))[0])


def names_of(runs: Sequence[Run]) -> list[str]:
    """The names of the runs' folders; where two have one name, their paths below the folder that holds them all."""
    names = [run.path.name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [run.path.absolute() for run in runs]
    return [path.relative_to(os.path.commonpath([p.parent for p in paths])).as_posix() for path in paths]


def table_of(runs: Sequence[Run]) -> Any:
    """A line a round of each run; see `load_runs`."""
    import pandas as pd

    tables = []
    for run, name in zip(runs, names_of(runs), strict=True):
        rounds, config = run.metrics, run.config
        if rounds.empty:
            continue
        rounds = rounds.rename(columns={"strategy": "strategy_shows"})
        named = {"run": name, "strategy": config["strategy"]["name"], "codec": config["codec"]}
        named |= {"data": config["data"]["name"], "model": config["model"]["name"], "seed": config["seed"]}
        for place, (key, value) in enumerate(named.items()):
            rounds.insert(place, key, value)
        for key in ("up_bytes", "down_bytes", "seconds"):
            rounds[f"{key}_so_far"] = rounds[key].cumsum()
        tables.append(rounds)
    if not tables:
        raise FedqError("FQ205", "none of these runs has finished a round", hint="fedq show runs")
    return pd.concat(tables, ignore_index=True)
