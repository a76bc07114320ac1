"""What a worker holds to play any client: the data of all partitions, the local algorithm, and networks to train.

One trainer serves every simulated client of a process (a deployed client is the case of one partition). Several threads
may train at once, each with a network of its own.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import isfinite
from threading import Event
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from fedq.clients.local import LocalAlgorithm, Remembering, TrainOptions
from fedq.clients.private import Own, Private
from fedq.clients.shards import Shards
from fedq.data import Examples
from fedq.errors import FedqError
from fedq.kernels import active as kernels
from fedq.kernels.records import Arrays
from fedq.models.chains import stackable
from fedq.models.network import Blueprint, Network
from fedq.models.stacked import Stacked
from fedq.privacy.ledger import Ledger

Sends = Literal["weights", "updates", "gradient"]


class Abandoned(Exception):  # noqa: N818 - not an error
    """Training was given up because nobody waits for it any more."""


class Trained(NamedTuple):
    """What one client made of a round: named arrays to send, examples it holds, mean loss of its local steps.

    `memory` is what a remembering algorithm wants back in the client's next round, empty for others; `ledger` what a
    private one has released so far. `packed` are the arrays as they travel, where those of many clients were packed at
    once; `arrays` is then empty.
    """

    arrays: Arrays
    examples: int
    loss: float
    memory: Arrays
    packed: ArrayRecord | None = None
    ledger: Ledger | None = None


@dataclass(frozen=True)
class Beside:
    """What comes with a client's round beside the weights: what it kept, and further arrays of the message."""

    memory: Arrays | None = None
    ledger: Ledger = field(default_factory=Ledger)
    fixed: Arrays = field(default_factory=dict)  # values of weights that are not trained
    previous: Arrays | None = None  # the weights of the round before


Pack = Callable[[Arrays, int, Sequence[int]], list[ArrayRecord]]  # arrays [K, ...], round and partitions -> K records


