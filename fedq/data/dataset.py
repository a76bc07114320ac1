"""Labelled images in memory, as bytes; scaled when they are wanted. Or labelled texts."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedq.errors import FedqError
from fedq.rng import rng

Scale = Literal["standard", "unit"]


@dataclass(frozen=True)
class Examples:
    """Images [N, C, H, W] of bytes or texts [N], labels [N], and the group that each belongs to, if there are any."""

    x: NDArray[Any]
    y: NDArray[np.int64]
    group: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """The examples at these indices, copied."""
        return Examples(self.x[indices], self.y[indices], None if self.group is None else self.group[indices])


@dataclass(frozen=True)
class Dataset:
    """Training and test examples of one task."""

    name: str
    train: Examples
    test: Examples
    classes: int
    source: tuple[Examples, ...] = ()  # what both were taken from, if that is not themselves
    white: int = 255  # the byte of full brightness
    scale_by: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None  # another data set's moments
    labels: tuple[str, ...] = ()  # what the data call the classes, in their order, if they have names

    def __post_init__(self) -> None:
        if not (len(self.train) and len(self.test)):
            raise FedqError("FQ202", f"`{self.name}` has no training or no test examples")
        if self.test.x.shape[1:] != self.shape:
            raise FedqError(
                "FQ202", f"`{self.name}` trains on {self.shape} images and tests on {self.test.x.shape[1:]}"
            )
        labels = np.concatenate([self.train.y, self.test.y])
        if labels.min() < 0 or labels.max() >= self.classes:
            raise FedqError("FQ202", f"`{self.name}` has labels outside 0 ... {self.classes - 1}")

    @property
    def texts(self) -> bool:
        """Whether examples are texts."""
        return self.train.x.dtype == object

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: channels, height, width."""
        return self.train.x.shape[1:]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(m, dtype=torch.float32).view(-1, 1, 1) for m in self.moments)  # type: ignore[return-value]

    @cached_property
    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel's bytes over the training examples, [C] each."""
        if self.scale_by is not None:
            return self.scale_by
        counts = np.stack([np.bincount(self.train.x[:, c].ravel(), minlength=256) for c in range(self.shape[0])])
        values, total = np.arange(256), counts.sum(1)
        mean = counts @ values / total
        return mean, np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 1e-12))

    def tensors(self, examples: Examples, scale: Scale = "standard") -> tuple[Tensor, Tensor]:
        """Inputs [N, C, H, W] float32 and labels [N].

        `standard` gives each channel the training data's mean 0 and deviation 1, `unit` maps black to -1, white to 1.
        """
        mean, std = self._moments if scale == "standard" else (self.white / 2, self.white / 2)
        return torch.from_numpy(examples.x).float().sub_(mean).div_(std), torch.from_numpy(examples.y)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all images or texts and labels, however they are split, for provenance."""
        digest = hashlib.sha256()
        for part in self.source or (self.train, self.test):
            digest.update("\0".join(part.x).encode() if self.texts else part.x.tobytes())
            digest.update(part.y.astype("<i8").tobytes())
        return digest.hexdigest()


def hold_out(name: str, examples: Examples, classes: int, *, share: float, seed: int) -> Dataset:
    """A data set whose test part is a `share` of `examples`, chosen by a permutation keyed with `seed`."""
    order = rng(seed, "holdout").permutation(len(examples))
    n = round(share * len(examples))
    return Dataset(name, examples.take(order[n:]), examples.take(order[:n]), classes, (examples,))
