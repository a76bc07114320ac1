"""The native kernels under the names of the specification, with `out=` and `threads=` besides.

Everything that C++ takes on trust is checked first (`_checks`). Arrays may be unaligned. A kernel's threads work on
slices of the coordinates, so the result does not depend on their number.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._checks import (
    MOST,
    address,
    bits_of,
    checked,
    checked_weights,
    code_bytes,
    codes_of,
    length,
    output,
    parts_of,
    planes_of,
    plus_minus,
    pointers_to,
    rows_of,
)
from fedq.kernels._library import library
from fedq.kernels._reference import BUCKET, F32, I8, U8, U32, padding_is_zero
from fedq.kernels._reference_rans import RANS_BLOCK, rans_lanes
from fedq.kernels._reference_votes import Counts, Numbers, Rows, tables
from fedq.rng import Key

_FLOAT, _BITS = Struct("<f"), Struct("<I")
_SLICE = 4096  # slices begin at its multiples: whole bytes, Philox tiles and QSGD buckets
_SLICE_BASE3 = 20480  # ... and whole blocks of 320 trits


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
    out = output(out, np.float32, (d,))
    _sliced("decode_binary", (bits_of(packed, d), address(out)), d, threads)
    return out


def decode_binary_i8(packed: U8, d: int, *, out: I8 | None = None, threads: int = 1) -> I8:
    """See `_reference`."""
    out = output(out, np.int8, (d,))
    _sliced("decode_binary_i8", (bits_of(packed, d), address(out)), d, threads)
    return out


def count_ones(packed: U8) -> int:
    """See `_reference`."""
    return int(call("count_ones", checked(packed, np.uint8), packed.size))


# ------------------------------------------------------------------------------------------------- ternary


def encode_ternary(x: F32, scale: np.float32, key: Key, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    out = output(out, np.uint8, (2, -(-length(x) // 8)))
    pointers = (address(out[0]), address(out[1]))
    _sliced("encode_ternary", (checked(x, np.float32), scale, key.seed, key.stream, *pointers), len(x), threads)
    return out


def encode_ternary_rows(x_KD: F32, keys: Sequence[Key], *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    return _encode_rows(2, x_KD, keys, out=out, threads=threads)


def encode_ternary_threshold(x: F32, threshold: np.float32, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    out = output(out, np.uint8, (2, -(-length(x) // 8)))
    _sliced(
        "encode_ternary_threshold",
        (checked(x, np.float32), threshold, address(out[0]), address(out[1])),
        len(x),
        threads,
    )
    return out


def disjoint(planes: U8) -> bool:
    """See `_reference`."""
    checked(planes, np.uint8, (2, planes.shape[-1]))
    return bool(call("disjoint", address(planes[0]), address(planes[1]), planes.shape[1]))


def decode_ternary(planes: U8, d: int, *, out: F32 | None = None, threads: int = 1) -> F32:
    """See `_reference`."""
    out = output(out, np.float32, (d,))
    _sliced("decode_ternary", (*planes_of(planes, d), address(out)), d, threads)
    return out


def decode_ternary_i8(planes: U8, d: int, *, out: I8 | None = None, threads: int = 1) -> I8:
    """See `_reference`."""
    out = output(out, np.int8, (d,))
    _sliced("decode_ternary_i8", (*planes_of(planes, d), address(out)), d, threads)
    return out


def pack_base3(planes: U8, d: int, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    out = output(out, np.uint8, (-(-d // 5),))
    _blocks("pack_base3", (*planes_of(planes, d), d, address(out)), d, threads)
    return out


def pack_base3_i8(trits: I8, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference`."""
    d = length(trits)
    out = output(out, np.uint8, (-(-d // 5),))
    _blocks("pack_base3_i8", (checked(trits, np.int8), d, address(out)), d, threads)
    return out


def unpack_base3(packed: U8, d: int, *, out: U8 | None = None, threads: int = 1) -> tuple[U8, bool]:
    """See `_reference`."""
    out = output(out, np.uint8, (2, -(-d // 8)))
    pointers = (checked(packed, np.uint8, (-(-d // 5),)), d, address(out[0]), address(out[1]))
    return out, all(_blocks("unpack_base3", pointers, d, threads))


def pack_mask_sign(planes: U8, d: int) -> U8:
    """See `_reference`."""
    pos, neg = planes_of(planes, d)
    mask, signs = np.empty(planes.shape[1], np.uint8), np.empty(-(-d // 8), np.uint8)
    n = call("pack_mask_sign", pos, neg, d, address(mask), address(signs))
    return np.concatenate([mask, signs[:n]])


def unpack_mask_sign(packed: U8, d: int) -> tuple[U8, bool]:
    """See `_reference`."""
    checked(packed, np.uint8)
    n = -(-d // 8)
    mask, signs = packed[:n], packed[n:]
    planes = np.zeros((2, len(mask)), np.uint8)
    if len(mask) < n:
        return planes, False
    ones = count_ones(mask)
    if not padding_is_zero(mask, d) or len(signs) != -(-ones // 8) or not padding_is_zero(signs, ones):
        return planes, False
    call("unpack_mask_sign", address(mask), address(signs), len(signs), d, address(planes[0]), address(planes[1]))
    return planes, True


def rans_encode(data: U8) -> U8:
    """See `_reference_rans`."""
    n, lanes, source = data.size, rans_lanes(data.size), checked(data, np.uint8)
    counts, states = np.empty(-(-n // RANS_BLOCK), "<u2"), np.empty(lanes, "<u4")
    room = np.empty(n + 16, "<u2")  # no byte takes more than a word; vectors store sixteen at a time
    words = call("rans_encode", source, n, lanes, address(counts), address(states), address(room))
    return np.concatenate([part.view(np.uint8) for part in (counts, states, room[len(room) - words :])])


def rans_decode(coded: U8, n: int) -> tuple[U8, int]:
    """See `_reference_rans`."""
    data = np.empty(n, np.uint8)
    used = call("rans_decode", checked(coded, np.uint8), coded.size, rans_lanes(n), address(data), n)
    return data, used


# ------------------------------------------------------------------------------------------------- QSGD, all of them


def qsgd_encode(
    x: F32, bits: int, key: Key, *, out: tuple[U8 | None, F32 | None] = (None, None), threads: int = 1
) -> tuple[U8, F32]:
    """See `_reference`."""
    d = length(x)
    codes = output(out[0], np.uint8, (code_bytes(d, bits),))
    scale = output(out[1], np.float32, (-(-d // BUCKET),))
    _sliced(
        "qsgd_encode", (checked(x, np.float32), bits, key.seed, key.stream, address(codes), address(scale)), d, threads
    )
    return codes, scale


def qsgd_decode(packed: U8, scale: F32, d: int, bits: int, *, out: F32 | None = None, threads: int = 1) -> F32:
    """See `_reference`."""
    out = output(out, np.float32, (d,))
    _sliced("qsgd_decode", (*codes_of(packed, scale, d, bits), bits, address(out)), d, threads)
    return out


def qsgd_add_(total: F32, packed: U8, scale: F32, bits: int, weight: np.float32, *, threads: int = 1) -> None:
    """See `_reference`."""
    d = len(output(total, np.float32, total.shape))
    _sliced("qsgd_add", (*codes_of(packed, scale, d, bits), bits, weight, address(total)), d, threads)


def qsgd_valid(packed: U8, bits: int) -> bool:
    """See `_reference`."""
    return bool(call("qsgd_valid", checked(packed, np.uint8), packed.size, bits))


def largest(x: F32) -> float:
    """See `_reference`."""
    (magnitude,) = _FLOAT.unpack(_BITS.pack(call("largest", checked(x, np.float32), 0, x.size)))
    return float(magnitude)


def moments(x: F32) -> tuple[float, float]:
    """See `_reference`."""
    out = np.empty(2)
    call("moments", checked(x, np.float32), x.size, address(out))
    return float(out[0]), float(out[1])


def topk(x: F32, k: int) -> tuple[U32, F32]:
    """See `_reference`."""
    k = min(k, length(x))
    index, value = np.empty(k, np.uint32), np.empty(k, np.float32)
    if call("topk", checked(x, np.float32), len(x), k, address(index), address(value)):
        raise MemoryError
    return index, value


# ------------------------------------------------------------------------------------------------- votes


def vote_counts(rows: Rows, d: int, *, out: Counts | None = None, threads: int = 1) -> Counts:
    """See `_reference_votes`."""
    out = output(out, np.uint8 if len(rows) <= 255 else np.uint16, (d,))
    _sliced("vote_counts", (*rows_of(rows, d), address(out), out.itemsize), d, threads)
    return out


def vote_majority(rows: Rows, d: int, ties: U8 | None = None, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference_votes`."""
    out = output(out, np.uint8, (-(-d // 8),))
    _sliced("vote_majority", (*rows_of(rows, d), None if ties is None else bits_of(ties, d), address(out)), d, threads)
    return out


def vote_plurality(pos: Rows, neg: Rows, d: int, *, out: U8 | None = None, threads: int = 1) -> U8:
    """See `_reference_votes`."""
    if len(pos) != len(neg):
        raise ValueError(f"{len(pos)} positive rows and {len(neg)} negative ones")
    out = output(out, np.uint8, (2, -(-d // 8)))
    plus, n = rows_of(pos, d)
    _sliced("vote_plurality", (plus, rows_of(neg, d)[0], n, address(out[0]), address(out[1])), d, threads)
    return out


def vote_weighted(
    rows: Rows, weights: Numbers, d: int, *, signed: bool = False, out: Numbers | None = None, threads: int = 1
) -> Numbers:
    """See `_reference_votes`."""
    pointers, n = rows_of(rows, d)
    partial = _eights(tables(checked_weights(weights, n), signed))
    return _vote(pointers, n, partial, out=output(out, weights.dtype, (d,)), threads=threads)


def vote_weighted_ternary(
    pos: Rows, neg: Rows, weights: Numbers, d: int, *, out: Numbers | None = None, threads: int = 1
) -> Numbers:
    """See `_reference_votes`."""
    pointers, n = plus_minus(pos, neg, d)
    subset = tables(checked_weights(weights, n), False)
    partial = np.stack([subset, -subset], axis=1)
    return _vote(pointers, pointers.size, partial, out=output(out, weights.dtype, (d,)), threads=threads)


def vote_weighted_add_(total: F32, rows: Rows, weights: F32, *, signed: bool = False, threads: int = 1) -> None:
    """See `_reference_votes`."""
    d = len(output(total, np.float32, total.shape))
    pointers, n = rows_of(rows, d)
    _add_eight(total, pointers, n, _eights(tables(checked_weights(weights, n), signed)), threads)


def vote_weighted_ternary_add_(total: F32, pos: Rows, neg: Rows, weights: F32, *, threads: int = 1) -> None:
    """See `_reference_votes`."""
    pointers, n = plus_minus(pos, neg, len(output(total, np.float32, total.shape)))
    subset = tables(checked_weights(weights, n), False)
    _add_eight(total, pointers, pointers.size, np.stack([subset, -subset], axis=1), threads)


def planes_add_(planes: U8, rows: Rows, *, threads: int = 1) -> None:
    """See `_reference_votes`; the planes' rows must be padded to multiples of 64 bytes."""
    d = 8 * (len(rows[0]) if len(rows) else 0)
    output(planes, np.uint8, planes.shape)
    if planes.ndim != 2 or planes.shape[1] % 64 or planes.shape[1] * 8 < d or not 0 < len(planes) <= 32:
        raise ValueError(f"planes of shape {planes.shape} for {d} coordinates")
    at = pointers_to(planes)
    for first in range(0, len(rows), 16):
        some, n = rows_of(rows[first : first + 16], d)
        _sliced("planes_add", (some, n, at, len(planes)), d, threads)


def planes_sum(planes: U8, minus: U8 | int, d: int, weight: np.float32, *, out: F32 | None = None) -> F32:
    """See `_reference_votes`; the planes' rows must be padded to multiples of 64 bytes."""
    out = output(out, np.float32, (d,))
    for some in (planes,) if isinstance(minus, int) else (planes, minus):
        checked(some, np.uint8, planes.shape)
    if planes.ndim != 2 or planes.shape[1] % 64 or planes.shape[1] * 8 < d or not 0 < len(planes) <= 31:
        raise ValueError(f"planes of shape {planes.shape} for {d} coordinates")
    n = minus if isinstance(minus, int) else 0
    other = None if isinstance(minus, int) else pointers_to(minus)
    _sliced("planes_sum", (pointers_to(planes), other, len(planes), n, weight, 0, address(out)), d, 1)
    return out


# ------------------------------------------------------------------------------------------------- calls


def _eights(fours: Numbers) -> Numbers:
    """Tables [ceil(N / 4), 16] made up to an even number."""
    return np.concatenate([fours, np.zeros((len(fours) % 2, 16), fours.dtype)])


def _vote(pointers: NDArray[np.uint64], n: int, partial: Numbers, *, out: Numbers, threads: int) -> Numbers:
    kernel = "vote_weighted" if out.dtype == np.float32 else "vote_weighted_i32"
    _sliced(kernel, (pointers, n, np.ascontiguousarray(partial), address(out)), len(out), threads)
    return out


def _add_eight(total: F32, pointers: NDArray[np.uint64], n: int, partial: Numbers, threads: int) -> None:
    if n > 8 or partial.dtype != np.float32:
        raise ValueError("at most eight rows of float32 weights are added at a time")
    _sliced("vote_weighted_add", (pointers, n, np.ascontiguousarray(partial), address(total)), len(total), threads)


def _encode_bits(kernel: str, x: F32, key: tuple[int, ...], out: U8 | None, threads: int) -> U8:
    out = output(out, np.uint8, (-(-length(x) // 8),))
    _sliced(kernel, (checked(x, np.float32), *key, address(out)), len(x), threads)
    return out


def _encode_rows(kind: int, x_KD: F32, keys: Sequence[Key], *, out: U8 | None, threads: int) -> U8:
    planes = (2,) if kind == 2 else ()
    K, d = x_KD.shape
    if len(keys) != K or d >= MOST:
        raise ValueError(f"{len(keys)} keys for an array of shape {x_KD.shape}")
    out = output(out, np.uint8, (K, *planes, -(-d // 8)))
    _sliced("encode_rows", (checked(x_KD, np.float32), d, *parts_of(keys), kind, address(out)), K, threads, 1)
    return out


def _blocks(kernel: str, arguments: tuple[Any, ...], d: int, threads: int) -> list[Any]:
    """Base 3 counts in blocks of 320; one more than the full ones stands for the tail."""
    return _sliced(kernel, arguments, d // 320 + 1, threads, _SLICE_BASE3 // 320)


def call(kernel: str, *arguments: Any) -> Any:
    """What a kernel returns."""
    found = library()
    assert found is not None
    return found.call[kernel](*arguments)


def _sliced(kernel: str, arguments: tuple[Any, ...], n: int, threads: int, unit: int = _SLICE) -> list[Any]:
    """`kernel(*arguments, begin, end)` over [0, n), in slices that begin at multiples of `unit`; their results."""
    found = library()
    assert found is not None
    function: Callable[..., Any] = found.call[kernel]
    values = tuple(address(a) if isinstance(a, np.ndarray) else a for a in arguments)
    step = -(-n // (unit * threads)) * unit if threads > 1 else n
    if step >= n:
        return [function(*values, 0, n)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda begin: function(*values, begin, min(begin + step, n)), range(0, n, step)))
