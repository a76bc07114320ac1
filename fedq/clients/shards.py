"""The data of clients: which examples each partition holds, and the minibatches of a round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedq.clients.local import Batches, TrainOptions
from fedq.data import Dataset, Examples, Inputs
from fedq.data.text import TextInputs
from fedq.kernels import active as kernels
from fedq.rng import Key, key, rng


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

    def batches(self, partitions: Sequence[int], o: TrainOptions, round_: int) -> Batches:
        """The round's full batches of K partitions that make the same number of steps, augmented.

        Each partition's shuffled epochs are laid end to end; a batch may span two epochs.
        """
        own = [self.training(partition) for partition in partitions]
        needed = o.steps(len(own[0])) * o.batch_size
        orders = shuffled([key(self.seed, "batch", round_, p) for p in partitions], [len(e) for e in own], needed)
        met = [  # the examples that a client meets, and in which order if not in this one, once each
            (e[order], None) if needed <= len(e) else (e, order)  # no image is scaled for nothing
            for e, order in zip(own, orders, strict=True)
        ]
        x, y = self.inputs.tensors(self._joined(partitions, [examples for examples, _ in met]))
        if all(order is None for _, order in met):  # each example once, in order: nothing to gather
            x_KSB, y_KSB = (t.view(len(met), -1, o.batch_size, *t.shape[1:]) for t in (x, y))
            steps: Batches = zip(x_KSB.unbind(1), y_KSB.unbind(1), strict=True)
        else:
            start_K = np.cumsum([0, *(len(examples) for examples, _ in met[:-1])])
            places = [
                start + (np.arange(len(e)) if order is None else order)
                for start, (e, order) in zip(start_K, met, strict=True)
            ]
            place_KSB = torch.from_numpy(np.stack(places).reshape(len(met), -1, o.batch_size))
            steps = ((x[place_KB], y[place_KB]) for place_KB in place_KSB.unbind(1))
        if self.inputs.augment == "none":
            yield from steps
            return
        changing = [rng(self.seed, "augment", round_, partition) for partition in partitions]
        for x_KB, y_KB in steps:
            changed = [self.inputs.training(x_B, r) for x_B, r in zip(x_KB, changing, strict=True)]
            yield torch.stack(changed), y_KB

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


def shuffled(keys: Sequence[Key], sizes: Sequence[int], needed: int) -> NDArray[np.int64]:
    """[K, needed]: shuffled epochs of 0 ... n - 1 for each client's n in `sizes`, laid end to end.

    Epoch e stands in the order of words e n ... (e + 1) n - 1 of the client's stream (of equal ones, as they came).
    """
    found = np.empty((len(keys), needed), np.int64)
    for n in set(sizes):
        clients = [k for k, size in enumerate(sizes) if size == n]
        epochs = -(-needed // n)
        words = kernels.random_words([keys[k] for k in clients], epochs * n).reshape(len(clients), epochs, n)
        drawn = words.astype(np.uint64) << np.uint64(32) | np.arange(n, dtype=np.uint64)
        if needed < n:
            drawn = np.partition(drawn, needed)[..., :needed]  # a few of many: the others need no order
        drawn.sort()
        found[clients] = (drawn & np.uint64(2**32 - 1)).reshape(len(clients), -1)[:, :needed]
    return found
