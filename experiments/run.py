"""Run the cells of an experiment that have no result yet: python -m experiments.run fedvote_digits --data DIR.

Each finished cell is a JSON file in the experiment's `results/`: its config and hash, command, hardware, seconds,
totals and curve. Interrupted cells go on where they stopped. `--only clients=2` takes some cells; `--list` lists them
with what their results say of the last round.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from time import perf_counter, strftime
from typing import Any

from experiments.cells import Cell, cells, result

HERE = Path(__file__).parent
CURVE = ("round", "accuracy", "deployed_accuracy", "loss", "train_loss", "up_bytes", "down_bytes", "clients")


def run(folder: Path, cell: Cell, data: str, runs: Path, workers: int | None = None) -> dict[str, Any]:
    """Play a cell, or what is left of it."""
    from fedq.runs import provenance
    from fedq.simulation import begin, play, reopen
    from fedq.sweep import begun, runs_by_hash

    config = cell.config(data)
    where: dict[str, Any] = {"workers": workers, "engine": "local"} if workers else {}
    config = config.with_(**where) if where else config
    out, started = runs / folder.name / cell.name, perf_counter()
    same = begun(config, runs_by_hash(out))
    if same is None or same.about.get("status") != "done":
        directory, simulation = reopen(same.path, **where) if same else begin(config, out)
        for record in play(directory, simulation):
            if sys.stderr.isatty():
                print(f"\r{cell.name}: {record.round} of {config.top.rounds}", end="", file=sys.stderr, flush=True)
    else:
        directory = same
    values = config.as_dict()
    values["data"].pop("dir", None)
    values.pop("workers", None)
    values.pop("engine", None)
    lines = directory.records()
    due = [m for m in lines if m["accuracy"] is not None]
    return {
        "cell": cell.varied,
        "config_hash": config.hash,
        "config": values,
        "command": f"python -m experiments.run {folder.name} --cell {cell.name}",
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": provenance()["versions"],
        "date": strftime("%Y-%m-%d"),
        "seconds": round(sum(m["seconds"] for m in lines), 1),
        "seconds_this_time": round(perf_counter() - started, 1),
        "totals": {k: v for k, v in directory.totals().items() if k not in ("run_dir", "status", "strategy")},
        "curve": {k: [_short(m[k]) for m in due] for k in CURVE},
        "up_bytes": [sum(m["up_bytes"] for m in lines if m["round"] <= d["round"]) for d in due],
        "strategy": [m["strategy"] for m in due if m["strategy"]],
    }


def main(argv: list[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=sorted(grid.parent.name for grid in HERE.glob("*/grid.toml")))
    parser.add_argument("--data", default=os.environ.get("FEDQ_DATA", ""), help="folder of data sets in hub layout")
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="folder for run directories")
    parser.add_argument("--workers", type=int, help="threads that train clients; never changes a result")
    parser.add_argument("--cell", help="the name of one cell")
    parser.add_argument("--only", action="append", default=[], help="KEY=VALUE, or a part of the cell's name")
    parser.add_argument("--list", action="store_true", help="list cells, and what came of those measured")
    given = parser.parse_args(argv)
    folder = HERE / given.experiment
    for cell in cells(folder):
        if given.cell not in (None, cell.name) or not all(_matches(cell, only) for only in given.only):
            continue
        known = result(folder, cell)
        if given.list:
            print(f"done  {cell.name}  {_end(known)}" if known else f"      {cell.name}")
        elif known is None:
            found = run(folder, cell, given.data, given.runs, given.workers)
            (folder / "results").mkdir(exist_ok=True)
            (folder / "results" / f"{cell.name}.json").write_text(json.dumps(found, indent=1) + "\n")
            print(f"{cell.name}: accuracy {found['totals']['accuracy']:.4f}, {found['seconds']:.0f} s", flush=True)


def _matches(cell: Cell, only: str) -> bool:
    key, is_key, value = only.partition("=")
    return str(cell.keys.get(key)) == value if is_key else only in cell.name


def _end(known: dict[str, Any]) -> str:
    """Accuracies and epsilon after the last round, and the seconds of all rounds."""
    ends = {key: known["totals"].get(key) for key in ("accuracy", "deployed_accuracy", "epsilon")}
    return " ".join([f"{k}={x:.4f}" for k, x in ends.items() if x is not None] + [f"seconds={known['seconds']:.0f}"])


def _short(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
