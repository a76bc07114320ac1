"""The cells of an experiment: every combination of what its `grid.toml` varies, each a run's config.

Table `base` holds keys of every run, as in run.toml. Each block `[[grid]]` is a set of combinations: a key and its
values, `seed = [0, 1, 2]`; or any name and keys that vary together, `some = [{clients = 2, seed = 1}, {clients = 4}]`.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedq.config import RunConfig, make_config
from fedq.settings import flatten
from fedq.sweep import combinations


@dataclass(frozen=True)
class Cell:
    """One run of an experiment: its file name, what it varies, and all its keys but `data.dir`."""

    name: str
    varied: dict[str, Any]
    keys: dict[str, Any]

    def config(self, data: str = "") -> RunConfig:
        """The run's config; `data` is the folder that holds data sets in the hub's layout."""
        keys = dict(self.keys)
        if data and keys.get("data.name", "digits") != "digits":
            keys["data.dir"] = str(Path(data) / keys["data.name"])
        return make_config(keys)


def cells(folder: Path) -> list[Cell]:
    """All cells of the experiment in `folder`, in the order of its `grid.toml`."""
    grid = tomllib.loads((folder / "grid.toml").read_text())
    base = flatten(grid["base"])
    found = [_cell(base, chosen) for block in grid["grid"] for chosen in combinations(flatten(block))]
    assert len({cell.name for cell in found}) == len(found), f"{folder}: two cells of one name"
    return found


def result(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The measured result of a cell, if it was run as the grid has it now; keys that came later count as defaults."""
    file = folder / "results" / f"{cell.name}.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    if found is None:
        return None
    return found if make_config(found["config"]).hash == cell.config().hash else None


def _cell(base: dict[str, Any], varied: dict[str, Any]) -> Cell:
    if varied.get("model.name", base.get("model.name")) != base.get("model.name"):  # it has options of its own
        base = {k: v for k, v in base.items() if not k.startswith("model.")}
    name = "-".join(str(v) if k.endswith(".name") else f"{k.rpartition('.')[2]}_{v}" for k, v in varied.items())
    plain = "".join(c if c.isalnum() or c in "-_." else "." for c in name)
    return Cell(plain, varied, {**base, **varied})
