"""Hard votes straight from packed bits: the plurality of clients' votes, and how many coordinates of two votes agree.

Rows are a payload's bit planes: (plus,) for votes of -1 and +1, (plus, minus) for those of -1, 0 and +1, each
ceil(d / 8) bytes with zero padding. Nothing is ever unpacked but one count for each coordinate.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from flwr.app import Array

from fedq.kernels import active as kernels
from fedq.kernels._reference import F32, U8
from fedq.kernels.binary import Binary, Sign
from fedq.kernels.codec import PackedCodec
from fedq.kernels.ternary import Planes

Rows: TypeAlias = tuple[U8, ...]


def votes(codec: PackedCodec) -> bool:
    """Whether payloads of `codec` are votes: one of two or three symbols for each coordinate, and no scale."""
    return isinstance(codec, Binary | Sign | Planes)


def planes(codec: PackedCodec) -> int:
    """The bit planes of a payload of votes: 1 for two symbols, 2 for three."""
    return 2 if isinstance(codec, Planes) else 1


def rows_of(codec: PackedCodec, payload: Array) -> Rows:
    """The bit planes of a payload of votes; FedqError FQ302 if it is malformed."""
    assert votes(codec)
    rows: Rows = codec.open(payload)
    return rows


def plurality(rows_K: Sequence[Rows], d: int) -> Rows:
    """The most frequent symbol of each of `d` coordinates; ties go to the smallest symbol, so of two to -1."""
    plus = [rows[0] for rows in rows_K]
    if len(rows_K[0]) == 1:
        return (kernels.vote_majority(plus, d),)
    n_plus, n_minus = (kernels.vote_counts(plane, d).astype(np.int32) for plane in (plus, [r[1] for r in rows_K]))
    n_0 = len(rows_K) - n_plus - n_minus
    down = (n_minus >= n_0) & (n_minus >= n_plus)
    return _packed((n_plus > n_0) & ~down), _packed(down)


def likeliest(m: F32, n_planes: int) -> Rows:
    """The most likely symbol of each soft vote in [-1, 1] (F12): its sign, 0 to -1; of three: 0 up to 1/2."""
    m = m.reshape(-1)
    return (_packed(m > 0),) if n_planes == 1 else (_packed(m > 0.5), _packed(m < -0.5))


def agreement(a: Rows, b: Rows, d: int) -> int:
    """The number of coordinates with the same symbol: d less the set bits where any plane differs."""
    differ = a[0] ^ b[0]
    if len(a) == 2:
        differ = differ | (a[1] ^ b[1])
    return d - int(np.bitwise_count(differ).sum(dtype=np.int64))


def unpacked(rows: Rows, d: int) -> F32:
    """The votes as float32 [d]."""
    plus = np.unpackbits(rows[0], count=d, bitorder="little").astype(np.float32)
    if len(rows) == 1:
        return 2 * plus - 1
    return plus - np.unpackbits(rows[1], count=d, bitorder="little")


def _packed(bits: np.ndarray) -> U8:
    return np.packbits(bits, bitorder="little")
