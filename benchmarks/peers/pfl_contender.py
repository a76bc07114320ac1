"""pfl-research on a job of `fedq.bench.work`: python pfl_contender.py [--processes N] JOB.npz ROUNDS.

FederatedAveraging over SimulatedBackend, as its guides have it: users are tensors made once, each worker process has
one torch thread. It cuts a user's batches once and never shuffles them. Nothing is evaluated. More processes meet
through PFL_WORKER_ADDRESSES and PFL_WORKER_RANK; each plays its share of a round's users.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.update(PFL_PYTORCH_DEVICE="cpu", CUDA_VISIBLE_DEVICES="")  # all contenders compute on the CPU

import numpy as np
import torch
from torch import nn


def network(name: str) -> nn.Sequential:
    """The MLP 64-32-10, or LeNet-5 with 61,706 weights."""
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Classifier(nn.Module):
    """A network with the two functions that pfl asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The mean of a batch."""
        return nn.functional.cross_entropy(self.inner(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        """Nothing: pfl calls it in its first round, and no contender evaluates."""
        return {}


def ends(file: Path, rounds: int) -> list[float]:
    """When each round ended: its users' differences averaged and added to the model."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Clock(TrainingProcessCallback):
        def after_central_iteration(self, *args: Any, **kwargs: Any) -> tuple[bool, Any]:
            found.append(time.time())
            return False, Metrics()

    found: list[float] = []
    torch.set_num_threads(1)
    torch.manual_seed(0)  # every process starts from the same model and draws the same users
    np.random.seed(0)
    with np.load(file) as job:
        x, y = torch.from_numpy(job["x"]), torch.from_numpy(job["y"])
        numbers = {name: job[name].item() for name in job.files if name not in ("x", "y")}
    users = [PyTorchTensorDataset((x[k], y[k]), user_id=str(k)) for k in range(len(x))]
    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", range(len(users))))
    module = Classifier(network(numbers["model"]))
    FederatedAveraging().run(
        NNAlgorithmParams(rounds, rounds, train_cohort_size=numbers["per_round"], val_cohort_size=0),
        SimulatedBackend(training_data=data, val_data=data),
        PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0)),
        NNTrainHyperParams(
            local_batch_size=numbers["batch"], local_num_epochs=None, local_learning_rate=numbers["lr"],
            local_num_steps=numbers["steps"],
        ),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )  # fmt: skip
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def main() -> None:
    """Play the job, as the first of `--processes`; the others are this program again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("file", type=Path)
    parser.add_argument("rounds", type=int)
    given, others = parser.parse_args(), []
    if given.processes > 1 and "PFL_WORKER_RANK" not in os.environ:
        os.environ["PFL_WORKER_ADDRESSES"] = ",".join(f"localhost:{free_port()}" for _ in range(given.processes))
        for rank in range(1, given.processes):
            environment = os.environ | {"PFL_WORKER_RANK": str(rank)}
            others.append(subprocess.Popen([sys.executable, *sys.argv], env=environment, stdout=subprocess.DEVNULL))
        os.environ["PFL_WORKER_RANK"] = "0"
    print(json.dumps({"ends": ends(given.file, given.rounds)}))
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
