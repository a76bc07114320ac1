"""The NumPy specification of the gradient of K chains of dense layers, each with a batch of its own.

Shapes: K clients, B examples a batch, D trained weights; a layer takes n values of an example and gives m.

All arithmetic is float32, one rounded operation at a time. Every sum (over a layer's inputs or outputs, over examples
or classes) begins at zero, or at the bias, and takes its terms in their order. So the bits of a client are the same
whoever is stacked with it, on every machine; only which NaN a NaN is stays open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._reference import F32

I64 = NDArray[np.int64]

LINEAR, RELU, NORM = range(3)
ABSENT = np.iinfo(np.int64).min  # where a layer has no such part
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # the high part times a power is exact
_EXP = [np.float32(1) / np.float32(n) for n in (5040, 720, 120, 24, 6, 2, 1, 1)]
_LOG = [np.float32(1) / np.float32(n) for n in (11, 9, 7, 5, 3)]


class Layer(NamedTuple):
    """One layer, and where its parts begin: at p in a client's weights [D], or, for p < 0, at -1 - p in `fixed`.

    A linear layer has weights [m, n] and perhaps a bias [m]; a norm perhaps both [m], and always an epsilon.
    """

    kind: int
    inputs: int
    outputs: int
    weight: int = ABSENT
    bias: int = ABSENT
    epsilon: int = ABSENT

    @property
    def sound(self) -> bool:
        """Whether there is such a layer: its kind, its widths, and the parts that it has."""
        weight, bias, epsilon = (at != ABSENT for at in (self.weight, self.bias, self.epsilon))
        if not (0 < self.inputs < 1 << 31 and 0 < self.outputs < 1 << 31):
            return False
        if self.kind == LINEAR:
            return weight and not epsilon
        same = self.inputs == self.outputs
        if self.kind == NORM:
            return same and weight == bias and epsilon and self.epsilon < 0
        return self.kind == RELU and same and not (weight or bias or epsilon)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Where each part begins, and its length."""
        long = self.inputs * self.outputs if self.kind == LINEAR else self.outputs
        each = ((self.weight, long), (self.bias, self.outputs), (self.epsilon, 1))
        return [(at, n) for at, n in each if at != ABSENT]


@final
@dataclass(frozen=True, eq=False)
class Chain:
    """Layers one after the other, the values that nobody trains, and the number D of those that are.

    ValueError where the layers do not fit each other, or their parts the arrays: native code takes that on trust.
    """

    layers: Sequence[Layer]
    fixed: F32
    d: int
    table: I64 = field(init=False)
    first: int = field(init=False)  # the first layer that has trained weights
    place: tuple[int, int, int] = field(init=False)  # for native code: the table's address, its length, that of `fixed`

    def __post_init__(self) -> None:
        fit = all(a.outputs == b.inputs for a, b in zip(self.layers, self.layers[1:], strict=False))
        if not fit or not all(layer.sound for layer in self.layers):
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
        object.__setattr__(self, "place", (table.ctypes.data, len(table), fixed.ctypes.data))
        trained = (i for i, layer in enumerate(self.layers) if max(layer.weight, layer.bias) >= 0)
        object.__setattr__(self, "first", next(trained))


