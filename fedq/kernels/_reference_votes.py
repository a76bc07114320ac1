"""The NumPy specification of the votes: N clients' packed bits to counts, majorities and weighted sums.

`rows` are N packed rows of ceil(d / 8) bytes: an array [N, ceil(d / 8)], or a list of N arrays. Weighted votes take
clients in eights. An eight adds `low + high`, the sums of its clients 0-3 and 4-7, each `(t0 + t1) + (t2 + t3)`; eights
are added in the order of the clients. So sums of float32 weights are the same bits on every machine.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._reference import F32, U8, pack_bits

Rows = U8 | Sequence[U8]
Counts = NDArray[np.uint8 | np.uint16]
Numbers = NDArray[np.float32 | np.int32]

_SUBSETS = np.unpackbits(np.arange(16, dtype=np.uint8)[:, None], axis=1, count=4, bitorder="little") != 0  # [16, 4]


def vote_counts(rows: Rows, d: int) -> Counts:
    """How many of the N < 65536 rows set each of d coordinates: uint8 up to N = 255, else uint16."""
    counts: Counts = np.zeros(d, np.uint8 if len(rows) <= 255 else np.uint16)
    for row in rows:
        np.add(counts, np.unpackbits(row, count=d, bitorder="little"), out=counts)
    return counts


def vote_majority(rows: Rows, d: int, ties: U8 | None = None) -> U8:
    """Packed: set where more than half of the rows are; where exactly half are, the bit of `ties`, or zero."""
    twice = 2 * vote_counts(rows, d).astype(np.int32)
    tie = False if ties is None else np.unpackbits(ties, count=d, bitorder="little") != 0
    return pack_bits((twice > len(rows)) | (twice == len(rows)) & tie)


def vote_plurality(pos: Rows, neg: Rows, d: int) -> U8:
    """Planes [2, ceil(d / 8)] of the symbol with more votes than either other; every tie is 0."""
    plus, minus = vote_counts(pos, d).astype(np.int32), vote_counts(neg, d).astype(np.int32)
    zero = len(pos) - plus - minus
    return np.stack([pack_bits((plus > minus) & (plus > zero)), pack_bits((minus > plus) & (minus > zero))])


def tables(weights: Numbers, signed: bool) -> Numbers:
    """Partial sums of every subset of each four clients, [ceil(N / 4), 16]; others count 0, or -w if `signed`."""
    w = np.zeros((-(-len(weights) // 4), 1, 4), weights.dtype)
    w.reshape(-1)[: len(weights)] = weights
    terms = np.where(_SUBSETS, w, -w if signed else w.dtype.type(0))
    halves = terms[..., 0::2] + terms[..., 1::2]
    sums: Numbers = halves[..., 0] + halves[..., 1]
    return sums


def vote_weighted(rows: Rows, weights: Numbers, d: int, *, signed: bool = False) -> Numbers:
    """The sum of the weights [N] of the rows that set each of d coordinates; of all rows, as +-1, if `signed`."""
    return _sum_of_fours(_fours(rows, d), tables(weights, signed), np.zeros(d, weights.dtype))


def vote_weighted_ternary(pos: Rows, neg: Rows, weights: Numbers, d: int) -> Numbers:
    """The sum of weights [N] times -1, 0, +1; the plus bits of four clients make the lower half of an eight."""
    both = [four for pair in zip(_fours(pos, d), _fours(neg, d), strict=True) for four in pair]
    subset = tables(weights, False)
    return _sum_of_fours(both, np.stack([subset, -subset], axis=1).reshape(-1, 16), np.zeros(d, weights.dtype))


def planes_add_(planes: U8, rows: Rows) -> None:
    """Bit-sliced counts [L, at least ceil(d / 8)] += rows: bit b of a count stands in plane b."""
    for row in rows:
        carry = row
        for plane in planes:
            plane[: len(row)], carry = plane[: len(row)] ^ carry, plane[: len(row)] & carry


def planes_sum(planes: U8, minus: U8 | int, d: int, weight: np.float32) -> F32:
    """[d] of weight * (2 count - n) for `minus` = n rows, or of weight * (count - count of the planes `minus`)."""
    counts = _counts(planes, d)
    difference = 2 * counts - minus if isinstance(minus, int) else counts - _counts(minus, d)
    scaled: F32 = weight * difference.astype(np.float32)
    return scaled


def vote_weighted_add_(total: F32, rows: Rows, weights: F32, *, signed: bool = False) -> None:
    """`total` [d] += the weighted vote of at most eight rows: a long vote, eight by eight."""
    assert len(rows) <= 8
    _sum_of_fours(_fours(rows, len(total)), tables(weights, signed), total)


def vote_weighted_ternary_add_(total: F32, pos: Rows, neg: Rows, weights: F32) -> None:
    """`total` [d] += the weighted ternary vote of at most four clients."""
    assert len(pos) <= 4
    subset = tables(weights, False)
    both = [*_fours(pos, len(total)), *_fours(neg, len(total))]
    _sum_of_fours(both, np.concatenate([subset, -subset]), total)


def _counts(planes: U8, d: int) -> NDArray[np.int32]:
    bits = np.unpackbits(planes, axis=1, count=d, bitorder="little")
    counts = np.zeros(d, np.int32)
    for b, plane in enumerate(bits):
        counts += plane.astype(np.int32) << b
    return counts


def _fours(rows: Rows, d: int) -> list[U8]:
    """For each four rows, [d] of their four bits as a number."""
    bits = [np.unpackbits(row, count=d, bitorder="little") for row in rows]
    packed = [np.packbits(np.stack(bits[k : k + 4]), axis=0, bitorder="little") for k in range(0, len(bits), 4)]
    return [four[0] for four in packed]


def _sum_of_fours(fours: Iterable[U8], partial: Numbers, total: Numbers) -> Numbers:
    """`total` += partial sums, two fours at a time."""
    looked = [table[four] for four, table in zip(fours, partial, strict=True)]
    for k in range(0, len(looked), 2):
        total += looked[k] + (looked[k + 1] if k + 1 < len(looked) else total.dtype.type(0))
    return total
