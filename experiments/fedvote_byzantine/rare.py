"""What `plausible` costs honest clients with rare labels: python -m experiments.fedvote_byzantine.rare.

No attack. Clients are ranked by how skewed their labels are (total variation from equal shares); labels by how few
clients hold them (effective number: 1 / sum of squared shares). Prints one JSON object.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.settings import flatten

HERE = Path(__file__).parent
ALPHAS = (0.5, 0.1)
RULES = ("uniform", "filtered", "plausible")


def measured(rule: str, alpha: float, seed: int) -> dict[str, float]:
    """How often skewed clients are dropped, and the accuracy on labels that few hold."""
    base = flatten(tomllib.loads((HERE / "grid.toml").read_text())["base"])
    simulation = build(
        make_config(
            {
                **base,
                "seed": seed,
                "strategy.weighting": rule,
                "evaluate.every": 20,
                "data.partition": f"dirichlet:{alpha}",
            }
        )
    )
    y, shards = simulation.data.train.y, simulation.trainer._shards
    labels_KC = np.stack([np.bincount(y[shards.training(k)], minlength=10) for k in range(base["clients"])])
    skew = np.abs(labels_KC / labels_KC.sum(1, keepdims=True) - 0.1).sum(1) / 2
    spread = (labels_KC / labels_KC.sum(0)) ** 2
    rare = np.argsort(1 / spread.sum(0))[:3]
    dropped = np.zeros(base["clients"])
    for record in simulation.rounds(simulation.initial, 1, base["rounds"]):
        weight = record.strategy.get("weight", {})
        dropped += [weight.get(str(k), 1) == 0 for k in range(base["clients"])]
    dropped /= base["rounds"]
    order, test = np.argsort(-skew), simulation.data.test
    right = guesses(simulation, records.to_arrays(record.arrays)) == test.y
    few = np.isin(test.y, rare)
    return {
        "dropped, most skewed quarter": float(dropped[order[:8]].mean()),
        "dropped, others": float(dropped[order[8:]].mean()),
        "accuracy on the 3 labels held by fewest": float(right[few].mean()),
        "accuracy on the other labels": float(right[~few].mean()),
    }


def guesses(simulation: Simulation, weights: Arrays) -> np.ndarray:
    """The label that the model gives each test example; batches are those of every evaluation."""
    logits: list[np.ndarray] = []
    with simulation.trainer._network(weights) as network:
        x, y = simulation.trainer._shards.inputs.tensors(simulation.data.test)
        hook = network.module.register_forward_hook(lambda _, __, out: logits.append(out.detach().numpy().copy()))
        batch = simulation.config.top.evaluate.batch_size
        network.evaluate(network.flatten(weights), simulation.trainer._shards.inputs.testing(x), y, batch)
        hook.remove()
    return np.concatenate(logits).argmax(1)


def main() -> dict[str, Any]:
    """Means of three seeds, by Dirichlet parameter and rule."""

    def mean(rule: str, alpha: float) -> dict[str, float]:
        every = [measured(rule, alpha, seed) for seed in range(3)]
        return {k: round(float(np.mean([m[k] for m in every])), 4) for k in every[0]}

    return {f"dirichlet:{alpha}": {rule: mean(rule, alpha) for rule in RULES} for alpha in ALPHAS}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