def dense_gradient(chain: Chain, w_KD: F32, x_KB: F32, labels_KB: I64) -> tuple[F32, F32]:
    """Mean cross-entropy [K] of each client's batch at its weights, and its gradient [K, D].

    Examples may have any shape of as many values as the first layer takes. ValueError for labels that are no class.
    """
    K, B = checked_batches(chain, w_KD, x_KB, labels_KB)
    if ((labels_KB < 0) | (labels_KB >= chain.layers[-1].outputs)).any():
        raise_for_labels(chain)
    with np.errstate(all="ignore"):
        values, norms = [x_KB.reshape(K, B, chain.layers[0].inputs)], dict[int, tuple[F32, F32]]()
        for i, layer in enumerate(chain.layers):
            x = values[-1]
            if layer.kind == LINEAR:
                weight = _matrix(chain, w_KD, layer)
                bias = None if layer.bias == ABSENT else _part(chain, w_KD, layer.bias, layer.outputs)[:, None]
                values.append(_product(x, weight.transpose(0, 2, 1), bias, K))
            elif layer.kind == RELU:
                values.append(np.where(x < 0, np.float32(0), x))
            else:
                norms[i] = _normalised(x, chain.fixed[-1 - layer.epsilon])
                values.append(_scaled(chain, layer, w_KD, norms[i][0]))
        loss_K, g = _cross_entropy(values[-1], labels_KB)
        g_KD = np.empty((K, chain.d), np.float32)
        for i in range(len(chain.layers) - 1, chain.first - 1, -1):
            layer, x = chain.layers[i], values[i]
            if layer.kind == LINEAR:
                if layer.weight >= 0:
                    n = layer.inputs * layer.outputs
                    slopes = _product(g.transpose(0, 2, 1), x, None, K)
                    g_KD[:, layer.weight : layer.weight + n] = slopes.reshape(K, n)
                if layer.bias >= 0:
                    g_KD[:, layer.bias : layer.bias + layer.outputs] = _sum(g)
                if i > chain.first:
                    g = _product(g, _matrix(chain, w_KD, layer), None, K)
            elif layer.kind == RELU:
                g = np.where(values[i + 1] > 0, g, np.float32(0))
            else:
                g = _through_norm(chain, layer, w_KD, norms[i], g, g_KD)
    return loss_K, g_KD


def checked_batches(chain: Chain, w_KD: F32, x_KB: F32, labels_KB: I64) -> tuple[int, int]:
    """K and B. ValueError for arrays that do not belong together."""
    K, B = labels_KB.shape if labels_KB.ndim == 2 else (0, 0)
    sizes = w_KD.shape == (K, chain.d) and x_KB.ndim > 2 and x_KB.shape[:2] == (K, B)
    types = w_KD.dtype == x_KB.dtype == np.float32 and labels_KB.dtype == np.int64
    if not (B and sizes and types and x_KB.size == K * B * chain.layers[0].inputs):
        shapes = ", ".join(f"{a.dtype} of shape {a.shape}" for a in (w_KD, x_KB, labels_KB))
        raise ValueError(f"weights, examples and labels are float32, float32 and int64 of K clients, got {shapes}")
    return K, B


def raise_for_labels(chain: Chain) -> None:
    """ValueError that says which labels there are."""
    raise ValueError(f"labels are 0 to {chain.layers[-1].outputs - 1}, there are others")


def _part(chain: Chain, w_KD: F32, at: int, n: int) -> F32:
    """[K, n], or [1, n] where it is not trained."""
    return chain.fixed[None, -1 - at : n - 1 - at] if at < 0 else w_KD[:, at : at + n]


def _matrix(chain: Chain, w_KD: F32, layer: Layer) -> F32:
    """A linear layer's weights [K, m, n], or [1, m, n] where they are not trained."""
    flat = _part(chain, w_KD, layer.weight, layer.inputs * layer.outputs)
    return flat.reshape(len(flat), layer.outputs, layer.inputs)


def _product(a_KMN: F32, b_KNJ: F32, start: F32 | None, K: int) -> F32:
    """[K, M, J]: `start` [K, 1, J], or zero, and then the products over N, in order."""
    total = np.zeros((K, a_KMN.shape[1], b_KNJ.shape[2]), np.float32)
    if start is not None:
        total[:] = start
    term = np.empty_like(total)
    for n in range(a_KMN.shape[2]):
        total += np.multiply(a_KMN[:, :, n, None], b_KNJ[:, n, None, :], out=term)
    return total


def _sum(x_KBN: F32) -> F32:
    """Over the batch, in order: [K, n]."""
    total = np.zeros((len(x_KBN), x_KBN.shape[2]), np.float32)
    for b in range(x_KBN.shape[1]):
        total += x_KBN[:, b]
    return total


