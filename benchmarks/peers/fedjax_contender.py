"""FedJAX on a job of `fedq.bench.work`: python fedjax_contender.py JOB.npz ROUNDS.

Its own fed_avg over its jit backend, Haiku networks, data in memory. XLA keeps the threads it takes by itself. A round
ends when its weights are there (JAX computes behind the caller's back). Nothing is evaluated.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # all contenders compute on the CPU

import fedjax
import haiku as hk
import jax
import numpy as np


def network(name: str) -> hk.Sequential:
    """The MLP 64-32-10, or LeNet-5 with 61,706 weights."""
    if name == "mlp":
        return hk.Sequential([hk.Flatten(), hk.Linear(32), jax.nn.relu, hk.Linear(10)])
    return hk.Sequential([
        hk.Conv2D(6, 5, padding="SAME"), jax.nn.relu, hk.MaxPool(2, 2, "VALID"),
        hk.Conv2D(16, 5, padding="VALID"), jax.nn.relu, hk.MaxPool(2, 2, "VALID"),
        hk.Flatten(), hk.Linear(120), jax.nn.relu, hk.Linear(84), jax.nn.relu, hk.Linear(10),
    ])  # fmt: skip


def ends(file: Path, rounds: int) -> Iterator[float]:
    """When each round ended."""
    with np.load(file) as job:
        x = np.moveaxis(job["x"], 2, -1)  # Haiku's images have their channels last
        y = job["y"].astype(np.int32)
        numbers: dict[str, Any] = {name: job[name].item() for name in job.files if name not in ("x", "y")}
    data = fedjax.InMemoryFederatedData({k: {"x": x[k], "y": y[k]} for k in range(len(x))})
    model = fedjax.create_model_from_haiku(
        hk.transform(lambda batch: network(numbers["model"])(batch["x"])),
        {"x": x[0, :1], "y": y[0, :1]},
        lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], logits),
    )
    fedjax.set_for_each_client_backend("jit")
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(numbers["lr"]),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=numbers["batch"], num_epochs=None, num_steps=numbers["steps"]),
    )
    sampler = fedjax.client_samplers.UniformGetClientSampler(data, numbers["per_round"], seed=0)
    state = algorithm.init(model.init(jax.random.PRNGKey(0)))
    for _ in range(rounds):
        state, _ = algorithm.apply(state, sampler.sample())
        jax.block_until_ready(state.params)
        yield time.time()


if __name__ == "__main__":
    print(json.dumps({"ends": list(ends(Path(sys.argv[1]), int(sys.argv[2])))}))
