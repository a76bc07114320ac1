"""Three symbols a weight, stochastic and unbiased on [-1, 1]: two bit planes (2 bits) or base 3 (1.6 bits)."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import final

import numpy as np

from fedq.kernels import active as kernels
from fedq.kernels._reference import F32, U8, padding_is_zero
from fedq.kernels.codec import Accumulator, PackedCodec
from fedq.kernels.votes import PayloadVotes
from fedq.rng import Key


class Planes(PackedCodec):
    """sign(x) with probability |x|, else 0: E = x for x in [-1, 1] (FedVote, F5). The leaves differ in format only."""

    unit = True

    @abstractmethod
    def write(self, planes: U8, d: int) -> U8:
        """Planes [2, ceil(d / 8)] -> wire bytes."""

    @abstractmethod
    def read(self, packed: U8, d: int) -> U8:
        """Wire bytes -> planes; FedqError for bytes that `write` never makes."""

    def pack(self, x: F32, key: Key) -> bytes:
        """Values [d] -> wire bytes."""
        return self.write(kernels.encode_ternary(x, np.float32(1), key), x.shape[0]).tobytes()

    def pack_rows(self, x_KD: F32, keys: Sequence[Key]) -> Iterable[bytes]:
        """All rows in one kernel call, then each in its format."""
        return (self.write(p, x_KD.shape[1]).tobytes() for p in kernels.encode_ternary_rows(x_KD, keys))

    def unpack(self, data: bytes, d: int) -> F32:
        """Wire bytes -> [d] of -1, 0, +1."""
        return kernels.decode_ternary(self.read(np.frombuffer(data, np.uint8), d), d)

    def parts(self, data: bytes, d: int) -> tuple[U8, U8]:
        """The plane of +1 and the plane of -1."""
        plus, minus = self.read(np.frombuffer(data, np.uint8), d)
        return plus, minus

    def accumulator(self, shape: tuple[int, ...]) -> Accumulator:
        """A vote on bit planes."""
        return PayloadVotes(self, shape, symbols=3)


@final
class Ternary(Planes):
    """The plane of +1, then the plane of -1: 2 ceil(d / 8) bytes."""

    name = "ternary"

    def nbytes(self, d: int) -> int:
        """2 ceil(d / 8)."""
        return 2 * -(-d // 8)

    def write(self, planes: U8, d: int) -> U8:
        """Plane after plane."""
        return planes.reshape(-1)

    def read(self, packed: U8, d: int) -> U8:
        """The two planes, checked to be disjoint and padded with zeros."""
        planes = packed.reshape(2, -1)
        if not kernels.disjoint(planes):
            raise self.malformed("a weight is both +1 and -1")
        if not (padding_is_zero(planes[0], d) and padding_is_zero(planes[1], d)):
            raise self.malformed("padding bits are set")
        return planes


@final
class TernaryBase3(Planes):
    """Five trits a byte: ceil(d / 5) bytes."""

    name = "ternary_base3"

    def nbytes(self, d: int) -> int:
        """ceil(d / 5)."""
        return -(-d // 5)

    def write(self, planes: U8, d: int) -> U8:
        """Planar blocks of 320 trits, then a tail of neighbours."""
        return kernels.pack_base3(planes, d)

    def read(self, packed: U8, d: int) -> U8:
        """The two planes."""
        planes, canonical = kernels.unpack_base3(packed, d)
        if not canonical:
            raise self.malformed("a byte above 242, or padding digits that are not zero")
        return planes