def _normalised(x: F32, epsilon: np.float32) -> tuple[F32, F32]:
    """Inputs of mean 0 and variance 1 over the batch, and what they were multiplied by [K, 1, n]."""
    share = np.float32(1) / np.float32(x.shape[1])
    centred = x - (_sum(x) * share)[:, None]
    scale = (np.float32(1) / np.sqrt(_sum(centred * centred) * share + epsilon))[:, None]
    return centred * scale, scale


def _scaled(chain: Chain, layer: Layer, w_KD: F32, unit: F32) -> F32:
    if layer.weight == ABSENT:
        return unit
    gain, shift = (_part(chain, w_KD, at, layer.outputs)[:, None] for at in (layer.weight, layer.bias))
    scaled: F32 = unit * gain + shift
    return scaled


def _through_norm(chain: Chain, layer: Layer, w_KD: F32, norm: tuple[F32, F32], g: F32, g_KD: F32) -> F32:
    (unit, scale), share = norm, np.float32(1) / np.float32(g.shape[1])
    if layer.weight >= 0:
        g_KD[:, layer.weight : layer.weight + layer.outputs] = _sum(g * unit)
    if layer.bias >= 0:
        g_KD[:, layer.bias : layer.bias + layer.outputs] = _sum(g)
    if layer.weight != ABSENT:
        g = g * _part(chain, w_KD, layer.weight, layer.outputs)[:, None]
    mean, along = (_sum(g) * share)[:, None], (_sum(g * unit) * share)[:, None]
    through: F32 = scale * ((g - mean) - unit * along)
    return through


def _cross_entropy(logits: F32, labels_KB: I64) -> tuple[F32, F32]:
    """The mean over each client's batch [K], taken in float64, and its gradient [K, B, classes]."""
    at, share = labels_KB[..., None], np.float32(1) / np.float32(labels_KB.shape[1])
    top = logits[..., 0]
    for c in range(1, logits.shape[2]):
        top = np.where(logits[..., c] > top, logits[..., c], top)
    below = logits - top[..., None]
    g = exponential(below)
    total = np.zeros_like(top)
    for c in range(logits.shape[2]):
        total += g[..., c]
    g /= total[..., None]
    np.put_along_axis(g, at, np.take_along_axis(g, at, 2) - np.float32(1), 2)
    losses = (logarithm(total) - np.take_along_axis(below, at, 2)[..., 0]).astype(np.float64)
    mean = np.add.accumulate(losses, axis=1)[:, -1] / losses.shape[1]
    return mean.astype(np.float32), g * share


def exponential(x: F32) -> F32:
    """e^x for x <= 0, to 2 units in the last place; 0 below -87, NaN for NaN."""
    d = np.where(x < -87, np.float32(-87), x)
    shifted = d * np.float32(1.44269504) + np.float32(12582912)  # 1.5 * 2^23: its last bits hold the rounded power
    n = shifted - np.float32(12582912)
    r = (d - n * _LN2_HIGH) - n * _LN2_LOW
    p: F32 | np.float32 = _EXP[0]
    for term in _EXP[1:]:
        p = p * r + term
    power = ((shifted.view(np.uint32) + np.uint32(127)) << np.uint32(23)).view(np.float32)
    y: F32 = np.where(x < -87, np.float32(0), p * power)
    return y


def logarithm(x: F32) -> F32:
    """The natural logarithm of x >= 1, to 2 units in the last place; NaN for NaN."""
    bits = x.view(np.uint32)
    power = (bits - np.uint32(0x3F3504F3)) >> np.uint32(23)  # so that the rest lies about 1, from sqrt(1/2)
    m, e = (bits - (power << np.uint32(23))).view(np.float32), power.astype(np.float32)
    f = (m - np.float32(1)) / (m + np.float32(1))  # log m = 2 atanh f
    t = f * f
    q: F32 | np.float32 = _LOG[0]
    for term in _LOG[1:]:
        q = q * t + term
    y = e * _LN2_HIGH + (e * _LN2_LOW + np.float32(2) * (f + f * (t * q)))
    found: F32 = np.where(np.isnan(x), x, y)
    return found
