"""The data of clients: which examples each partition holds, and the minibatches of a round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedq.clients.local import Batches, TrainOptions
from fedq.data import Dataset, Examples, Inputs
from fedq.rng import rng


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

    def batches(self, partitions: Sequence[int], o: TrainOptions, round_: int) -> Batches:
        """The round's full batches of K partitions that make the same number of steps, augmented.

        Each partition's shuffled epochs are laid end to end; a batch may span two epochs.
        """
        examples, places, start = list[Examples](), list[NDArray[np.int64]](), 0
        for partition in partitions:
            own, order = self._order(partition, o, round_)
            examples.append(self.taken(partition, own))
            places.append(order + start)
            start += len(own)
        x, y = self.inputs.tensors(_joined(examples))
        place_KSB = torch.from_numpy(np.stack(places).reshape(len(partitions), -1, o.batch_size))
        steps = (place_KSB[:, s] for s in range(place_KSB.shape[1]))
        if self.inputs.augment == "none":
            yield from ((x[place_KB], y[place_KB]) for place_KB in steps)
            return
        changing = [rng(self.seed, "augment", round_, partition) for partition in partitions]
        for place_KB in steps:
            changed = [self.inputs.training(x[place_B], r) for place_B, r in zip(place_KB, changing, strict=True)]
            yield torch.stack(changed), y[place_KB]

    def _order(self, partition: int, o: TrainOptions, round_: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The examples that a partition needs in a round, and the order in which it meets them."""
        own, shuffling = self.training(partition), rng(self.seed, "batch", round_, partition)
        needed = o.steps(len(own)) * o.batch_size
        epochs = [shuffling.permutation(len(own)) for _ in range(-(-needed // len(own)))]
        order = np.concatenate(epochs)[:needed]
        if needed < len(own):
            return own[order], np.arange(needed)  # no image is scaled for nothing
        return own, order

    def _own(self, partition: int) -> tuple[NDArray[np.int64], int]:
        own = self.indices[partition]
        n = round(self.kept * len(own))
        n = n if 2 <= n < len(own) else 0  # batch norm needs two examples
        return (rng(self.seed, "keep", partition).permutation(own) if n else own), n


def _joined(examples: list[Examples]) -> Examples:
    if len(examples) == 1:
        return examples[0]
    return Examples(np.concatenate([e.x for e in examples]), np.concatenate([e.y for e in examples]))
