"""Runs for other tools: one long table (CSV, Parquet), TensorBoard's event files, MLflow's data base."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fedq.errors import FedqError
from fedq.report.frames import names_of, table_of
from fedq.report.tables import writing
from fedq.runs import Run
from fedq.settings import flatten

SCALARS = (int, float)


def csv(runs: Sequence[Run], out: Path) -> Path:
    """A line a round of every run; what a strategy shows is JSON."""
    with writing(out.parent):
        _flat(runs).to_csv(out, index=False)
    return out


def parquet(runs: Sequence[Run], out: Path) -> Path:
    """The same as Parquet. FedqError FQ206 where no library writes it."""
    _needs("pyarrow", "pip install pyarrow")
    with writing(out.parent):
        _flat(runs).to_parquet(out, index=False)
    return out


def tensorboard(runs: Sequence[Run], out: Path) -> Path:
    """A folder of event files: a run each, a scalar each number of a round, at the round's number."""
    _needs("tensorboardX", 'pip install "fedq[track]"')
    from tensorboardX import SummaryWriter

    with writing(out):
        for run, name in zip(runs, names_of(runs), strict=True):
            with SummaryWriter(str(out / name)) as writer:
                writer.add_text("run.toml", f"```\n{(run.path / 'run.toml').read_text()}```")
                for m in run.records():
                    for what, value in _numbers(m):
                        writer.add_scalar(what, value, m["round"])
    return out


def mlflow(runs: Sequence[Run], out: Path) -> Path:
    """An SQLite data base, experiment `fedq`: settings are parameters, numbers of a round metrics at its step."""
    _needs("mlflow", 'pip install "fedq[track]"')
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    with writing(out.parent):
        client = MlflowClient(f"sqlite:///{out}")
        found = client.get_experiment_by_name("fedq")
        artifacts = (out.parent / "mlartifacts").absolute().as_uri()
        experiment = found.experiment_id if found else client.create_experiment("fedq", artifact_location=artifacts)
        for run, name in zip(runs, names_of(runs), strict=True):
            made = client.create_run(experiment, run_name=name).info.run_id
            params = [Param(k, str(v)[:500]) for k, v in flatten(run.config).items()]
            client.log_batch(made, params=params)
            now = datetime.fromisoformat(run.about["started"]).timestamp()
            for m in run.records():
                now += m["seconds"]
                client.log_batch(made, metrics=[Metric(k, v, int(1000 * now), m["round"]) for k, v in _numbers(m)])
            client.set_terminated(made, "FINISHED" if run.status == "done" else "FAILED")
    return out


EXPORTS: dict[str, tuple[Callable[[Sequence[Run], Path], Path], str]] = {
    "csv": (csv, "runs.csv"),
    "parquet": (parquet, "runs.parquet"),
    "tensorboard": (tensorboard, "tensorboard"),
    "mlflow": (mlflow, "mlflow.db"),
}


def _flat(runs: Sequence[Run]) -> Any:
    table = table_of(runs)
    table["strategy_shows"] = [json.dumps(shown) for shown in table["strategy_shows"]]
    return table


def _numbers(line: dict[str, Any]) -> Iterable[tuple[str, float]]:
    """The numbers of a line of metrics.jsonl; those of each client by its number."""
    shown = {f"strategy.{k}": v for k, v in flatten(line["strategy"]).items()}
    named = {k: v for k, v in line.items() if k not in ("round", "strategy")} | shown
    return ((k, float(v)) for k, v in named.items() if isinstance(v, SCALARS) and not isinstance(v, bool))


def _needs(package: str, command: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise FedqError("FQ206", f"`{package}` is not installed", where="fedq export", hint=command)
