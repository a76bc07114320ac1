"""What kernels of local training are told of a network: a chain of layers, and where their weights stand.

Shapes: K clients, S steps, B examples a batch, D trained weights; a layer takes n values of an example and gives m.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._reference import F32

I64 = NDArray[np.int64]

LINEAR, RELU, NORM, CONVOLUTION, POOL = range(5)
ABSENT = np.iinfo(np.int64).min  # where a layer has no such part
_MOST = 1 << 31


class Layer(NamedTuple):
    """One layer, and where its parts begin: at p in a client's weights [D], or, for p < 0, at -1 - p in `fixed`.

    A linear layer has weights [m, n] and perhaps a bias [m]; a norm perhaps both [m], and always an epsilon. Where
    there are `channels`, values are as many planes [height, width]. Those a convolution takes, with zeros about them,
    weights [maps, channels, size, size] and perhaps a bias [maps]; or a pool, the largest of each size x size; or ReLU;
    or a norm of each channel.
    """

    kind: int
    inputs: int
    outputs: int
    weight: int = ABSENT
    bias: int = ABSENT
    epsilon: int = ABSENT
    channels: int = 0
    height: int = 0
    width: int = 0
    size: int = 0
    padding: int = 0

    @property
    def gives(self) -> tuple[int, int, int]:
        """Channels, height and width of the planes that it gives."""
        channels, height, width = self.channels, self.height, self.width
        if self.kind == POOL:
            return channels, height // self.size, width // self.size
        if self.kind == CONVOLUTION:
            height, width = (side + 2 * self.padding - self.size + 1 for side in (height, width))
            channels = self.outputs // max(1, height * width)
        return channels, height, width

    @property
    def sound(self) -> bool:
        """Whether there is such a layer: its kind, its widths, and the parts that it has."""
        weight, bias, epsilon = (at != ABSENT for at in (self.weight, self.bias, self.epsilon))
        if not (0 < self.inputs < _MOST and 0 < self.outputs < _MOST) or not self._sound_planes:
            return False
        if self.kind in (LINEAR, CONVOLUTION):
            return weight and not epsilon and (self.kind == LINEAR or self.channels > 0)
        if self.kind == NORM:
            return weight == bias and epsilon and self.epsilon < 0
        known = self.kind == RELU or (self.kind == POOL and self.channels > 0)
        return known and not (weight or bias or epsilon)

    @property
    def _sound_planes(self) -> bool:
        planes, rest = (self.channels, self.height, self.width), (self.size, self.padding)
        if not self.channels:
            return not any(planes + rest) and (self.kind == LINEAR or self.inputs == self.outputs)
        if self.kind == LINEAR or min(planes) < 1 or prod(planes) != self.inputs:
            return False
        if self.kind in (RELU, NORM):
            return not any(rest) and self.inputs == self.outputs
        fits = 0 < self.size < _MOST and 0 <= self.padding < (self.size if self.kind == CONVOLUTION else 1)
        return fits and min(self.gives) > 0 and prod(self.gives) == self.outputs

    @property
    def weights(self) -> int:
        """How many a linear layer or a convolution has."""
        return self.gives[0] * self.channels * self.size**2 if self.channels else self.inputs * self.outputs

    @property
    def wide(self) -> int:
        """How many biases it would have: channels that it gives, or values."""
        return self.gives[0] if self.channels else self.outputs

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Where each part begins, and its length."""
        weights = self.wide if self.kind == NORM else self.weights
        each = ((self.weight, weights), (self.bias, self.wide), (self.epsilon, 1))
        return [(at, n) for at, n in each if at != ABSENT]

    @property
    def products(self) -> int:
        """The multiplications of one example on its way through the layer."""
        if self.kind not in (LINEAR, CONVOLUTION):
            return 0
        return self.weights * (prod(self.gives[1:]) if self.channels else 1)


