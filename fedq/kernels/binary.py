"""One bit a weight: stochastic (`binary`, unbiased on [-1, 1]) or deterministic (`sign`)."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import final

import numpy as np

from fedq.kernels import active as kernels
from fedq.kernels._reference import F32, U8, padding_is_zero
from fedq.kernels.codec import Accumulator, PackedCodec
from fedq.kernels.votes import PayloadVotes
from fedq.rng import Key


class _OneBit(PackedCodec):
    """Bits LSB first, ceil(d / 8) bytes; a set bit is +1, a clear one -1."""

    def nbytes(self, d: int) -> int:
        """ceil(d / 8)."""
        return -(-d // 8)

    @abstractmethod
    def bits(self, x: F32, key: Key) -> U8:
        """Values [d] -> packed bits."""

    def pack(self, x: F32, key: Key) -> bytes:
        """Values [d] -> packed bits as bytes."""
        return self.bits(x, key).tobytes()

    def parts(self, data: bytes, d: int) -> tuple[U8]:
        """The packed bits, their padding found clear."""
        packed = np.frombuffer(data, np.uint8)
        if not padding_is_zero(packed, d):
            raise self.malformed("padding bits are set")
        return (packed,)

    def unpack(self, data: bytes, d: int) -> F32:
        """Packed bits -> [d] of -1 and +1."""
        return kernels.decode_binary(*self.parts(data, d), d)

    def accumulator(self, shape: tuple[int, ...]) -> Accumulator:
        """A vote on packed bits."""
        return PayloadVotes(self, shape, symbols=2)


@final
class Binary(_OneBit):
    """Stochastic rounding of x in [-1, 1]: +1 with probability (x + 1) / 2, else -1, so E = x (FedVote, F4)."""

    name = "binary"
    unit = True

    def bits(self, x: F32, key: Key) -> U8:
        """Packed coins of P(+1) = x / 2 + 1 / 2."""
        return kernels.encode_binary(x, key)

    def pack_rows(self, x_KD: F32, keys: Sequence[Key]) -> Iterable[bytes]:
        """All rows in one kernel call."""
        return (row.tobytes() for row in kernels.encode_binary_rows(x_KD, keys))


@final
class Sign(_OneBit):
    """The sign of x, with sign(0) = +1 (signSGD). Biased: only the sign survives."""

    name = "sign"
    unbiased = False
    draws = False

    def bits(self, x: F32, key: Key) -> U8:
        """Packed x >= 0."""
        return kernels.encode_sign(x)
