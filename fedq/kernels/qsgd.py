"""QSGD: stochastic rounding to 2, 4 or 8 bits with one scale for 4096 values (Alistarh et al. 2017, arXiv 1610.02132).

The paper scales by the 2-norm of a bucket; here, as in its section on practical variants, by the largest magnitude:
2^(bits - 1) - 1 levels on either side of zero, unbiased, and no value is ever clipped.
"""

from typing import final

import numpy as np

from fedq.kernels import active as kernels
from fedq.kernels._reference import BUCKET, F32, U8
from fedq.kernels.codec import PackedCodec, sane
from fedq.rng import Key


@final
class Qsgd(PackedCodec):
    """Codes (ceil(d * bits / 8) bytes), then ceil(d / 4096) float32 scales."""

    def __init__(self, bits: int) -> None:
        assert bits in (2, 4, 8)
        self.bits, self.name = bits, f"qsgd{bits}"

    @property
    def about(self) -> str:
        """How many bits and levels."""
        n = 2**self.bits - 1
        rounded = f"{self.bits} bits a value, rounded at random to one of {n} levels from -s to s"
        return f"{rounded}; s = max |x| of {BUCKET:,} values. Unbiased."

    def nbytes(self, d: int) -> int:
        """Codes and scales."""
        return self._code_bytes(d) + 4 * -(-d // BUCKET)

    def pack(self, x: F32, key: Key) -> bytes:
        """Values [d] -> codes, then scales."""
        codes, scale = kernels.qsgd_encode(x, self.bits, key)
        return codes.tobytes() + scale.astype("<f4", copy=False).tobytes()

    def parts(self, data: bytes, d: int) -> tuple[U8, F32]:
        """Codes and scales."""
        n = self._code_bytes(d)
        packed = np.frombuffer(data, np.uint8, n)
        scale = np.frombuffer(data, "<f4", offset=n).astype(np.float32, copy=False)
        if not sane(scale) or (scale < 0).any():
            raise self.malformed("a scale is negative, huge or not finite")
        if not kernels.qsgd_valid(packed, self.bits):
            raise self.malformed("a code that stands for no level")
        if d * self.bits % 8 and int(packed[-1]) >> d * self.bits % 8:
            raise self.malformed("padding bits are set")
        return packed, scale

    def unpack(self, data: bytes, d: int) -> F32:
        """Codes and scales -> [d]."""
        return kernels.qsgd_decode(*self.parts(data, d), d, self.bits)

    def add_(self, total: F32, parts: tuple[U8, F32], weight: np.float32) -> None:
        """Add the codes directly; see `PackedCodec.add_`."""
        kernels.qsgd_add_(total, *parts, self.bits, weight)

    def _code_bytes(self, d: int) -> int:
        return -(-d * self.bits // 8)
