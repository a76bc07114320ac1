"""The NumPy specification of the gradient of K chains of layers, each with a batch of its own.

Shapes: K clients, B examples a batch, D trained weights; a layer takes n values of an example and gives m.

All arithmetic is float32, one rounded operation at a time. Every sum (over a layer's inputs or outputs, over examples
or classes) begins at zero, or at the bias, and takes its terms in their order; of planes, some are taken in lanes. So
the bits of a client are the same whoever is stacked with it, on every machine; only which NaN a NaN is stays open.
"""

import numpy as np

from fedq.kernels import _reference_planes as planes
from fedq.kernels._chain import (
    ABSENT,
    CONVOLUTION,
    I64,
    LINEAR,
    NORM,
    POOL,
    RELU,
    Chain,
    Layer,
    checked_batches,
    raise_for_labels,
)
from fedq.kernels._reference import F32

_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # the high part times a power is exact
_EXP = [np.float32(1) / np.float32(n) for n in (5040, 720, 120, 24, 6, 2, 1, 1)]
_LOG = [np.float32(1) / np.float32(n) for n in (11, 9, 7, 5, 3)]


def chain_gradient(chain: Chain, w_KD: F32, x_KB: F32, labels_KB: I64) -> tuple[F32, F32]:
    """Mean cross-entropy [K] of each client's batch at its weights, and its gradient [K, D].

    Examples may have any shape of as many values as the first layer takes. ValueError for labels that are no class.
    """
    K, B = checked_batches(chain, w_KD, x_KB, labels_KB)
    if ((labels_KB < 0) | (labels_KB >= chain.layers[-1].outputs)).any():
        raise_for_labels(chain)
    with np.errstate(all="ignore"):
        values, norms = [x_KB.reshape(K, B, chain.layers[0].inputs)], dict[int, tuple[F32, F32]]()
        for i, layer in enumerate(chain.layers):
            if layer.kind == NORM:
                norms[i] = _normalised(chain, layer, values[-1])
                values.append(_scaled(chain, layer, w_KD, norms[i][0]))
            else:
                values.append(_given(chain, layer, w_KD, values[-1]))
        loss_K, g = _cross_entropy(values.pop(), labels_KB)
        g_KD = np.empty((K, chain.d), np.float32)
        for i in range(len(chain.layers) - 1, chain.first - 1, -1):
            layer = chain.layers[i]
            if layer.weight >= 0 and layer.kind != NORM:
                _part(chain, g_KD, layer.weight, layer.weights)[:] = _to_weights(layer, g, values[i])
            if layer.bias >= 0:
                _part(chain, g_KD, layer.bias, layer.wide)[:] = _sums(layer, g)
            if layer.kind == NORM:
                g = _through_norm(chain, layer, w_KD, norms[i], g, g_KD)
            elif i > chain.first:
                g = _to_inputs(chain, layer, w_KD, g, values[i])
    return loss_K, g_KD


def _given(chain: Chain, layer: Layer, w_KD: F32, x: F32) -> F32:
    """What a layer gives [K, B, m]."""
    if layer.kind == POOL:
        return planes.pool(layer, x)
    if layer.kind == RELU:
        return np.where(x < 0, np.float32(0), x)
    w_K = _weights(chain, w_KD, layer)
    bias = None if layer.bias == ABSENT else _part(chain, w_KD, layer.bias, layer.wide)[:, None]
    if layer.kind == CONVOLUTION:
        return planes.convolution(layer, w_K, bias, x)
    return _product(x, w_K.transpose(0, 2, 1), bias, len(x))


def _to_weights(layer: Layer, g: F32, x: F32) -> F32:
    """The gradient of a layer's weights [K, their number], from that of what it gave and what it took."""
    if layer.kind == CONVOLUTION:
        return planes.to_weights(layer, g, x)
    return _product(g.transpose(0, 2, 1), x, None, len(x)).reshape(len(x), layer.weights)


def _to_inputs(chain: Chain, layer: Layer, w_KD: F32, g: F32, x: F32) -> F32:
    """The gradient of what a layer took [K, B, n]."""
    if layer.kind == POOL:
        return planes.to_largest(layer, g, x)
    if layer.kind == RELU:
        return np.where(x > 0, g, np.float32(0))
    w_K = _weights(chain, w_KD, layer)
    return planes.to_inputs(layer, w_K, g) if layer.kind == CONVOLUTION else _product(g, w_K, None, len(g))


def _part(chain: Chain, w_KD: F32, at: int, n: int) -> F32:
    """[K, n], or [1, n] where it is not trained."""
    return chain.fixed[None, -1 - at : n - 1 - at] if at < 0 else w_KD[:, at : at + n]


def _weights(chain: Chain, w_KD: F32, layer: Layer) -> F32:
    """A layer's weights, [K, m, n], or of a convolution [K, maps, channels, size, size]; K = 1 where not trained."""
    flat = _part(chain, w_KD, layer.weight, layer.weights)
    if layer.kind == LINEAR:
        return flat.reshape(len(flat), layer.outputs, layer.inputs)
    return flat.reshape(len(flat), layer.gives[0], layer.channels, layer.size, layer.size)


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


def _sums(layer: Layer, x: F32) -> F32:
    """Over the examples, or also the places of a channel: [K, n], or [K, channels]."""
    return planes.sums(layer, x) if layer.channels else _sum(x)


def _over(layer: Layer, x_K: F32) -> F32:
    """[K, n], or [K, channels], for each value: [K, 1, n]."""
    return np.repeat(x_K, layer.height * layer.width if layer.channels else 1, 1)[:, None]


def _share(layer: Layer, x: F32) -> np.float32:
    return np.float32(1) / np.float32(x.shape[1] * (layer.height * layer.width if layer.channels else 1))


def _normalised(chain: Chain, layer: Layer, x: F32) -> tuple[F32, F32]:
    """Inputs of mean 0 and variance 1, and what they were multiplied by [K, 1, n]."""
    share, epsilon = _share(layer, x), chain.fixed[-1 - layer.epsilon]
    centred = x - _over(layer, _sums(layer, x) * share)
    scale = _over(layer, np.float32(1) / np.sqrt(_sums(layer, centred * centred) * share + epsilon))
    return centred * scale, scale


def _scaled(chain: Chain, layer: Layer, w_KD: F32, unit: F32) -> F32:
    if layer.weight == ABSENT:
        return unit
    gain, shift = (_over(layer, _part(chain, w_KD, at, layer.wide)) for at in (layer.weight, layer.bias))
    scaled: F32 = unit * gain + shift
    return scaled


def _through_norm(chain: Chain, layer: Layer, w_KD: F32, norm: tuple[F32, F32], g: F32, g_KD: F32) -> F32:
    (unit, scale), share = norm, _share(layer, g)
    if layer.weight >= 0:
        _part(chain, g_KD, layer.weight, layer.wide)[:] = _sums(layer, g * unit)
    if layer.weight != ABSENT:
        g = g * _over(layer, _part(chain, w_KD, layer.weight, layer.wide))
    mean, along = (_over(layer, _sums(layer, x) * share) for x in (g, g * unit))
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