@final
class Trainer:
    """Trains and evaluates clients. All randomness is a function of (seed, round, partition)."""

    def __init__(
        self,
        blueprint: Blueprint,
        shards: Shards,
        algorithm: LocalAlgorithm | Remembering | Private,
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
        self._remembers = isinstance(algorithm, Remembering)  # once: it takes longer than a small client trains
        self._initial = blueprint.initial_weights()
        self._idle: dict[tuple[bool | str, ...], deque[Network | Stacked]] = {}
        self._ready: dict[tuple[int, int], Callable[[], Trained]] = {}
        self.stop = Event()  # set while training is to be abandoned

    def train(
        self,
        weights: Arrays,
        round_: int,
        partition: int,
        told: Mapping[str, Any] = MappingProxyType({}),
        beside: Beside = Beside(),
    ) -> Trained:
        """Train the client of `partition` from the named global `weights`, and what it kept from its last round.

        `told` is what the round's message tells clients, such as FedProx's `proximal-mu`.
        """
        if isinstance(self._algorithm, Private):
            return self._released(weights, round_, partition, told, beside)
        return self._trained(weights, round_, [partition], told, beside.memory).of(0)

    @property
    def delta(self) -> float:
        """The delta at which private clients tell their epsilon."""
        return float(getattr(self._options, "delta"))  # noqa: B009 - only options of private algorithms have it

    @property
    def private(self) -> Private | None:
        """The algorithm, if it keeps a ledger."""
        return self._algorithm if isinstance(self._algorithm, Private) else None

    @contextmanager
    def ahead(
        self,
        weights: Arrays,
        round_: int,
        partitions: Sequence[int],
        told: Mapping[str, Any],
        pack: Pack | None = None,
    ) -> Iterator[None]:
        """Train clients together; within the context `ready` has what each made of the round, by `pack` if given."""
        cohort = self._trained(weights, round_, partitions, told)
        packed: Sequence[ArrayRecord | None] = [None] * len(partitions)
        if pack:
            with suppress(FedqError):  # what one sends cannot be packed: it says so itself, and the others go on
                packed = pack(cohort.arrays, round_, partitions)
        self._ready.update({(round_, p): partial(cohort.of, k, packed[k]) for k, p in enumerate(partitions)})
        try:
            yield
        finally:
            for partition in partitions:
                self._ready.pop((round_, partition), None)

    def ready(self, round_: int, partition: int) -> Trained | None:
        """What `ahead` made of a client, once."""
        trained = self._ready.pop((round_, partition), None)
        return trained() if trained else None

    @cached_property
    def together(self) -> bool:
        """Whether K clients can train at once: the network, the algorithm, and as many steps for each."""
        alike = self._options.local_epochs is None and not self._remembers and self.private is None
        return alike and self._stackable

    @cached_property
    def _stackable(self) -> bool:
        b = self._blueprint
        return not b.bf16 and stackable(b.module(), b.shape, b.device)

    def _trained(
        self,
        weights: Arrays,
        round_: int,
        partitions: Sequence[int],
        told: Mapping[str, Any],
        memory: Arrays | None = None,
    ) -> "_Cohort":
        algorithm: Any  # of the kind that `_remembers` says
        algorithm, options = self._at(round_, told)
        batches = self._shards.batches(partitions, options, round_, self._heard)
        with self._network(weights, stacked=self._stackable) as network:
            start_D = network.start(weights)
            start_KD, kept_K = start_D.expand(len(partitions), -1), [dict[str, NDArray[np.float32]]()] * len(partitions)
            network.rekey_(self._shards.seed, round_, partitions[0])
            if self._remembers:
                was_D = network.flatten(memory) if memory else torch.zeros_like(start_D)
                end_KD, loss_K, kept_KD = algorithm.train_on(network, start_KD, was_D[None], batches)
                kept_K = [network.unflatten(kept_D) for kept_D in kept_KD]
            else:
                end_KD, loss_K = algorithm.train(network, start_KD, batches)
            sent_KD = end_KD - start_KD if self._sends == "updates" else end_KD
            examples_K = [self._shards.examples(partition) for partition in partitions]
            return _Cohort(network.unflatten(sent_KD), loss_K.tolist(), examples_K, kept_K)

    def _at(self, round_: int, told: Mapping[str, Any]) -> tuple[LocalAlgorithm | Remembering | Private, TrainOptions]:
        """The algorithm and its options in a round."""
        options = self._options.at(round_, told)
        return self._algorithm if options is self._options else type(self._algorithm)(options), options

    def _released(
        self, weights: Arrays, round_: int, partition: int, told: Mapping[str, Any], beside: Beside
    ) -> Trained:
        """What a client with a ledger made of the round."""
        algorithm, _ = self._at(round_, told)
        assert isinstance(algorithm, Private)
        where = self._shards.training(partition)
        with self._network(weights) as network:
            network.fix_(beside.fixed)
            start_D = network.start(weights)
            before_D = network.flatten(beside.previous) if beside.previous else None

            def taken(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
                self._heard()
                return self._shards.inputs.tensors(self._shards.taken(partition, where[indices]))

            own = Own(len(where), taken, (round_, partition), told, before_D)
            end_D, loss, ledger = algorithm.release(network, start_D, own, beside.ledger)
            sent_KD = (end_D - start_D if self._sends == "updates" else end_D)[None]
            trained = _Cohort(network.unflatten(sent_KD), [loss], [len(where)], [{}]).of(0)
            told_loss = loss if getattr(self._options, "tell_loss", False) else 0.0
            return trained._replace(loss=told_loss, ledger=ledger)

    def _heard(self) -> None:
        if self.stop.is_set():
            raise Abandoned

    def examples(self, partition: int) -> int:
        """How many examples `partition` trains on."""
        return self._shards.examples(partition)

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
            loss, accuracy = network.evaluate(network.flatten(weights), x, y, self._evaluation_batch)
            return loss, accuracy

    @contextmanager
    def _network(self, weights: Arrays, *, stacked: bool = False) -> Iterator[Any]:
        """An idle network, or a new one if all are at work: a module, or one that takes any number of clients."""
        idle = self._idle.setdefault((stacked, *weights), deque())
        try:
            network = idle.pop()
        except IndexError:
            network = (Stacked if stacked else Network)(self._blueprint, self._initial, list(weights))
        try:
            yield network
        finally:
            idle.append(network)


@dataclass(frozen=True)
class _Cohort:
    """What K clients made of a round: arrays [K, ...] by name, and a value for each client."""

    arrays: Arrays
    loss: list[float]
    examples: list[int]
    memory: list[dict[str, NDArray[np.float32]]]

    def of(self, k: int, packed: ArrayRecord | None = None) -> Trained:
        """What client k made of it, or the error that it raises."""
        own = {} if packed is not None else {name: np.ascontiguousarray(x_K[k]) for name, x_K in self.arrays.items()}
        if not (isfinite(self.loss[k]) and all(isfinite(kernels.largest(x.reshape(-1))) for x in own.values())):
            raise FedqError("FQ301", "training diverged to NaN or infinity; lower --lr")
        return Trained(own, self.examples[k], self.loss[k], self.memory[k], packed)
