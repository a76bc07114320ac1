"""Several runs side by side: what accuracy each reached, and what it took to get there."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import floor
from pathlib import Path
from typing import Any, TypeAlias, final

from fedq.errors import FedqError
from fedq.finding import matching, opened
from fedq.report.curves import Curve, Group
from fedq.report.tables import table, to_csv, to_latex, writing
from fedq.report.units import duration, share, size
from fedq.runs import Run
from fedq.settings import flatten

APART = ("seed", "data.dir", "workers", "engine", "ray_address")  # settings that may differ within a group
MANY = 3  # of runs that an error names
TASK = ("data", "model", "clients")  # what runs must share to be compared, with the seeds
Found: TypeAlias = tuple[dict[str, Any], dict[int, Curve], tuple[Run, ...]]  # settings, a curve a seed, the runs
TOLD = ("per_round", "participation", "downlink", "client.local_steps", "client.local_epochs", "client.batch_size")


def compare(*runs: Run | str | Path, target: float | None = None, anyway: bool = False) -> "Comparison":
    """Compare runs, given as such, as directories or as patterns (`"runs/*"`); see `Comparison.of`.

    A notebook shows the comparison as a picture and a table.
    """
    return Comparison.of(matching(runs), target, anyway=anyway)


@final
@dataclass(frozen=True)
class Comparison:
    """Groups of runs, and the accuracy at which what they took is compared."""

    groups: tuple[Group, ...]
    target: float
    notes: tuple[str, ...] = ()  # what was left out or taken together, and why

    @classmethod
    def of(cls, paths: Sequence[Path], target: float | None = None, *, anyway: bool = False) -> "Comparison":
        """Read runs. A folder of runs stands for those directly in it, where no run is named beside it.

        Without a `target`, the highest whole percent that every group's mean reaches. FedqError FQ203 where there is
        no run, FQ205 if none has an evaluated round, FQ107 if they differ in data, model, clients or seeds, unless
        `anyway`.
        """
        runs, notes = opened(paths)
        groups = tuple(_labelled(_grouped(runs, notes)))
        if not groups:
            where = " ".join(map(str, paths))
            raise FedqError("FQ205", "none of these runs has finished a round", where=where, hint="fedq show runs")
        if not anyway:
            _refuse_unlike(groups)
        reached = min(float(g.mean.accuracy.max()) for g in groups)
        return cls(groups, target if target is not None else floor(100 * reached + 1e-9) / 100, tuple(notes))

    def rows(self) -> list[dict[str, Any]]:
        """One row a group: final accuracies, and what it took to the end and to the target (None if not reached)."""
        rows = []
        for group in self.groups:
            curve, (accuracy, spread) = group.mean, group.final
            at = curve.first(self.target)
            rows.append(
                {
                    "run": group.label,
                    "seeds": len(group.by_seed),
                    "accuracy": accuracy,
                    "accuracy_std": spread,
                    "deployed_accuracy": None if curve.deployed is None else float(curve.deployed[-1]),
                    "rounds": int(curve.rounds[-1]),
                    "up_bytes": float(curve.up_bytes[-1]),
                    "total_bytes": float(curve.total_bytes[-1]),
                    "seconds": float(curve.seconds[-1]),
                    "rounds_to_target": None if at is None else int(curve.rounds[at]),
                    "up_bytes_to_target": None if at is None else float(curve.up_bytes[at]),
                    "total_bytes_to_target": None if at is None else float(curve.total_bytes[at]),
                    "seconds_to_target": None if at is None else float(curve.seconds[at]),
                }
            )
        return rows

    def shown(self) -> list[dict[str, str]]:
        """The rows as people read them."""
        rows = self.rows()
        most = max((r["up_bytes_to_target"] or 0 for r in rows), default=0)
        goal = f"{self.target:.3g}"
        return [
            {
                "run": r["run"],
                "seeds": str(r["seeds"]),
                "accuracy": share(r["accuracy"]) + (f" +- {r['accuracy_std']:.4f}" if r["accuracy_std"] else ""),
                "deployed": share(r["deployed_accuracy"]),
                f"up to {goal}": size(r["up_bytes_to_target"]) if r["rounds_to_target"] else "not reached",
                "of the most": f"{r['up_bytes_to_target'] / most:.1%}" if r["rounds_to_target"] else "-",
                "up and down": size(r["total_bytes_to_target"]) if r["rounds_to_target"] else "-",
                "rounds": str(r["rounds_to_target"] or "-"),
                "time": duration(r["seconds_to_target"]) if r["rounds_to_target"] else "-",
            }
            for r in rows
        ]

    def table(self) -> str:
        """The rows as text."""
        return table(self.shown())

    def _repr_html_(self) -> str:
        """What a notebook shows: accuracy against uploaded bytes, the table, the notes."""
        from fedq.report.html import shown

        return shown(self)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {"target": self.target, "rows": self.rows(), "notes": list(self.notes)}

    def write(self, out: Path) -> list[Path]:
        """table.csv, table.tex and table.json in `out`. FedqError FQ206 if they cannot be written."""
        texts = {
            "table.csv": to_csv(self.rows()),
            "table.tex": to_latex(self.shown()),
            "table.json": json.dumps(self.as_dict(), indent=1) + "\n",
        }
        with writing(out):
            for name, text in texts.items():
                (out / name).write_text(text, encoding="utf-8")
        return [out / name for name in texts]


@dataclass
class _Seed:
    """The runs of one seed of a group, and their curves."""

    runs: list[Run] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def curve(self, notes: list[str]) -> Curve:
        """The mean of those that went furthest."""
        furthest = max(c.rounds[-1] for c in self.curves)
        kept = [c for c in self.curves if c.rounds[-1] == furthest]
        for run, c in zip(self.runs, self.curves, strict=True):
            if c.rounds[-1] < furthest:
                ended = f"{run.status} after {c.rounds[-1]:.0f} rounds"
                notes.append(f"`{run.path}` ({ended}) was left out: a repeat goes further")
        if len(kept) > 1:
            names = ", ".join(f"`{r.path}`" for r, c in zip(self.runs, self.curves, strict=True) if c in kept)
            notes.append(f"{names} repeat each other: their mean counts as one seed")
        return Curve.mean(kept)


def _grouped(runs: Iterable[Run], notes: list[str]) -> list[Found]:
    """Runs by all settings but the seed and where things happen; one curve a seed."""
    found: dict[str, tuple[dict[str, Any], dict[int, _Seed]]] = {}
    for run in runs:
        settings = flatten(run.config)
        config = {k: v for k, v in settings.items() if k not in APART}
        config["data"] = str(run.about.get("data_sha256"))[:6]
        curve = Curve.of(run.records())
        if curve is None:
            notes.append(f"`{run.path}` has no evaluated round ({run.status}) and was left out")
            continue
        _, seeds = found.setdefault(json.dumps(config, sort_keys=True), (config, {}))
        seed = seeds.setdefault(settings["seed"], _Seed())
        seed.runs.append(run)
        seed.curves.append(curve)
    groups = []
    for config, seeds in found.values():
        by_seed = {number: seed.curve(notes) for number, seed in sorted(seeds.items())}
        ends = {number: curve.rounds[-1] for number, curve in by_seed.items()}
        if len(set(ends.values())) > 1:
            least = min(ends, key=lambda number: ends[number])
            notes.append(f"{_name(config)}: the mean over seeds ends at round {ends[least]:.0f}, as seed {least} does")
        runs_ = tuple(run for seed in seeds.values() for run in seed.runs)
        groups.append((config, by_seed, runs_))
    return groups


def _refuse_unlike(groups: Sequence[Group]) -> None:
    """FedqError FQ107 if groups differ in their task or in their seeds, naming the keys and who has which value."""
    shown: dict[str, dict[str, list[str]]] = {}
    for key in sorted({k for g in groups for k in g.config if _of(k, TASK)}):
        for group in groups:
            shown.setdefault(key, {}).setdefault(str(group.config.get(key, "none")), []).append(group.label)
    for group in groups:
        seeds = ", ".join(map(str, group.by_seed))
        shown.setdefault("seed", {}).setdefault(seeds, []).append(group.label)
    unlike = {key: values for key, values in shown.items() if len(values) > 1}
    if "data.name" in unlike:
        unlike.pop("data", None)  # other bytes go without saying
    if not unlike:
        return
    lines = [
        f"{'the data themselves' if key == 'data' else key} = "
        + "; ".join(f"{value} ({', '.join(_some(labels))})" for value, labels in values.items())
        for key, values in unlike.items()
    ]
    raise FedqError(
        "FQ107",
        f"these runs are unlike in {', '.join(f'`{key}`' for key in unlike)}",
        where="\n      ".join(lines),
        hint="name runs of one task and the same seeds, or add --anyway",
    )


def _some(labels: Sequence[str]) -> list[str]:
    """The first few of those, and how many there are besides."""
    each = list(dict.fromkeys(labels))
    return each if len(each) <= MANY else [*each[: MANY - 1], f"{len(each) - MANY + 1} more"]


def _labelled(groups: list[Found]) -> Iterable[Group]:
    """Groups by what they are called, with every setting that should not be hidden or that alone tells them apart."""
    configs = [config for config, _, _ in groups]
    names = [_name(config) for config in configs]
    for (config, curves, runs), name in zip(groups, names, strict=True):
        twins = [c for c, n in zip(configs, names, strict=True) if n == name and c is not config]
        apart = {k for twin in twins for k in _differing(config, twin)}
        apart |= {k for other in configs for k in _telling(config, other)}
        told = [_told(k, config) for k in sorted(apart)]
        yield Group(" ".join([name, *filter(None, told)]), config, curves, runs)


def _of(key: str, keys: Sequence[str]) -> bool:
    return any(key == k or key.startswith(f"{k}.") for k in keys)


def _telling(config: dict[str, Any], other: dict[str, Any]) -> Iterable[str]:
    """Keys that both groups' labels must tell, as they differ; the participation's name is in both already."""
    for key in config.keys() | other.keys():
        if _of(key, (*TASK, *TOLD)) and key not in ("data", "participation.name") and config.get(key) != other.get(key):
            yield key


def _told(key: str, config: dict[str, Any]) -> str:
    short = key.removesuffix(".name") if key.endswith(".name") else key.rsplit(".", 1)[-1]
    if key in config:
        return f"{short}={config[key]}"
    if key == "per_round":
        return "per_round=all"
    return "" if _of(key, TOLD) else f"{short}=none"


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
