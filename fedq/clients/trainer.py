"""What a worker holds to play any client: the data of all partitions, the local algorithm, and networks to train.

One trainer serves every simulated client of a process (a deployed client is the case of one partition). Several threads
may train at once, each with a network of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from queue import Empty, LifoQueue
from threading import Event
from types import MappingProxyType
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from fedq.clients.local import Batches, LocalAlgorithm, Remembering, TrainOptions
from fedq.data import Dataset, Examples, Inputs
from fedq.errors import FedqError
from fedq.kernels import active as kernels
from fedq.kernels.records import Arrays
from fedq.models.network import Blueprint, Network
from fedq.rng import rng

Sends = Literal["weights", "updates", "gradient"]


class Abandoned(Exception):  # noqa: N818 - not an error
    """Training was given up because nobody waits for it any more."""


@dataclass(frozen=True)
class Trained:
    """What one client made of a round: named arrays to send, examples it holds, mean loss of its local steps.

    `memory` is what a remembering algorithm wants back in the client's next round, empty for others.
    """

    arrays: dict[str, NDArray[np.float32]]
    examples: int
    loss: float
    memory: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Shards:
    """Which training examples each partition holds; a share of each may be kept from training, to evaluate on."""

    inputs: Inputs
    indices: Sequence[NDArray[np.int64]]
    kept: float
    seed: int
    poison: Callable[[int, Examples], Examples] | None = None  # what an attack on data makes of a partition's

    @property
    def data(self) -> Dataset:
        """The data set that is shared."""
        return self.inputs.data

    def training(self, partition: int) -> NDArray[np.int64]:
        """Where the examples stand that `partition` trains on."""
        own, n = self._own(partition)
        return own[n:]

    def taken(self, partition: int, indices: NDArray[np.int64]) -> Examples:
        """The training examples at `indices`, as `partition` sees them."""
        examples = self.data.train.take(indices)
        return self.poison(partition, examples) if self.poison else examples

    def evaluation(self, partition: int) -> Examples:
        """The examples that `partition` evaluates on, none if nothing is kept."""
        own, n = self._own(partition)
        return self.data.train.take(own[:n])

    def _own(self, partition: int) -> tuple[NDArray[np.int64], int]:
        own = self.indices[partition]
        n = round(self.kept * len(own))
        n = n if 2 <= n < len(own) else 0  # batch norm needs two examples
        return (rng(self.seed, "keep", partition).permutation(own) if n else own), n


@final
class Trainer:
    """Trains and evaluates clients. All randomness is a function of (seed, round, partition)."""

    def __init__(
        self,
        blueprint: Blueprint,
        shards: Shards,
        algorithm: LocalAlgorithm | Remembering,
        options: TrainOptions,
        *,
        sends: Sends,
        evaluation_batch: int,
    ) -> None:
        self._blueprint, self._shards, self._algorithm, self._options = (
            blueprint,
            shards,
            algorithm,
            options,
        )
        self._sends, self._evaluation_batch = sends, evaluation_batch
        self._initial = blueprint.initial_weights()
        self._idle: dict[tuple[str, ...], LifoQueue[Network]] = {}
        self.stop = Event()  # set while training is to be abandoned

    def train(
        self,
        weights: Arrays,
        round_: int,
        partition: int,
        memory: Arrays | None = None,
        told: Mapping[str, Any] = MappingProxyType({}),
    ) -> Trained:
        """Train the client of `partition` from the named global `weights`, and what it kept from its last round.

        `told` is what the round's message tells clients, such as FedProx's `proximal-mu`.
        """
        own = self._shards.training(partition)
        options = self._options.at(round_, told)
        algorithm = self._algorithm if options is self._options else type(self._algorithm)(options)
        with self._network(weights) as network:
            start_D = network.flatten(weights)
            batches = self._batches(own, options, round_, partition)
            network.rekey_(self._shards.seed, round_, partition)
            kept: dict[str, NDArray[np.float32]] = {}
            if isinstance(algorithm, Remembering):
                was_D = network.flatten(memory) if memory else torch.zeros_like(start_D)
                end_KD, loss_K, kept_KD = algorithm.train_on(network, start_D[None], was_D[None], batches)
                kept = network.unflatten(kept_KD[0])
            else:
                end_KD, loss_K = algorithm.train(network, start_D[None], batches)
            sent_D = end_KD[0] - start_D if self._sends == "updates" else end_KD[0]
            if not (isfinite(loss_K[0]) and isfinite(kernels.largest(sent_D.numpy()))):
                raise FedqError("FQ301", "training diverged to NaN or infinity; lower --lr")
            return Trained(network.unflatten(sent_D), len(own), float(loss_K[0]), kept)

    def evaluate(self, weights: Arrays, partition: int) -> tuple[float, float, int]:
        """Loss, accuracy and number of the examples that `partition` keeps for evaluation."""
        examples = self._shards.evaluation(partition)
        if not len(examples):
            return 0.0, 0.0, 0
        return *self.score(weights, examples), len(examples)

    def score(self, weights: Arrays, examples: Examples) -> tuple[float, float]:
        """Mean loss and accuracy of the network with these weights (others as drawn) on any examples."""
        with self._network(weights) as network:
            x, y = self._shards.inputs.tensors(examples)
            x = self._shards.inputs.testing(x)
            return network.evaluate(network.flatten(weights), x, y, self._evaluation_batch)

    def _batches(self, own: NDArray[np.int64], o: TrainOptions, round_: int, partition: int) -> Batches:
        """The round's full batches from shuffled epochs laid end to end, augmented; a batch may span two epochs."""
        n, inputs, seed = len(own), self._shards.inputs, self._shards.seed
        shuffling, changing = (rng(seed, purpose, round_, partition) for purpose in ("batch", "augment"))
        steps = o.steps(n)
        needed = steps * o.batch_size
        order = np.concatenate([shuffling.permutation(n) for _ in range(-(-needed // n))])[:needed]
        if needed < n:
            own, order = own[order], np.arange(needed)  # no image is scaled for nothing
        x, y = inputs.tensors(self._shards.taken(partition, own))
        for indices in torch.from_numpy(order.reshape(steps, o.batch_size)):
            if self.stop.is_set():
                raise Abandoned
            yield inputs.training(x[indices], changing)[None], y[indices][None]

    @contextmanager
    def _network(self, weights: Arrays) -> Iterator[Network]:
        """An idle network, or a new one if all are at work."""
        idle = self._idle.setdefault(tuple(weights), LifoQueue())
        try:
            network = idle.get_nowait()
        except Empty:
            network = Network(self._blueprint, self._initial, list(weights))
        try:
            yield network
        finally:
            idle.put(network)
