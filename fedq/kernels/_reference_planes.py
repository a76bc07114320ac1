"""The NumPy specification of convolutions and pools, forward and back; see `_reference_gradient`.

Values are [K, B, n], of which n is planes [channels, height, width]. Sums over a convolution's inputs begin at zero, or
at the bias, and take channels, rows and columns of the kernel in order; back, rows and columns of the kernel from its
end, without the rows that lie beside the planes, and maps.

Sums over examples and places are those of the first 32 examples, then of the next added, and so on; each is taken in 16
lanes. The values of a row of a plane stand beside each other, all 32 examples of a place together, and lane l takes
those at l, l + 16 ... of a row, row after row. Then the upper half of lanes is added to the lower, until one is left.
"""

import numpy as np

from fedq.kernels._chain import Layer
from fedq.kernels._reference import F32

_LANES, _SLICE = 16, 32


def convolution(layer: Layer, w_K: F32, bias: F32 | None, x: F32) -> F32:
    """What comes out [K, B, m]: kernels [K, maps, channels, size, size] over planes with zeros about them."""
    maps, height, width = layer.gives
    total = np.zeros((*x.shape[:2], maps, height, width), np.float32)
    if bias is not None:
        total[:] = bias[..., None, None]
    x = _padded(_planes(layer, x), layer.padding)
    for channel, row, column in np.ndindex(layer.channels, layer.size, layer.size):
        under = x[:, :, channel, None, row : row + height, column : column + width]
        total += w_K[:, None, :, channel, row, column, None, None] * under
    return total.reshape(*x.shape[:2], layer.outputs)


def to_weights(layer: Layer, g: F32, x: F32) -> F32:
    """The gradient of the kernels [K, maps * channels * size^2], from that of what came out and what went in."""
    (maps, height, width), x = layer.gives, _padded(_planes(layer, x), layer.padding)
    g = g.reshape(*g.shape[:2], maps, height, width)
    slopes = np.empty((len(g), maps, layer.channels, layer.size, layer.size), np.float32)
    for channel, row, column in np.ndindex(slopes.shape[2:]):
        under = x[:, :, channel, None, row : row + height, column : column + width]
        slopes[:, :, channel, row, column] = _sum(g * under)
    return slopes.reshape(len(g), layer.weights)


def sums(layer: Layer, x: F32) -> F32:
    """Of each channel of what comes out [K, channels]."""
    return _sum(x.reshape(*x.shape[:2], *layer.gives))


def to_inputs(layer: Layer, w_K: F32, g: F32) -> F32:
    """The gradient of what went in [K, B, n]."""
    (maps, high, _), last, beyond = layer.gives, layer.size - 1, layer.size - 1 - layer.padding
    g = np.pad(g.reshape(*g.shape[:2], *layer.gives), [(0, 0)] * 4 + [(beyond, beyond)])
    total = np.zeros((*g.shape[:2], layer.channels, layer.height, layer.width), np.float32)
    for row, column, from_ in np.ndindex(layer.size, layer.size, maps):
        first, end = max(0, beyond - row), min(layer.height, beyond - row + high)
        under = g[:, :, from_, None, first + row - beyond : end + row - beyond, column : column + layer.width]
        if first < end:
            total[:, :, :, first:end] += w_K[:, None, from_, :, last - row, last - column, None, None] * under
    return total.reshape(*g.shape[:2], layer.inputs)


def pool(layer: Layer, x: F32) -> F32:
    """The largest of each size x size [K, B, m]; NaN where there is one."""
    x, y = _planes(layer, x), np.empty(0, np.float32)
    for row, column in np.ndindex(layer.size, layer.size):
        one = _one_of_each(layer, x, row, column)
        y = np.where((one > y) | np.isnan(one), one, y) if row or column else one
    return y.reshape(*x.shape[:2], layer.outputs)


def to_largest(layer: Layer, g: F32, x: F32) -> F32:
    """The gradient of what went in [K, B, n]: the first of the largest takes it."""
    y, open_ = pool(layer, x), np.ones(g.shape, np.bool_).reshape(*g.shape[:2], *layer.gives)
    y, g, x = y.reshape(open_.shape), g.reshape(open_.shape), _planes(layer, x)
    into = np.zeros_like(x)
    for row, column in np.ndindex(layer.size, layer.size):
        takes = open_ & (_one_of_each(layer, x, row, column) == y)
        _one_of_each(layer, into, row, column)[...] = np.where(takes, g, np.float32(0))
        open_ &= ~takes
    return into.reshape(*x.shape[:2], layer.inputs)


def _planes(layer: Layer, x: F32) -> F32:
    return x.reshape(*x.shape[:2], layer.channels, layer.height, layer.width)


def _padded(x: F32, padding: int) -> F32:
    """With zeros about every plane."""
    return np.pad(x, [(0, 0)] * 3 + [(padding, padding)] * 2)


def _one_of_each(layer: Layer, x: F32, row: int, column: int) -> F32:
    """A view of the value at this place of each size x size."""
    _, height, width = layer.gives
    return x[..., row : layer.size * height : layer.size, column : layer.size * width : layer.size]


def _sum(x: F32) -> F32:
    """[K, B, maps, height, width] -> [K, maps], over all but these."""
    total, *others = (_in_lanes(x[:, first : first + _SLICE]) for first in range(0, x.shape[1], _SLICE))
    for other in others:
        total = total + other
    return total


def _in_lanes(x: F32) -> F32:
    x = x.transpose(0, 2, 3, 4, 1)
    rows = x.reshape(*x.shape[:3], x.shape[3] * x.shape[4])
    lanes = np.zeros((*rows.shape[:2], _LANES), np.float32)
    for row in range(rows.shape[2]):
        for first in range(0, rows.shape[3], _LANES):
            some = rows[:, :, row, first : first + _LANES]
            lanes[:, :, : some.shape[2]] += some
    while lanes.shape[2] > 1:
        half = lanes.shape[2] // 2
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    return lanes[:, :, 0]
