"""How one array travels: the `Codec` contract, and what every codec shares.

A payload is Flower's own `Array(dtype, shape, stype, data)`: `dtype` and `shape` of the decoded array, `stype` naming
the codec, `data` the packed bytes. Plain Flower strategies refuse such a payload with a TypeError, so packed bytes
are never averaged by accident.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from inspect import getdoc
from math import prod
from typing import Any, Protocol, TypeAlias, final

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from fedq.errors import FedqError
from fedq.kernels import active as kernels
from fedq.rng import Key

F32: TypeAlias = NDArray[np.float32]
Parts: TypeAlias = Any  # what a payload holds, read and found sound, in a form of its codec's own

LARGEST = 2.0**60  # no codec carries larger magnitudes: sums of them stay finite, and nothing sane is near


class Accumulator(Protocol):
    """A weighted sum of payloads that grows by one payload at a time; its memory grows with the array only."""

    def add(self, payload: Array, weight: float) -> None:
        """Add `weight * decode(payload)`."""

    def fold(self, parts: Parts, weight: float) -> None:
        """`add` of what `Codec.open` read from a payload of this shape."""

    def sum(self) -> F32:
        """The sum so far, in the array's shape."""


class Codec(Protocol):
    """How one array travels. Law: `aggregate(ps, w) == sum_k w_k decode(p_k)`, to float32 rounding."""

    name: str
    unit: bool  # whether it carries values in [-1, 1] only
    unbiased: bool  # whether E[decode(encode(x))] = x

    def side(self, x: F32) -> NDArray[np.float32] | None:
        """A small value that clients must share before they encode (TernGrad's scale); None for most."""

    def encode(self, x: F32, *, key: Key, side: NDArray[np.float32] | None = None) -> Array:
        """Pack float32 `x` of any shape, with the random bits of `key`. FedqError if `x` cannot be carried."""

    def encode_rows(self, x_K: F32, keys: Sequence[Key]) -> list[Array]:
        """`encode` of K arrays of one shape [K, ...], each with a key of its own: the same bytes, faster."""

    def open(self, payload: Array) -> Parts:
        """What `payload` holds. FedqError unless it decodes: stype, dtype, length, bit patterns, finite numbers."""

    def decode(self, payload: Array) -> F32:
        """The array that `payload` carries; malformed bytes are a FedqError, never a crash."""

    def accumulator(self, shape: tuple[int, ...]) -> Accumulator:
        """An empty weighted sum of payloads of this shape."""

    def aggregate(self, payloads: Iterable[Array], weights: Iterable[float]) -> F32:
        """The weighted sum of payloads of one shape, straight from packed bytes; streams."""


