"""The contract of private algorithms, whose clients draw batches in secret and keep a ledger, and its checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedq.errors import FedqError
from fedq.models.network import Blueprint, Network
from fedq.options import Options
from fedq.privacy.ledger import Ledger
from fedq.rng import rng


@dataclass(frozen=True)
class Own:
    """One client in one round: its examples, its place, what the server told. Shapes: B examples, D weights."""

    examples: int
    taken: Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]  # indices -> x [B, ...], y [B]
    place: tuple[int, int]  # round and partition
    told: Mapping[str, Any]
    previous: Tensor | None = None  # [D], the weights of the round before, where the strategy sends them


@runtime_checkable
class Private(Protocol):
    """A local algorithm that draws its own batches, in secret, and enters what it releases in a ledger."""

    returns: Literal["weights", "gradient"]

    def __init__(self, options: Options) -> None: ...

    def release(self, network: Network, w_D: Tensor, own: Own, ledger: Ledger) -> tuple[Tensor, float, Ledger]:
        """From weights [D] to new weights, or a gradient, [D], the mean training loss, and the ledger after it.

        FedqError FQ301, with nothing released, where that would cost more than the client may spend.
        """

    def check(self, examples: int, rounds: int) -> None:
        """FedqError FQ105 if a client with so many examples cannot keep its promise in so many rounds."""

    def promise(self) -> str:
        """What is promised in words, for run.json and the screen: budget, adjacency, sampling, and what is not."""


def check_promise(algorithm: Private, model: str, blueprint: Blueprint, sizes: set[int], rounds: int) -> None:
    """FedqError FQ105 if gradients are not one example's alone, or clients of these sizes cannot keep the promise."""
    if blueprint.normalised():
        raise FedqError(
            "FQ105",
            f"`{model}` has batch norm, which mixes examples: no gradient is one example's alone",
            key="model.name",
            hint="--set model.norm=none where the model has that, or another --model",
        )
    for size in {min(sizes - {0}), max(sizes)}:  # the smallest draws the largest share, the largest wants a small delta
        algorithm.check(size, rounds)


def check_private(name: str, kind: Any, **settings: Any) -> None:
    """For `fedq.testing`: secret noise, a ledger that grows, arguments untouched. AssertionError if not."""
    from fedq.models.mlp import Mlp

    blueprint = Blueprint("mlp", Mlp.Options(hidden=(8,), norm="none"), (1, 4, 4), 3, 0)
    drawn = blueprint.initial_weights()
    network = Network(blueprint, drawn, list(drawn))
    x, y = torch.from_numpy(rng(0, "x").standard_normal((40, 1, 4, 4), np.float32)), torch.arange(40) % 3
    w = network.flatten(drawn)
    before = w.clone()

    def released(ledger: Ledger, **changes: Any) -> tuple[Tensor, float, Ledger]:
        made = {"local_steps": 1, "batch_size": 8, "noise": 1.0, "clip": 0.1, "lr": 0.5, **settings, **changes}
        told = {"rounds": 1, "every": 1}
        own = Own(40, lambda i: (x[torch.from_numpy(i)], y[torch.from_numpy(i)]), (1, 0), told)
        found: tuple[Tensor, float, Ledger] = kind(kind.Options(**made)).release(network, w, own, ledger)
        return found

    (one, loss, ledger), (two, _, _) = released(Ledger()), released(Ledger())
    assert torch.equal(w, before), f"{name}: writes to the weights it is given"
    assert one.shape == w.shape, f"{name}: returns shape {tuple(one.shape)}"
    assert np.isfinite(loss), f"{name}: loss {loss}"
    assert not torch.equal(one, two), f"{name}: its noise repeats"
    seeded = [released(Ledger(), noise_seed=3) for _ in range(2)]
    assert torch.equal(seeded[0][0], seeded[1][0]), f"{name}: seeded noise does not repeat"
    assert seeded[0][2].epsilon(1e-5) == inf, f"{name}: noise that repeats has an epsilon"
    first, second = ledger.epsilon(1e-5), released(ledger)[2].epsilon(1e-5)
    assert 0 < first < second < inf, f"{name}: epsilon {first}, then {second}"
