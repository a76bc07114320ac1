"""Three symbols a weight, stochastic and unbiased on [-1, 1]: two bit planes (2 bits) or base 3 (1.6 bits)."""

from abc import abstractmethod
from typing import final

import numpy as np

from fedq.kernels import _reference as kernels
from fedq.kernels.codec import F32, PackedCodec
from fedq.rng import Key


class _Ternary(PackedCodec):
    """sign(x) with probability |x|, else 0, so E = x for x in [-1, 1] (FedVote, F5); leaves differ in format only."""

    unit = True

    @abstractmethod
    def write(self, planes: kernels.U8, d: int) -> kernels.U8:
        """Planes [2, ceil(d / 8)] -> wire bytes."""

    @abstractmethod
    def read(self, packed: kernels.U8, d: int) -> kernels.U8:
        """Wire bytes -> planes; FedqError for bytes that `write` never makes."""

    def pack(self, x: F32, key: Key) -> bytes:
        """Values [d] -> wire bytes."""
        return self.write(kernels.encode_ternary(x, np.float32(1), key), x.shape[0]).tobytes()

    def unpack(self, data: bytes, d: int) -> F32:
        """Wire bytes -> [d] of -1, 0, +1."""
        return kernels.decode_ternary(self.read(np.frombuffer(data, np.uint8), d), d)


@final
class Ternary(_Ternary):
    """The plane of +1, then the plane of -1: 2 ceil(d / 8) bytes."""

    name = "ternary"

    def nbytes(self, d: int) -> int:
        """2 ceil(d / 8)."""
        return 2 * -(-d // 8)

    def write(self, planes: kernels.U8, d: int) -> kernels.U8:
        """Plane after plane."""
        return planes.reshape(-1)

    def read(self, packed: kernels.U8, d: int) -> kernels.U8:
        """The two planes, checked to be disjoint and padded with zeros."""
        planes = packed.reshape(2, -1)
        if (planes[0] & planes[1]).any():
            raise self.malformed("a weight is both +1 and -1")
        if not (kernels.padding_is_zero(planes[0], d) and kernels.padding_is_zero(planes[1], d)):
            raise self.malformed("padding bits are set")
        return planes


@final
class TernaryBase3(_Ternary):
    """Five trits a byte: ceil(d / 5) bytes."""

    name = "ternary_base3"

    def nbytes(self, d: int) -> int:
        """ceil(d / 5)."""
        return -(-d // 5)

    def write(self, planes: kernels.U8, d: int) -> kernels.U8:
        """Planar blocks of 320 trits, then a tail of neighbours."""
        return kernels.pack_base3(planes, d)

    def read(self, packed: kernels.U8, d: int) -> kernels.U8:
        """The two planes."""
        planes, canonical = kernels.unpack_base3(packed, d)
        if not canonical:
            raise self.malformed("a byte above 242, or padding digits that are not zero")
        return planes