class PackedCodec(ABC):
    """What codecs share: naming, checks, and a sum by decoding. A leaf says how values become bytes and back."""

    name: str
    unit = False
    unbiased = True
    draws = True  # whether `pack` takes random bits

    @property
    def about(self) -> str:
        """What it is, in one line: its docstring's first; a class with several codecs says which this one is."""
        return (getdoc(self) or "").split("\n")[0]

    @cached_property
    def stype(self) -> str:
        """The mark of this codec's payloads on the wire."""
        return f"fedq.{self.name}"

    @abstractmethod
    def nbytes(self, d: int) -> int:
        """The payload length of `d` values; the most, where it depends on them."""

    def lengths(self, d: int) -> range:
        """The payload lengths that `d` values may have, to refuse any other."""
        return range(self.nbytes(d), self.nbytes(d) + 1)

    @abstractmethod
    def pack(self, x: F32, key: Key) -> bytes:
        """Values [d] -> bytes; finite, and within [-1, 1] where `unit` is set."""

    @abstractmethod
    def unpack(self, data: bytes, d: int) -> F32:
        """Bytes of the right length -> values [d], perhaps a read-only view; FedqError for impossible ones."""

    def side(self, x: F32) -> NDArray[np.float32] | None:
        """None: nothing to share before encoding."""
        return None

    def pack_with(self, x: F32, key: Key, side: NDArray[np.float32]) -> bytes:
        """`pack` with what the clients shared; only for codecs whose `side` is not None."""
        raise AssertionError(f"`{self.name}` shares nothing before encoding")

    def encode(self, x: F32, *, key: Key, side: NDArray[np.float32] | None = None) -> Array:
        """Pack `x`; see `Codec.encode`."""
        values = np.ascontiguousarray(x, np.float32).reshape(-1)
        largest = kernels.largest(values)
        if not largest <= LARGEST:
            raise FedqError("FQ303", f"`{self.name}` cannot carry NaN, infinite or huge values: did training diverge?")
        if self.unit and largest > 1:
            raise FedqError(
                "FQ303",
                f"`{self.name}` carries values in [-1, 1], got magnitude {largest:.4g}",
                hint="wrap it: fedq.kernels.Scaled(codec) sends a scale along",
            )
        packed = self.pack(values, key) if side is None else self.pack_with(values, key, side)
        return payload(x.shape, self.stype, packed)

    def encode_rows(self, x_K: F32, keys: Sequence[Key]) -> list[Array]:
        """`encode` of K arrays of one shape [K, ...], each with a key of its own."""
        values_KD = np.ascontiguousarray(x_K, np.float32).reshape(len(keys), -1)
        if not kernels.largest(values_KD.reshape(-1)) <= (1 if self.unit else LARGEST):
            return [self.encode(x, key=key) for x, key in zip(x_K, keys, strict=True)]  # for the error of one
        return [payload(x_K.shape[1:], self.stype, packed) for packed in self.pack_rows(values_KD, keys)]

    def pack_rows(self, x_KD: F32, keys: Sequence[Key]) -> Iterable[bytes]:
        """`pack` of each row; codecs with a kernel for many rows override it."""
        return map(self.pack, x_KD, keys)

    def parts(self, data: bytes, d: int) -> Parts:
        """What bytes of the right length hold; FedqError for impossible ones.

        The values [d]; codecs whose sums take another form override it, and `add_` or `accumulator` with it.
        """
        return self.unpack(data, d)

    def open(self, payload: Array) -> Parts:
        """Read `payload`, or refuse it; see `Codec.open`."""
        return self.parts(payload.data, self.size(payload))

    def decode(self, payload: Array) -> F32:
        """Unpack `payload`; see `Codec.decode`."""
        return self.unpack(payload.data, self.size(payload)).reshape(payload.shape)

    def size(self, payload: Array) -> int:
        """The number of values of a payload whose outside is right: stype, dtype, shape, length."""
        if payload.stype != self.stype:
            raise FedqError("FQ302", f"a payload of stype `{payload.stype}`, expected `{self.stype}`")
        if payload.dtype != "float32":
            raise FedqError("FQ302", f"a `{self.name}` payload of dtype `{payload.dtype}`, expected `float32`")
        d, lengths = _room(self, tuple(payload.shape))
        if len(payload.data) not in lengths:
            raise FedqError(
                "FQ302",
                f"a `{self.name}` payload of {len(payload.data)} bytes, {d} values take {self.nbytes(d)}",
            )
        return d

    def accumulator(self, shape: tuple[int, ...]) -> Accumulator:
        """A float32 sum; codecs whose sums have another form override it."""
        return FloatSum(self, shape)

    def add_(self, total: F32, parts: Parts, weight: np.float32) -> None:
        """Add `weight` times what `parts` gave to `total` [d], in place."""
        total += parts if weight == 1 else weight * parts

    def open_as(self, payload: Array, shape: tuple[int, ...]) -> Parts:
        """`open`, for a payload that must have this shape."""
        if tuple(payload.shape) != shape:
            raise FedqError("FQ302", f"a payload of shape {payload.shape}, expected {shape}")
        return self.open(payload)

    def aggregate(self, payloads: Iterable[Array], weights: Iterable[float]) -> F32:
        """The weighted sum; see `Codec.aggregate`."""
        total: Accumulator | None = None
        for payload, weight in zip(payloads, weights, strict=True):
            if total is None:
                total = self.accumulator(payload.shape)
            total.add(payload, weight)
        if total is None:
            raise FedqError("FQ304", "there is nothing to aggregate")
        return total.sum()

    def malformed(self, why: str) -> FedqError:
        """The error of bytes that this codec never writes."""
        return FedqError("FQ302", f"a malformed `{self.name}` payload: {why}")


def payload(shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """`Array("float32", shape, stype, data)` without its tests of types, which take longer than packing does."""
    made = Array.__new__(Array)
    made.__dict__.update(dtype="float32", shape=shape, stype=stype, data=data)
    return made


@lru_cache(maxsize=4096)
def _room(codec: PackedCodec, shape: tuple[int, ...]) -> tuple[int, range]:
    """The number of values of this shape, and the payload lengths that they may have."""
    if any(n < 0 for n in shape):
        raise FedqError("FQ302", f"a `{codec.name}` payload of shape {shape}")
    d = prod(shape)
    return d, codec.lengths(d)


@final
class FloatSum:
    """The sum of payloads in one float32 array of their shape; the codec adds each in its own way."""

    def __init__(self, codec: PackedCodec, shape: tuple[int, ...]) -> None:
        self._codec, self._sum = codec, np.zeros(shape, np.float32)
        self._flat = self._sum.reshape(-1)

    def add(self, payload: Array, weight: float) -> None:
        """Add `weight * decode(payload)`."""
        self.fold(self._codec.open_as(payload, self._sum.shape), weight)

    def fold(self, parts: Parts, weight: float) -> None:
        """Add what was read from a payload."""
        self._codec.add_(self._flat, parts, np.float32(weight))

    def sum(self) -> F32:
        """The sum so far."""
        return self._sum


def sane(x: F32) -> bool:
    """Whether no value is NaN, infinite or beyond `LARGEST`."""
    return kernels.largest(np.ascontiguousarray(x).reshape(-1)) <= LARGEST