@final
@dataclass(frozen=True, eq=False)
class Chain:
    """Layers one after the other, the values that nobody trains, and the number D of those that are.

    Layers that take planes come before all others, of which there is one. ValueError where layers do not fit each
    other, or their parts the arrays: native code takes that on trust.
    """

    layers: Sequence[Layer]
    fixed: F32
    d: int
    table: I64 = field(init=False)
    first: int = field(init=False)  # the first layer that has trained weights
    products: int = field(init=False)  # multiplications of one example on its way through
    place: tuple[int, int, int] = field(init=False)  # for native code: the table's address, its length, that of `fixed`

    def __post_init__(self) -> None:
        pairs = list(zip(self.layers, self.layers[1:], strict=False))
        fit = all(a.outputs == b.inputs for a, b in pairs) and all(layer.sound for layer in self.layers)
        if (
            not fit
            or not self.layers
            or self.layers[-1].channels
            or any(b.channels and a.gives != (b.channels, b.height, b.width) for a, b in pairs)
        ):
            raise ValueError(f"there is no chain of {self.layers}")
        parts, end = sorted(part for layer in self.layers for part in layer.parts), 0
        for at, n in parts:
            if (at < 0 and n - 1 - at > len(self.fixed)) or (at >= 0 and at != end):
                raise ValueError(f"a part at {at} of {self.d} trained values and {len(self.fixed)} fixed ones")
            end += n if at >= 0 else 0
        if not end or end != self.d:
            raise ValueError(f"layers of {end} trained values, there are {self.d}")
        fixed = np.array(self.fixed, np.float32).reshape(-1)  # a copy: contiguous, aligned, and nobody else's
        table = np.array(self.layers, np.int64)
        object.__setattr__(self, "fixed", fixed)
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "products", sum(layer.products for layer in self.layers))
        object.__setattr__(self, "place", (table.ctypes.data, len(table), fixed.ctypes.data))
        trained = (i for i, layer in enumerate(self.layers) if max(layer.weight, layer.bias) >= 0)
        object.__setattr__(self, "first", next(trained))

    def __reduce__(self) -> Any:
        """A copy has addresses of its own."""
        return Chain, (self.layers, self.fixed, self.d)


def checked_batches(chain: Chain, w_KD: F32, x_KB: F32, labels_KB: I64) -> tuple[int, int]:
    """K and B. ValueError for arrays that do not belong together."""
    K, B = labels_KB.shape if labels_KB.ndim == 2 else (0, 0)
    sizes = w_KD.shape == (K, chain.d) and x_KB.ndim > 2 and x_KB.shape[:2] == (K, B)
    types = w_KD.dtype == x_KB.dtype == np.float32 and labels_KB.dtype == np.int64
    if not (B and sizes and types and x_KB.size == K * B * chain.layers[0].inputs):
        shapes = ", ".join(f"{a.dtype} of shape {a.shape}" for a in (w_KD, x_KB, labels_KB))
        raise ValueError(f"weights, examples and labels are float32, float32 and int64 of K clients, got {shapes}")
    return K, B


def checked_descent(
    chain: Chain,
    w_KD: F32,
    x: F32,
    labels: I64,
    place_KSB: I64,
    rates: F32,
    total_K: NDArray[np.float64],
    kept: tuple[F32 | None, ...],
) -> tuple[int, int, int]:
    """K, S and B. ValueError for arrays that do not belong together."""
    K, S, B = place_KSB.shape if place_KSB.ndim == 3 else (0, 0, 0)
    n = len(labels) if labels.ndim == 1 else -1
    sizes = S and B and w_KD.shape == (K, chain.d) and rates.shape == (S, 5) and total_K.shape == (K,)
    whole = x.size == n * chain.layers[0].inputs and x.shape[:1] == (n,)
    types = w_KD.dtype == x.dtype == rates.dtype == np.float32 and labels.dtype == place_KSB.dtype == np.int64
    alike = total_K.dtype == np.float64 and all(
        a is None or (a.shape == w_KD.shape and a.dtype == np.float32) for a in kept
    )
    if not (sizes and whole and types and alike) or (kept[1] is not None and kept[2] is None):
        shapes = ", ".join(f"{a.dtype} of shape {a.shape}" for a in (w_KD, x, labels, place_KSB, rates))
        raise ValueError(f"weights, examples, labels, places and rates do not belong together: {shapes}")
    return K, S, B


def raise_for_labels(chain: Chain) -> None:
    """ValueError that says which labels there are."""
    raise ValueError(f"labels are 0 to {chain.layers[-1].outputs - 1}, there are others")


def raise_for_places(n: int) -> None:
    """ValueError that says which places there are."""
    raise ValueError(f"places are 0 to {n - 1}, there are others")
