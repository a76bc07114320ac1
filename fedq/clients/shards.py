"""The data of clients: which examples each partition holds, and the minibatches of a round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fedq.clients.local import Drawn, TrainOptions
from fedq.data import Dataset, Examples, Inputs
from fedq.data.text import TextInputs
from fedq.kernels import active as kernels
from fedq.rng import Key, keys, rng

KEPT = 2**24  # values of a data set that is kept as tensors, 64 MiB: a larger one is turned into them as it is met


@dataclass(frozen=True)
class Shards:
    """Which training examples each partition holds; a share of each may be kept from training, to evaluate on."""

    inputs: Inputs | TextInputs
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

    def examples(self, partition: int) -> int:
        """How many examples `partition` trains on."""
        own, n = self._own(partition)
        return len(own) - n

    def taken(self, partition: int, indices: NDArray[np.int64]) -> Examples:
        """The training examples at `indices`, as `partition` sees them."""
        examples = self.data.train.take(indices)
        return self.poison(partition, examples) if self.poison else examples

    def evaluation(self, partition: int) -> Examples:
        """The examples that `partition` evaluates on, none if nothing is kept."""
        own, n = self._own(partition)
        return self.data.train.take(own[:n])

    def batches(
        self, partitions: Sequence[int], o: TrainOptions, round_: int, heard: Callable[[], None] = lambda: None
    ) -> Drawn:
        """The round's full batches of K partitions that make as many steps, augmented; `heard` as in `Drawn`.

        Each partition's shuffled epochs are laid end to end; a batch may span two epochs.
        """
        own = [self.training(partition) for partition in partitions]
        sizes, needed = [len(e) for e in own], o.steps(len(own[0])) * o.batch_size
        orders = shuffled(keys(self.seed, "batch", round_, each=partitions), sizes, needed)
        if self._whole:
            (x, y), place = self._whole, np.stack([e[order] for e, order in zip(own, orders, strict=True)])
        else:
            once_K = [needed <= size for size in sizes]  # who meets no example twice: the others stay away
            met = [e[order] if once else e for e, order, once in zip(own, orders, once_K, strict=True)]
            x, y = self.inputs.tensors(self._joined(partitions, met))
            start_K = np.cumsum([0, *map(len, met[:-1])])[:, None]
            place = start_K + np.where(np.array(once_K)[:, None], np.arange(needed), orders)
        place_KSB = torch.from_numpy(place.reshape(len(own), -1, o.batch_size))
        if self.inputs.augment == "none":
            return Drawn(x, y, place_KSB, None, heard)
        changing = [rng(self.seed, "augment", round_, partition) for partition in partitions]

        def changed(x_KB: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.inputs.training(x_B, r) for x_B, r in zip(x_KB, changing, strict=True)])

        return Drawn(x, y, place_KSB, changed, heard)

    @cached_property
    def _whole(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """All training examples as tensors, where that is little, and every client sees the same."""
        few = self.poison is None and isinstance(self.inputs, Inputs) and self.data.train.x.size <= KEPT
        return self.inputs.tensors(self.taken(0, np.arange(len(self.data.train)))) if few else None

    def _joined(self, partitions: Sequence[int], wanted: Sequence[NDArray[np.int64]]) -> Examples:
        """The examples that each partition wants, as it sees them, one partition after the other."""
        if self.poison is None:
            return self.data.train.take(np.concatenate(wanted))
        seen = [self.taken(partition, own) for partition, own in zip(partitions, wanted, strict=True)]
        return Examples(np.concatenate([e.x for e in seen]), np.concatenate([e.y for e in seen]))

    def _own(self, partition: int) -> tuple[NDArray[np.int64], int]:
        own = self.indices[partition]
        n = round(self.kept * len(own))
        n = n if 2 <= n < len(own) else 0  # batch norm needs two examples
        return (rng(self.seed, "keep", partition).permutation(own) if n else own), n


def shuffled(streams: Sequence[Key], sizes: Sequence[int], needed: int) -> NDArray[np.int64]:
    """[K, needed]: shuffled epochs of 0 ... n - 1 for each client's n in `sizes`, laid end to end.

    Epoch e stands in the order of words e n ... (e + 1) n - 1 of the client's stream (of equal ones, as they came).
    """
    found = np.empty((len(streams), needed), np.int64)
    for n in set(sizes):
        clients = [k for k, size in enumerate(sizes) if size == n]
        epochs, some = -(-needed // n), streams if len(clients) == len(streams) else [streams[k] for k in clients]
        words = kernels.random_words(some, epochs * n).reshape(len(clients), epochs, n)
        drawn = words.astype(np.uint64) << np.uint64(32) | np.arange(n, dtype=np.uint64)
        if needed < n:
            drawn = np.partition(drawn, needed)[..., :needed]  # a few of many: the others need no order
        drawn.sort()
        found[clients] = (drawn & np.uint64(2**32 - 1)).reshape(len(clients), -1)[:, :needed]
    return found
