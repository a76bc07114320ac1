"""The data of clients: which examples each partition holds, and the minibatches of a round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedq.clients.local import Batches, TrainOptions
from fedq.data import Dataset, Examples, Inputs
from fedq.data.text import TextInputs
from fedq.rng import rng, rngs


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
        shuffling = rngs(self.seed, "batch", [(round_, partition) for partition in partitions])
        met = [_met(self.training(p), o, shuffles) for p, shuffles in zip(partitions, shuffling, strict=True)]
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


def _met(
    own: NDArray[np.int64], o: TrainOptions, shuffles: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The examples that a client meets in a round, and in which order if not in this one, once each."""
    needed = o.steps(len(own)) * o.batch_size
    if needed <= len(own):  # no image is scaled for nothing
        return shuffles.permutation(own)[:needed], None
    return own, np.concatenate([shuffles.permutation(len(own)) for _ in range(-(-needed // len(own)))])[:needed]
