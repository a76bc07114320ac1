"""Contenders of `fedq bench simulation` in fedq's own environment: python -m fedq.bench.contenders NAME FILE ROUNDS.

`fedq*` are whole rounds of fedq: messages, ledger, packing, aggregation and a line of metrics.jsonl; no evaluation and
no checkpoints. `loop` is the plain loop that a person would write, `two loops` are two of them in two processes,
`flower` stock Flower simulation with its own FedAvg.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

Numbers = dict[str, Any]


def fedq(file: Path, rounds: int, **settings: Any) -> Iterator[float]:
    """Rounds of fedq, as `settings` say; as many threads as the others have processes, where threads pay."""
    from itertools import islice

    from fedq.bench.work import JOBS
    from fedq.build import build
    from fedq.config import make_config
    from fedq.data import DATA

    job = JOBS[file.stem]
    with tempfile.TemporaryDirectory() as room:
        (folder := Path(room) / job.name).mkdir()
        given = {
            "data.name": "noise", "data.dir": str(folder), "data.partition": "iid", "model.name": job.model,
            "clients": job.clients, "per_round": job.per_round, "rounds": rounds + 1, "evaluate.every": rounds + 1,
            "client.local_steps": job.steps, "client.batch_size": job.batch, "client.lr": job.lr,
            **({"model.hidden": [32], "model.norm": "none"} if job.model == "mlp" else {}),
        }  # fmt: skip
        where = {"engine": "local", "workers": 2 if job.model == "lenet5" else 1, **settings}
        DATA["noise"] = "fedq.bench.work:job_data"
        try:
            simulation = build(make_config(given, **where))
        finally:
            del DATA["noise"]
        simulation.open()
        with closing(simulation), (Path(room) / "metrics.jsonl").open("w", encoding="utf-8") as lines:
            for record in islice(simulation.rounds(simulation.initial, 1, rounds + 1), rounds):
                lines.write(json.dumps(record.metrics()) + "\n")
                lines.flush()
                yield time.time()


def loop(file: Path, rounds: int) -> Iterator[float]:
    """Local SGD with torch.optim, and the mean of state dicts."""
    import torch

    torch.set_num_threads(1)
    job, network = _job(file), _network(_job(file)["model"])
    x, y = torch.from_numpy(job["x"]), torch.from_numpy(job["y"])
    world, choose = {n: w.clone() for n, w in network.state_dict().items()}, np.random.default_rng(0)
    for _ in range(rounds):
        total = {n: torch.zeros_like(w) for n, w in world.items()}
        for k in choose.permutation(len(x))[: job["per_round"]].tolist():
            network.load_state_dict(world)
            _trained(network, x[k], y[k], job)
            for n, w in network.state_dict().items():
                total[n] += w
        world = {n: w / job["per_round"] for n, w in total.items()}
        yield time.time()


def loops(file: Path, rounds: int) -> Iterator[float]:
    """Two processes, each with half of a round's clients, which meet at the end of the round."""
    import multiprocessing

    processes = multiprocessing.get_context("spawn")
    pipes = [processes.Pipe() for _ in range(2)]
    workers = [processes.Process(target=_half, args=(file, rounds, theirs), daemon=True) for _, theirs in pipes]
    for worker in workers:
        worker.start()
    world = {n: w.numpy() for n, w in _network(_job(file)["model"]).state_dict().items()}
    for _ in range(rounds):
        for mine, _ in pipes:
            mine.send(world)
        halves = [mine.recv() for mine, _ in pipes]
        world = {n: (halves[0][n] + halves[1][n]) / 2 for n in world}
        yield time.time()
    for worker in workers:
        worker.join()


def _half(file: Path, rounds: int, pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    job, choose = _job(file), np.random.default_rng(os.getpid())
    network, x, y = _network(job["model"]), torch.from_numpy(job["x"]), torch.from_numpy(job["y"])
    for _ in range(rounds):
        world = {n: torch.from_numpy(w) for n, w in pipe.recv().items()}
        total = {n: torch.zeros_like(w) for n, w in world.items()}
        for k in choose.permutation(len(x))[: job["per_round"] // 2].tolist():
            network.load_state_dict(world)
            _trained(network, x[k], y[k], job)
            for n, w in network.state_dict().items():
                total[n] += w
        pipe.send({n: (w / (job["per_round"] // 2)).numpy() for n, w in total.items()})


def flower(file: Path, rounds: int) -> Iterator[float]:
    """Stock simulation on Ray with two actors; a round ends when FedAvg has aggregated."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    job, client, server, ends = _job(file), ClientApp(), ServerApp(), list[float]()

    class Told(FedAvg):
        def aggregate_train(self, *args: Any, **kwargs: Any) -> Any:
            found = super().aggregate_train(*args, **kwargs)
            ends.append(time.time())
            return found

    @client.train()
    def train(message: Message, context: Context) -> Message:
        import torch

        torch.set_num_threads(1)
        job, k = _job(file), int(context.node_config["partition-id"])
        network = _network(job["model"])
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
        _trained(network, torch.from_numpy(job["x"][k]), torch.from_numpy(job["y"][k]), job)
        metrics = MetricRecord({"num-examples": len(job["y"][k])})
        content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Told(fraction_train=job["per_round"] / len(job["x"]), fraction_evaluate=0.0)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(_network(job["model"]).state_dict()), num_rounds=rounds)

    backend: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, client, num_supernodes=len(job["x"]), backend_config=backend)
    yield from ends


def _trained(network: Any, x: Any, y: Any, job: Numbers) -> None:
    """One client's local steps, in place: batches of a fresh permutation."""
    import torch

    sgd = torch.optim.SGD(network.parameters(), lr=job["lr"])
    for at in torch.randperm(len(x))[: job["steps"] * job["batch"]].view(-1, job["batch"]):
        sgd.zero_grad()
        loss: Any = torch.nn.functional.cross_entropy(network(x[at]), y[at])
        loss.backward()
        sgd.step()


@cache
def _job(file: Path) -> Numbers:
    """The job's arrays and numbers."""
    with np.load(file) as found:
        return {name: value if value.ndim else value.item() for name, value in found.items()}


def _network(model: str) -> Any:
    """Fedq's own module of that name, so that all contenders train the same weights."""
    from fedq.models import model as named

    shape = (1, 8, 8) if model == "mlp" else (1, 28, 28)
    options = named(model).Options(**({"hidden": (32,), "norm": "none"} if model == "mlp" else {}))
    return named(model)(shape, 10, options)


CONTENDERS: dict[str, Callable[[Path, int], Iterator[float]]] = {
    "fedq": partial(fedq, strategy="fedavg"),
    "fedq ray": partial(fedq, strategy="fedavg", engine="ray", workers=2),
    "fedq binary": partial(fedq, strategy="fedavg", codec="binary"),
    "fedq fedvote": partial(fedq, strategy="fedvote"),
    "flower": flower,
    "loop": loop,
    "two loops": loops,
}


if __name__ == "__main__":
    name, path, n = sys.argv[1:]
    print(json.dumps({"ends": list(CONTENDERS[name](Path(path), int(n)))}))
