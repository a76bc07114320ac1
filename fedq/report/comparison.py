"""Several runs side by side: what accuracy each reached, and what it had to upload for it."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fedq.errors import FedqError
from fedq.report.catalogue import table
from fedq.report.units import share, size
from fedq.runs import Run, open_run
from fedq.settings import flatten

APART = ("seed", "data.dir", "workers")  # settings that may differ within a group


@dataclass(frozen=True)
class Curve:
    """One run: after each evaluated round, the bytes uploaded so far by all clients, and the accuracies."""

    up_bytes: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    deployed: NDArray[np.float64] | None
    rounds: NDArray[np.int64]

    def first(self, target: float) -> int | None:
        """The place of the first evaluation that reaches `target`."""
        reached = np.nonzero(self.accuracy >= target)[0]
        return int(reached[0]) if reached.size else None


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed only."""

    label: str
    config: dict[str, Any]
    curves: tuple[Curve, ...]

    @cached_property
    def mean(self) -> Curve:
        """The mean over seeds, as far as all runs go."""
        n = min(len(c.accuracy) for c in self.curves)
        deployed = [c.deployed[:n] for c in self.curves if c.deployed is not None]
        return Curve(
            np.mean([c.up_bytes[:n] for c in self.curves], axis=0),
            np.mean([c.accuracy[:n] for c in self.curves], axis=0),
            np.mean(deployed, axis=0) if deployed else None,
            self.curves[0].rounds[:n],
        )

    @property
    def final(self) -> tuple[float, float]:
        """Mean and standard deviation of the last accuracy over seeds."""
        last = np.array([c.accuracy[-1] for c in self.curves])
        return float(last.mean()), float(last.std())


@final
@dataclass(frozen=True)
class Comparison:
    """Groups of runs, and the accuracy at which their bytes are compared."""

    groups: tuple[Group, ...]
    target: float
    left_out: tuple[str, ...] = ()  # what was named and is not compared, and why

    @classmethod
    def of(cls, paths: Sequence[Path], target: float | None) -> "Comparison":
        """Read runs. Without a `target`, the highest whole percent that every group's mean reaches.

        FedqError FQ203 for a directory that is not a run, FQ205 if no run has finished a round.
        """
        runs = [open_run(path) for path in paths if len(paths) == 1 or (path / "run.toml").is_file()]
        if not runs:
            raise FedqError("FQ203", "none of these is a run", where=" ".join(map(str, paths)), hint="fedq show runs")
        groups = tuple(_labelled(_grouped(runs)))
        if not groups:
            raise FedqError(
                "FQ205",
                "none of these runs has finished a round",
                where=" ".join(map(str, paths)),
                hint="fedq show runs",
            )
        reached = min(float(g.mean.accuracy.max()) for g in groups)
        left_out = [f"`{path}` is not a run" for path in paths if not (path / "run.toml").is_file()]
        left_out += [f"`{run.path}` has no finished round ({run.status})" for run in runs if not run.records()]
        return cls(groups, target if target is not None else floor(100 * reached) / 100, tuple(left_out))

    def rows(self) -> list[dict[str, Any]]:
        """One row a group: final accuracies, and rounds and bytes to the target (None where it is not reached)."""
        rows = []
        for group in self.groups:
            curve, (accuracy, spread) = group.mean, group.final
            at = curve.first(self.target)
            rows.append(
                {
                    "run": group.label,
                    "seeds": len(group.curves),
                    "accuracy": accuracy,
                    "accuracy_std": spread,
                    "deployed_accuracy": None if curve.deployed is None else float(curve.deployed[-1]),
                    "rounds": int(curve.rounds[-1]),
                    "up_bytes": float(curve.up_bytes[-1]),
                    "rounds_to_target": None if at is None else int(curve.rounds[at]),
                    "up_bytes_to_target": None if at is None else float(curve.up_bytes[at]),
                }
            )
        return rows

    def table(self) -> str:
        """The rows as text."""
        rows = self.rows()
        most = max((r["up_bytes_to_target"] or 0 for r in rows), default=0)
        goal = f"{self.target:.3g}"
        return table(
            [
                {
                    "run": r["run"],
                    "seeds": str(r["seeds"]),
                    "accuracy": share(r["accuracy"]) + (f" +- {r['accuracy_std']:.4f}" if r["seeds"] > 1 else ""),
                    "deployed": share(r["deployed_accuracy"]),
                    f"up to {goal}": size(r["up_bytes_to_target"]) if r["up_bytes_to_target"] else "not reached",
                    f"rounds to {goal}": str(r["rounds_to_target"] or "-"),
                    "of the most": f"{r['up_bytes_to_target'] / most:.1%}" if r["up_bytes_to_target"] else "-",
                }
                for r in rows
            ]
        )

    def write_csv(self, path: Path) -> Path:
        """The rows as CSV."""
        rows = self.rows()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path


def _grouped(runs: Iterable[Run]) -> list[tuple[dict[str, Any], list[Curve]]]:
    """Runs by all settings but the seed and where the data lie; of runs that repeat each other, the last."""
    found: dict[str, tuple[dict[str, Any], dict[int, Curve]]] = {}
    for run in runs:
        settings = flatten(run.config)
        config = {k: v for k, v in settings.items() if k not in APART} | {"data": str(run.about.get("data_sha256"))[:6]}
        curve = _curve(run.records())
        if curve is not None:
            _, curves = found.setdefault(json.dumps(config, sort_keys=True), (config, {}))
            curves[settings["seed"]] = curve
    return [(config, list(curves.values())) for config, curves in found.values()]


def _labelled(groups: list[tuple[dict[str, Any], list[Curve]]]) -> Iterable[Group]:
    """Groups by what they are called, and by whatever else tells them apart where that is not enough."""
    names = [_name(config) for config, _ in groups]
    for (config, curves), name in zip(groups, names, strict=True):
        twins = [c for (c, _), n in zip(groups, names, strict=True) if n == name and c is not config]
        differing = sorted({k for twin in twins for k in _differing(config, twin)})
        label = " ".join(
            [
                name,
                *(f"{k.split('.')[-1] if k[-5:] != '.name' else k[:-5]}={config.get(k, 'none')}" for k in differing),
            ]
        )
        yield Group(label, config, tuple(curves))


def _name(config: dict[str, Any]) -> str:
    """Strategy and codec; and what no comparison should hide: attacks, error feedback, who comes."""
    words = [config["strategy.name"], config["codec"]]
    words += ["with error feedback"] if config.get("error_feedback") else []
    words += [f"under {config['attack']}"] if config.get("attack") else []
    coming = config.get("participation.name", "full")
    return " ".join(words + ([coming] if coming not in ("full", "uniform") else []))


def _differing(config: dict[str, Any], twin: dict[str, Any]) -> Iterable[str]:
    """Keys whose values differ, absent ones too, unless they are settings of another client or model."""
    for key in config.keys() | twin.keys():
        part = f"{key.split('.')[0]}.name"
        own = key == part or config.get(part) == twin.get(part)
        if own and config.get(key) != twin.get(key):
            yield key


def _curve(lines: list[dict[str, Any]]) -> Curve | None:
    up = np.cumsum([m["up_bytes"] for m in lines], dtype=np.float64)
    scored = [i for i, m in enumerate(lines) if m["accuracy"] is not None]
    if not scored:
        return None
    deployed = [lines[i]["deployed_accuracy"] for i in scored]
    return Curve(
        up[scored],
        np.array([lines[i]["accuracy"] for i in scored]),
        None if None in deployed else np.array(deployed, np.float64),
        np.array([lines[i]["round"] for i in scored]),
    )
