"""What native code takes on trust, checked: element type, contiguity, lengths. ValueError where it is wrong."""

from collections.abc import Sequence
from ctypes import addressof, c_char
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._reference import BUCKET, F32, I8, U8
from fedq.kernels._reference_votes import Numbers, Rows
from fedq.rng import Key, Keys

MOST = 1 << 32  # coordinates: indices of 32 bits, and Philox blocks below 2^32


def address(array: NDArray[Any]) -> int:
    if array.flags.carray and array.size:  # in a third of the time
        return addressof(c_char.from_buffer(array.data))
    return int(array.__array_interface__["data"][0])


def checked(array: NDArray[Any], dtype: Any, shape: tuple[int, ...] | None = None) -> int:
    """The address of a contiguous array of this type (and shape)."""
    if array.dtype != dtype or not array.flags.c_contiguous or (shape is not None and array.shape != shape):
        kind = f"{np.dtype(dtype)} array" + (f" of shape {shape}" if shape is not None else "")
        raise ValueError(f"expected a contiguous {kind}, got {array.dtype} of shape {array.shape}")
    return address(array)


def output(out: NDArray[Any] | None, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    checked(out, dtype, shape)
    if not out.flags.writeable or not out.flags.aligned:
        raise ValueError("`out` must be writeable and aligned")
    return out


def length(x: F32 | I8) -> int:
    if x.ndim != 1 or x.size >= MOST:
        raise ValueError(f"expected fewer than 2^32 values in one dimension, got shape {x.shape}")
    return x.size


def bits_of(packed: U8, d: int) -> int:
    return checked(packed, np.uint8, (-(-d // 8),))


def planes_of(planes: U8, d: int) -> tuple[int, int]:
    checked(planes, np.uint8, (2, -(-d // 8)))
    return address(planes[0]), address(planes[1])


def code_bytes(d: int, bits: int) -> int:
    if bits not in (2, 4, 8):
        raise ValueError(f"codes of {bits} bits")
    return -(-d * bits // 8)


def codes_of(packed: U8, scale: F32, d: int, bits: int) -> tuple[int, int]:
    return checked(packed, np.uint8, (code_bytes(d, bits),)), checked(scale, np.float32, (-(-d // BUCKET),))


def pointers_to(rows: U8) -> NDArray[np.uint64]:
    return np.uint64(address(rows)) + np.arange(len(rows), dtype=np.uint64) * np.uint64(rows.strides[0])


def rows_of(rows: Rows, d: int) -> tuple[NDArray[np.uint64], int]:
    """The addresses of fewer than 65536 rows of ceil(d / 8) bytes, and their number."""
    if len(rows) >= 1 << 16:
        raise ValueError(f"{len(rows)} rows, at most 65535 are counted together")
    if isinstance(rows, np.ndarray):
        checked(rows, np.uint8, (len(rows), -(-d // 8)))
        return pointers_to(rows), len(rows)
    return np.array([bits_of(row, d) for row in rows], np.uint64), len(rows)


def plus_minus(pos: Rows, neg: Rows, d: int) -> tuple[NDArray[np.uint64], int]:
    """Addresses in eights: four positive rows, then the same clients' negative ones; 0 stands for a row of zeros."""
    (plus, n), (minus, m) = rows_of(pos, d), rows_of(neg, d)
    if n != m:
        raise ValueError(f"{n} positive rows and {m} negative ones")
    both = np.zeros((-(-n // 4), 2, 4), np.uint64)
    for side, some in enumerate((plus, minus)):
        padded = np.zeros(both.shape[0] * 4, np.uint64)
        padded[:n] = some
        both[:, side] = padded.reshape(-1, 4)
    return both.reshape(-1), n


def checked_weights(weights: Numbers, n: int) -> Numbers:
    if weights.dtype not in (np.float32, np.int32) or weights.shape != (n,):
        raise ValueError(f"expected {n} float32 or int32 weights, got {weights.dtype} of shape {weights.shape}")
    if weights.dtype == np.int32 and np.abs(weights, dtype=np.float64).sum() >= 2**31:
        raise ValueError("the sum of the integer weights must stay below 2^31")
    return weights


def parts_of(keys: Sequence[Key]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The seeds, and the streams."""
    if isinstance(keys, Keys):
        return np.full(len(keys), keys.seed, np.uint64), keys.streams
    return np.array([key.seed for key in keys], np.uint64), np.array([key.stream for key in keys], np.uint64)
