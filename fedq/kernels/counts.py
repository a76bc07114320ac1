"""Shares of votes as counts: the lossless downlink of uniform voting.

M clients that vote -1 or +1 have only M + 1 means, (2 c - M) / M for c = 0 ... M; three symbols have 2 M + 1, which is
the same with 2 M in place of M. So a mean travels as c in ceil(log2(M + 1)) bits.
"""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._reference import F32, U8, padding_is_zero
from fedq.kernels.codec import LARGEST, PackedCodec, sane
from fedq.rng import Key

MOST_VOTERS = 1 << 12  # fewer voters can be told
_HEAD = 8


@final
class Counts(PackedCodec):
    """M (uint32) and the limit that means are clipped to (float32), then the bit planes of the counts, lowest first.

    M is the least number of voters that explains every value, or `voters` if that is given and does; where none does,
    M = 0 and the values follow as float32.
    """

    name = "counts"

    def __init__(self, voters: int = 0) -> None:
        assert 0 <= voters < MOST_VOTERS
        self._voters = voters

    def nbytes(self, d: int) -> int:
        """The most: values that are no means of votes."""
        return _HEAD + 4 * d

    def lengths(self, d: int) -> range:
        """Known exactly only from the head."""
        return range(_HEAD, max(self.nbytes(d), _HEAD + 13 * -(-d // 8)) + 1)

    def pack(self, x: F32, key: Key) -> bytes:
        """Head, then planes or values."""
        levels, place = (x, ...) if self._voters else np.unique(x, return_inverse=True)
        limit = np.float32(np.abs(levels).max(initial=0))
        for voters in [self._voters] if self._voters else _candidates(levels, limit):
            counts, depth = _counts(voters, levels, limit), voters.bit_length()
            if counts is not None and depth * -(-x.size // 8) <= 4 * x.size:
                counts = counts[place]
                bits = [np.packbits(counts & np.uint16(1 << b) != 0, bitorder="little").tobytes() for b in range(depth)]
                return _head(voters, limit) + b"".join(bits)
        return _head(0, limit) + x.astype("<f4", copy=False).tobytes()

    def unpack(self, data: bytes, d: int) -> F32:
        """Means [d]."""
        voters, limit = int(np.frombuffer(data, "<u4", 1)[0]), np.float32(np.frombuffer(data, "<f4", 1, 4)[0])
        depth, width = voters.bit_length(), -(-d // 8)
        if voters >= MOST_VOTERS or len(data) != _HEAD + (depth * width if voters else 4 * d):
            raise self.malformed("a length that does not fit the number of voters")
        if not 0 <= limit <= LARGEST:
            raise self.malformed("the limit is negative, huge or not finite")
        if not voters:
            x = np.frombuffer(data, "<f4", offset=_HEAD).astype(np.float32, copy=False)
            if not sane(x):
                raise self.malformed("NaN, infinite or huge values")
            return x
        planes: U8 = np.frombuffer(data, np.uint8, offset=_HEAD).reshape(depth, width)
        if not all(padding_is_zero(plane, d) for plane in planes):
            raise self.malformed("padding bits are set")
        counts = np.zeros(d, np.uint16)
        for b, plane in enumerate(planes):
            counts |= np.unpackbits(plane, count=d, bitorder="little").astype(np.uint16) << np.uint16(b)
        if counts.max(initial=0) > voters:
            raise self.malformed("more votes than voters")
        return _means(voters, np.arange(voters + 1), limit)[counts]


def _head(voters: int, limit: np.float32) -> bytes:
    return np.array(voters, "<u4").tobytes() + np.array(limit, "<f4").tobytes()


def _means(voters: int | NDArray[np.int64], counts: NDArray[Any], limit: np.float32) -> F32:
    of: F32 = np.asarray(voters).astype(np.float32)
    means: F32 = (2 * counts - voters).astype(np.float32) / of
    return means.clip(-limit, limit)


def _candidates(levels: F32, limit: np.float32) -> list[int]:
    """The numbers of voters that explain a few of the levels."""
    if limit > 1 or levels.size > MOST_VOTERS:
        return []
    every, few = np.arange(1, MOST_VOTERS)[:, None], levels[:: max(1, levels.size // 4)]
    counts = np.rint((few.astype(np.float64) + 1) * (every / 2)).clip(0, every)
    return (1 + np.flatnonzero((_means(every, counts, limit) == few).all(1))).tolist()


def _counts(voters: int, levels: F32, limit: np.float32) -> NDArray[np.uint16] | None:
    """The counts whose means are exactly these levels; None where there are none."""
    near = levels * np.float32(voters / 2)  # off by far less than the half that rounding allows
    near += np.float32(voters / 2)
    counts = np.clip(np.rint(near, out=near), 0, voters, out=near).astype(np.uint16)
    # 0.0 == -0.0: the sign of a zero mean is not kept
    same = _means(voters, np.arange(voters + 1), limit)[counts] == levels
    return counts if same.all() else None
