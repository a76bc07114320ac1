"""Native kernels of local training, under the names of the specification: order, gradients, steps."""

from collections.abc import Sequence
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.kernels import _native
from fedq.kernels._chain import I64, Chain, checked_batches, checked_descent, raise_for_labels, raise_for_places
from fedq.kernels._checks import address, checked, output, parts_of
from fedq.kernels._reference import F32, U32
from fedq.kernels._reference_steps import Rates
from fedq.rng import Key


def random_words(keys: Sequence[Key], n: int) -> U32:
    """See `_reference`."""
    words, (seeds, streams) = np.empty((len(keys), n), np.uint32), parts_of(keys)
    _native.call("random_words", address(seeds), address(streams), n, address(words), len(keys))
    return words


def chain_gradient(chain: Chain, w_KD: F32, x_KB: F32, labels_KB: I64) -> tuple[F32, F32]:
    """See `_reference_gradient`."""
    K, B = checked_batches(chain, w_KD, x_KB, labels_KB)
    loss_K, g_KD = np.empty(K, np.float32), np.empty((K, chain.d), np.float32)
    if K:
        arrays = [_by_rows(array) for array in (w_KD, x_KB, labels_KB)]
        rows = [part for array in arrays for part in (address(array), array.strides[0] // array.itemsize)]
        out = address(loss_K), address(g_KD), _room(chain, B)
        if _native.call("chain_gradient", *chain.place, K, B, chain.d, *rows, *out):
            raise_for_labels(chain)
    return loss_K, g_KD


class _Room(local):
    """What a thread's kernels work in, as long as it lives: new pages for each call would take as long as the work."""

    bytes = np.empty(0, np.uint8)


_ROOM = _Room()


def _room(chain: Chain, B: int, d: int = 0) -> int:
    """The address of room for batches of B, with `d` for steps on as many weights."""
    size = _native.call("chain_room", *chain.place[:2], B, d)
    if _ROOM.bytes.size < size:
        _ROOM.bytes = np.empty(size, np.uint8)
    return address(_ROOM.bytes)


def _by_rows(array: NDArray[Any]) -> NDArray[Any]:
    """Each row contiguous, whatever lies between two of them: views of longer rows, or one row for all."""
    whole = array.strides[0] % array.itemsize == 0 and array[0].flags.c_contiguous
    return array if whole else np.ascontiguousarray(array)


def step_(
    w: F32,
    g: F32,
    rates: Rates,
    *,
    s: F32 | None = None,
    m: F32 | None = None,
    v: F32 | None = None,
    slope: float = 0.0,
    momentum: float = 0.0,
) -> None:
    """See `_reference_steps`."""
    moved = _in_place(g.shape, w, s, m, v)
    _native.call("step", checked(g, np.float32), *moved, address(np.array(rates, np.float32)), slope, momentum, g.size)


def _in_place(shape: tuple[int, ...], *arrays: F32 | None) -> list[int | None]:
    return [None if array is None else address(output(array, np.float32, shape)) for array in arrays]


def chain_descent_(
    chain: Chain,
    w_KD: F32,
    x: F32,
    labels: I64,
    place_KSB: I64,
    rates: F32,
    total_K: NDArray[np.float64],
    *,
    s: F32 | None = None,
    m: F32 | None = None,
    v: F32 | None = None,
    slope: float = 0.0,
    momentum: float = 0.0,
    decay: float = 0.0,
) -> None:
    """See `_reference_steps`."""
    K, S, B = checked_descent(chain, w_KD, x, labels, place_KSB, rates, total_K, (s, m, v))
    moved = _in_place(w_KD.shape, w_KD, s, m, v)
    given = [np.ascontiguousarray(array) for array in (x, labels, place_KSB, rates)]
    at, of, where, by = map(address, given)
    settings = by, slope, momentum, decay, address(output(total_K, np.float64, (K,)))
    failed = K and _native.call(
        "chain_descent", *chain.place, K, S, B, chain.d, at, of, len(labels), where, *moved, *settings,
        _room(chain, B, chain.d),
    )  # fmt: skip
    if failed == 2:
        raise_for_places(len(labels))
    if failed:
        raise_for_labels(chain)


def tanh_half(s: F32, *, out: F32 | None = None) -> F32:
    """See `_reference_steps`."""
    out = output(out, np.float32, s.shape)
    _native.call("tanh_half", checked(s, np.float32), address(out), s.size)
    return out
