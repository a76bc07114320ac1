"""One bit a weight: stochastic (`binary`, unbiased on [-1, 1]) or deterministic (`sign`)."""

from abc import abstractmethod
from typing import final

import numpy as np

from fedq.kernels import _reference as kernels
from fedq.kernels.codec import F32, PackedCodec
from fedq.rng import Key


class _OneBit(PackedCodec):
    """Bits LSB first, ceil(d / 8) bytes; a set bit is +1, a clear one -1."""

    def nbytes(self, d: int) -> int:
        """ceil(d / 8)."""
        return -(-d // 8)

    @abstractmethod
    def bits(self, x: F32, key: Key) -> kernels.U8:
        """Values [d] -> packed bits."""

    def pack(self, x: F32, key: Key) -> bytes:
        """Values [d] -> packed bits as bytes."""
        return self.bits(x, key).tobytes()

    def unpack(self, data: bytes, d: int) -> F32:
        """Packed bits -> [d] of -1 and +1."""
        packed = np.frombuffer(data, np.uint8)
        if not kernels.padding_is_zero(packed, d):
            raise self.malformed("padding bits are set")
        return kernels.decode_binary(packed, d)


@final
class Binary(_OneBit):
    """Stochastic rounding of x in [-1, 1]: +1 with probability (x + 1) / 2, else -1, so E = x (FedVote, F4)."""

    name = "binary"
    unit = True

    def bits(self, x: F32, key: Key) -> kernels.U8:
        """Packed coins of P(+1) = x / 2 + 1 / 2."""
        return kernels.encode_bernoulli(x * np.float32(0.5) + np.float32(0.5), key)


@final
class Sign(_OneBit):
    """The sign of x, with sign(0) = +1 (signSGD). Biased: only the sign survives."""

    name = "sign"
    unbiased = False

    def bits(self, x: F32, key: Key) -> kernels.U8:
        """Packed x >= 0."""
        return kernels.encode_sign(x)
