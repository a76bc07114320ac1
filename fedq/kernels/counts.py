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
        candidates = [self._voters] if self._voters else _candidates(levels, limit)
        voters = next((m for m in candidates if _explains(m, levels, limit)), 0)
        planes = voters.bit_length() * -(-x.size // 8)
        if not voters or planes > 4 * x.size:
            return _head(0, limit) + x.astype("<f4", copy=False).tobytes()
        counts = _nearest(voters, levels)[place]
        bits = [np.packbits(counts >> b & 1 != 0, bitorder="little").tobytes() for b in range(voters.bit_length())]
        return _head(voters, limit) + b"".join(bits)

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


def _nearest(voters: int, levels: F32) -> NDArray[np.int64]:
    return np.rint((levels.astype(np.float64) + 1) * (voters / 2)).clip(0, voters).astype(np.int64)


def _candidates(levels: F32, limit: np.float32) -> list[int]:
    """The numbers of voters that explain a few of the levels."""
    if limit > 1 or levels.size > MOST_VOTERS:
        return []
    every, few = np.arange(1, MOST_VOTERS)[:, None], levels[:: max(1, levels.size // 4)]
    counts = np.rint((few.astype(np.float64) + 1) * (every / 2)).clip(0, every)
    return (1 + np.flatnonzero((_means(every, counts, limit) == few).all(1))).tolist()


def _explains(voters: int, levels: F32, limit: np.float32) -> bool:
    # 0.0 == -0.0: the sign of a zero mean is not kept
    return bool((_means(voters, _nearest(voters, levels), limit) == levels).all())
