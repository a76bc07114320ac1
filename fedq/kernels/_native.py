"""The native kernels under the names of the specification, with `out=` and `threads=` besides.

Everything that C++ takes on trust is checked here first: element type, contiguity, lengths. Arrays may be unaligned. A
kernel's threads work on slices of the coordinates, so the result does not depend on their number.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._library import library
from fedq.kernels._reference import BUCKET, F32, I8, U8, U32
from fedq.kernels._reference_votes import Counts, Numbers, Rows, tables
from fedq.rng import Key

_SLICE = 4096  # slices begin at its multiples: whole bytes, Philox tiles and QSGD buckets
_SLICE_BASE3 = 20480  # ... and whole blocks of 320 trits
_MOST = 1 << 32  # coordinates: indices of 32 bits, and Philox blocks below 2^32


# ------------------------------------------------------------------------------------------------- one bit a weight


def encode_bernoulli(p: F32, key: Key, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    return _encode_bits("encode_bernoulli", p, (key.seed, key.stream), out, threads)


def encode_binary(x: F32, key: Key, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    return _encode_bits("encode_binary", x, (key.seed, key.stream), out, threads)


def encode_sign(x: F32, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    return _encode_bits("encode_sign", x, (), out, threads)


def encode_bernoulli_rows(p_KD: F32, keys: Sequence[Key], *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    return _encode_rows(0, p_KD, keys, out=out, threads=threads)


def encode_binary_rows(x_KD: F32, keys: Sequence[Key], *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    return _encode_rows(1, x_KD, keys, out=out, threads=threads)


def decode_binary(packed: U8, d: int, *, out: F32 | None = None, threads: int = 1) -> F32:
    """See `_reference`."""
    out = _output(out, np.float32, (d,))
    _sliced("decode_binary", (_bits(packed, d), _at(out)), d, threads)
    return out


def decode_binary_i8(packed: U8, d: int, *, out: I8 | None = None, threads: int = 1) -> I8:
    """See `_reference`."""
    out = _output(out, np.int8, (d,))
    _sliced("decode_binary_i8", (_bits(packed, d), _at(out)), d, threads)
    return out


# ------------------------------------------------------------------------------------------------- ternary


def encode_ternary(x: F32, scale: np.float32, key: Key, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    out = _output(out, np.uint8, (2, -(-_length(x) // 8)))
    pointers = (_at(out[0]), _at(out[1]))
    _sliced("encode_ternary", (_in(x, np.float32), scale, key.seed, key.stream, *pointers), len(x), threads)
    return out


def encode_ternary_rows(x_KD: F32, keys: Sequence[Key], *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    return _encode_rows(2, x_KD, keys, out=out, threads=threads)


def encode_ternary_threshold(x: F32, threshold: np.float32, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    out = _output(out, np.uint8, (2, -(-_length(x) // 8)))
    _sliced("encode_ternary_threshold", (_in(x, np.float32), threshold, _at(out[0]), _at(out[1])), len(x), threads)
    return out


def disjoint(planes: U8) -> bool:
    """See `_reference`."""
    _in(planes, np.uint8, (2, planes.shape[-1]))
    return bool(_call("disjoint", _at(planes[0]), _at(planes[1]), planes.shape[1]))


def decode_ternary(planes: U8, d: int, *, out: F32 | None = None, threads: int = 1) -> F32:
    """See `_reference`."""
    out = _output(out, np.float32, (d,))
    _sliced("decode_ternary", (*_planes(planes, d), _at(out)), d, threads)
    return out


def decode_ternary_i8(planes: U8, d: int, *, out: I8 | None = None, threads: int = 1) -> I8:
    """See `_reference`."""
    out = _output(out, np.int8, (d,))
    _sliced("decode_ternary_i8", (*_planes(planes, d), _at(out)), d, threads)
    return out


def pack_base3(planes: U8, d: int, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    out = _output(out, np.uint8, (-(-d // 5),))
    _blocks("pack_base3", (*_planes(planes, d), d, _at(out)), d, threads)
    return out


def unpack_base3(packed: U8, d: int, *, out: U8 | None = None, threads: int = 1) -> tuple[U8, bool]:
    """See `_reference`."""
    out = _output(out, np.uint8, (2, -(-d // 8)))
    pointers = (_in(packed, np.uint8, (-(-d // 5),)), d, _at(out[0]), _at(out[1]))
    return out, all(_blocks("unpack_base3", pointers, d, threads))


def pack_mask_sign(planes: U8, d: int) -> U8:
    """See `_reference`."""
    pos, neg = _planes(planes, d)
    mask, signs = np.empty(planes.shape[1], np.uint8), np.empty(-(-d // 8), np.uint8)
    n = _call("pack_mask_sign", pos, neg, d, _at(mask), _at(signs))
    return np.concatenate([mask, signs[:n]])


def unpack_mask_sign(packed: U8, d: int) -> tuple[U8, bool]:
    """See `_reference`."""
    _in(packed, np.uint8)
    n = -(-d // 8)
    mask, signs = packed[:n], packed[n:]
    planes = np.zeros((2, len(mask)), np.uint8)
    if len(mask) < n:
        return planes, False
    ones = _call("count_ones", _at(mask), n)
    if not _padded(mask, d) or len(signs) != -(-ones // 8) or not _padded(signs, ones):
        return planes, False
    _call("unpack_mask_sign", _at(mask), _at(signs), len(signs), d, _at(planes[0]), _at(planes[1]))
    return planes, True


# ------------------------------------------------------------------------------------------------- QSGD, the largest


def qsgd_encode(
    x: F32, bits: int, key: Key, *, out: tuple[U8 | None, F32 | None] = (None, None), threads: int = 1
) -> tuple[U8, F32]:
    """See `_reference`."""
    d = _length(x)
    codes = _output(out[0], np.uint8, (_code_bytes(d, bits),))
    scale = _output(out[1], np.float32, (-(-d // BUCKET),))
    _sliced("qsgd_encode", (_in(x, np.float32), bits, key.seed, key.stream, _at(codes), _at(scale)), d, threads)
    return codes, scale


def qsgd_decode(packed: U8, scale: F32, d: int, bits: int, *, out: F32 | None = None, threads: int = 1) -> F32:
    """See `_reference`."""
    out = _output(out, np.float32, (d,))
    _sliced("qsgd_decode", (*_codes(packed, scale, d, bits), bits, _at(out)), d, threads)
    return out


def qsgd_add_(total: F32, packed: U8, scale: F32, bits: int, weight: np.float32, *, threads: int = 1) -> None:
    """See `_reference`."""
    d = len(_output(total, np.float32, total.shape))
    _sliced("qsgd_add", (*_codes(packed, scale, d, bits), bits, weight, _at(total)), d, threads)


def qsgd_valid(packed: U8, bits: int) -> bool:
    """See `_reference`."""
    return bool(_call("qsgd_valid", _in(packed, np.uint8), packed.size, bits))


def largest(x: F32) -> float:
    """See `_reference`."""
    return float(np.uint32(_call("largest", _in(x, np.float32), 0, x.size)).view(np.float32))


def topk(x: F32, k: int) -> tuple[U32, F32]:
    """See `_reference`."""
    k = min(k, _length(x))
    index, value = np.empty(k, np.uint32), np.empty(k, np.float32)
    if _call("topk", _in(x, np.float32), len(x), k, _at(index), _at(value)):
        raise MemoryError
    return index, value


# ------------------------------------------------------------------------------------------------- votes


def vote_counts(rows: Rows, d: int, *, out: Counts | None = None, threads: int = 1) -> Counts:
    """See `_reference_votes`."""
    out = _output(out, np.uint8 if len(rows) <= 255 else np.uint16, (d,))
    _sliced("vote_counts", (*_rows(rows, d), _at(out), out.itemsize), d, threads)
    return out


def vote_majority(rows: Rows, d: int, ties: U8 | None = None, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference_votes`."""
    out = _output(out, np.uint8, (-(-d // 8),))
    _sliced("vote_majority", (*_rows(rows, d), None if ties is None else _bits(ties, d), _at(out)), d, threads)
    return out


def vote_plurality(pos: Rows, neg: Rows, d: int, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference_votes`."""
    if len(pos) != len(neg):
        raise ValueError(f"{len(pos)} positive rows and {len(neg)} negative ones")
    out = _output(out, np.uint8, (2, -(-d // 8)))
    plus, n = _rows(pos, d)
    _sliced("vote_plurality", (plus, _rows(neg, d)[0], n, _at(out[0]), _at(out[1])), d, threads)
    return out


def vote_weighted(
    rows: Rows, weights: Numbers, d: int, *, signed: bool = False, out: Numbers | None = None, threads: int = 1
) -> Numbers:
    """See `_reference_votes`."""
    pointers, n = _rows(rows, d)
    partial = _eights(tables(_weights(weights, n), signed))
    return _vote(pointers, n, partial, out=_output(out, weights.dtype, (d,)), threads=threads)


def vote_weighted_ternary(
    pos: Rows, neg: Rows, weights: Numbers, d: int, *, out: Numbers | None = None, threads: int = 1
) -> Numbers:
    """See `_reference_votes`."""
    pointers, n = _plus_minus(pos, neg, d)
    subset = tables(_weights(weights, n), False)
    partial = np.stack([subset, -subset], axis=1)
    return _vote(pointers, pointers.size, partial, out=_output(out, weights.dtype, (d,)), threads=threads)


def vote_weighted_add_(total: F32, rows: Rows, weights: F32, *, signed: bool = False, threads: int = 1) -> None:
    """See `_reference_votes`."""
    d = len(_output(total, np.float32, total.shape))
    pointers, n = _rows(rows, d)
    _add_eight(total, pointers, n, _eights(tables(_weights(weights, n), signed)), threads)


def vote_weighted_ternary_add_(total: F32, pos: Rows, neg: Rows, weights: F32, *, threads: int = 1) -> None:
    """See `_reference_votes`."""
    pointers, n = _plus_minus(pos, neg, len(_output(total, np.float32, total.shape)))
    subset = tables(_weights(weights, n), False)
    _add_eight(total, pointers, pointers.size, np.stack([subset, -subset], axis=1), threads)


def planes_add_(planes: U8, rows: Rows, *, threads: int = 1) -> None:
    """See `_reference_votes`; the planes' rows must be padded to multiples of 64 bytes."""
    d = 8 * (len(rows[0]) if len(rows) else 0)
    _output(planes, np.uint8, planes.shape)
    if planes.ndim != 2 or planes.shape[1] % 64 or planes.shape[1] * 8 < d or not 0 < len(planes) <= 32:
        raise ValueError(f"planes of shape {planes.shape} for {d} coordinates")
    at = _pointers(planes)
    for first in range(0, len(rows), 16):
        some, n = _rows(rows[first : first + 16], d)
        _sliced("planes_add", (some, n, at, len(planes)), d, threads)


def planes_sum(planes: U8, minus: U8 | int, d: int, weight: np.float32, *, out: F32 | None = None) -> F32:
    """See `_reference_votes`; the planes' rows must be padded to multiples of 64 bytes."""
    out = _output(out, np.float32, (d,))
    for some in (planes,) if isinstance(minus, int) else (planes, minus):
        _in(some, np.uint8, planes.shape)
    if planes.ndim != 2 or planes.shape[1] % 64 or planes.shape[1] * 8 < d or not 0 < len(planes) <= 31:
        raise ValueError(f"planes of shape {planes.shape} for {d} coordinates")
    n = minus if isinstance(minus, int) else 0
    other = None if isinstance(minus, int) else _pointers(minus)
    _sliced("planes_sum", (_pointers(planes), other, len(planes), n, weight, 0, _at(out)), d, 1)
    return out


# ------------------------------------------------------------------------------------------------- checks and calls


def _at(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _in(array: NDArray[Any], dtype: Any, shape: tuple[int, ...] | None = None) -> int:
    """The address of a contiguous array of this type (and shape)."""
    if array.dtype != dtype or not array.flags.c_contiguous or (shape is not None and array.shape != shape):
        kind = f"{np.dtype(dtype)} array" + (f" of shape {shape}" if shape is not None else "")
        raise ValueError(f"expected a contiguous {kind}, got {array.dtype} of shape {array.shape}")
    return _at(array)


def _output(out: NDArray[Any] | None, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    _in(out, dtype, shape)
    if not out.flags.writeable or not out.flags.aligned:
        raise ValueError("`out` must be writeable and aligned")
    return out


def _length(x: F32) -> int:
    if x.ndim != 1 or x.size >= _MOST:
        raise ValueError(f"expected fewer than 2^32 values in one dimension, got shape {x.shape}")
    return x.size


def _bits(packed: U8, d: int) -> int:
    return _in(packed, np.uint8, (-(-d // 8),))


def _planes(planes: U8, d: int) -> tuple[int, int]:
    _in(planes, np.uint8, (2, -(-d // 8)))
    return _at(planes[0]), _at(planes[1])


def _padded(bits: U8, n: int) -> bool:
    return n % 8 == 0 or int(bits[-1]) >> n % 8 == 0


def _code_bytes(d: int, bits: int) -> int:
    if bits not in (2, 4, 8):
        raise ValueError(f"codes of {bits} bits")
    return -(-d * bits // 8)


def _codes(packed: U8, scale: F32, d: int, bits: int) -> tuple[int, int]:
    return _in(packed, np.uint8, (_code_bytes(d, bits),)), _in(scale, np.float32, (-(-d // BUCKET),))


def _pointers(rows: Rows) -> NDArray[np.uint64]:
    if isinstance(rows, np.ndarray):
        return np.uint64(_at(rows)) + np.arange(len(rows), dtype=np.uint64) * np.uint64(rows.strides[0])
    return np.array([_at(row) for row in rows], np.uint64)


def _rows(rows: Rows, d: int) -> tuple[NDArray[np.uint64], int]:
    """The addresses of fewer than 65536 rows of ceil(d / 8) bytes, and their number."""
    if len(rows) >= 1 << 16:
        raise ValueError(f"{len(rows)} rows, at most 65535 are counted together")
    if isinstance(rows, np.ndarray):
        _in(rows, np.uint8, (len(rows), -(-d // 8)))
    else:
        for row in rows:
            _bits(row, d)
    return _pointers(rows), len(rows)


def _plus_minus(pos: Rows, neg: Rows, d: int) -> tuple[NDArray[np.uint64], int]:
    """Addresses in eights: four positive rows, then the same clients' negative ones; 0 stands for a row of zeros."""
    (plus, n), (minus, m) = _rows(pos, d), _rows(neg, d)
    if n != m:
        raise ValueError(f"{n} positive rows and {m} negative ones")
    both = np.zeros((-(-n // 4), 2, 4), np.uint64)
    for side, some in enumerate((plus, minus)):
        padded = np.zeros(both.shape[0] * 4, np.uint64)
        padded[:n] = some
        both[:, side] = padded.reshape(-1, 4)
    return both.reshape(-1), n


def _weights(weights: Numbers, n: int) -> Numbers:
    if weights.dtype not in (np.float32, np.int32) or weights.shape != (n,):
        raise ValueError(f"expected {n} float32 or int32 weights, got {weights.dtype} of shape {weights.shape}")
    if weights.dtype == np.int32 and np.abs(weights, dtype=np.float64).sum() >= 2**31:
        raise ValueError("the sum of the integer weights must stay below 2^31")
    return weights


def _eights(fours: Numbers) -> Numbers:
    """Tables [ceil(N / 4), 16] made up to an even number."""
    return np.concatenate([fours, np.zeros((len(fours) % 2, 16), fours.dtype)])


def _vote(pointers: NDArray[np.uint64], n: int, partial: Numbers, *, out: Numbers, threads: int) -> Numbers:
    kernel = "vote_weighted" if out.dtype == np.float32 else "vote_weighted_i32"
    _sliced(kernel, (pointers, n, np.ascontiguousarray(partial), _at(out)), len(out), threads)
    return out


def _add_eight(total: F32, pointers: NDArray[np.uint64], n: int, partial: Numbers, threads: int) -> None:
    if n > 8 or partial.dtype != np.float32:
        raise ValueError("at most eight rows of float32 weights are added at a time")
    _sliced("vote_weighted_add", (pointers, n, np.ascontiguousarray(partial), _at(total)), len(total), threads)


def _encode_bits(kernel: str, x: F32, key: tuple[int, ...], out: U8 | None, threads: int) -> U8:
    out = _output(out, np.uint8, (-(-_length(x) // 8),))
    _sliced(kernel, (_in(x, np.float32), *key, _at(out)), len(x), threads)
    return out


def _encode_rows(kind: int, x_KD: F32, keys: Sequence[Key], *, out: U8 | None, threads: int) -> U8:
    planes = (2,) if kind == 2 else ()
    K, d = x_KD.shape
    if len(keys) != K or d >= _MOST:
        raise ValueError(f"{len(keys)} keys for an array of shape {x_KD.shape}")
    out = _output(out, np.uint8, (K, *planes, -(-d // 8)))
    seeds, streams = (np.array([key[i] for key in keys], np.uint64) for i in range(2))
    _sliced("encode_rows", (_in(x_KD, np.float32), d, seeds, streams, kind, _at(out)), K, threads, 1)
    return out


def _blocks(kernel: str, arguments: tuple[Any, ...], d: int, threads: int) -> list[Any]:
    """Base 3 counts in blocks of 320; one more than the full ones stands for the tail."""
    return _sliced(kernel, arguments, d // 320 + 1, threads, _SLICE_BASE3 // 320)


def _call(kernel: str, *arguments: Any) -> Any:
    found = library()
    assert found is not None
    return found.call[kernel](*arguments)


def _sliced(kernel: str, arguments: tuple[Any, ...], n: int, threads: int, unit: int = _SLICE) -> list[Any]:
    """`kernel(*arguments, begin, end)` over [0, n), in slices that begin at multiples of `unit`; their results."""
    found = library()
    assert found is not None
    function: Callable[..., Any] = found.call[kernel]
    values = tuple(_at(a) if isinstance(a, np.ndarray) else a for a in arguments)
    step = -(-n // (unit * threads)) * unit if threads > 1 else n
    if step >= n:
        return [function(*values, 0, n)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda begin: function(*values, begin, min(begin + step, n)), range(0, n, step)))
