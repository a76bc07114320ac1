"""Whole models as Flower records: named arrays, each one payload."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedq._flower import filled, held
from fedq.errors import FedqError
from fedq.kernels import codec
from fedq.kernels.codec import PackedCodec
from fedq.kernels.floats import Float32
from fedq.rng import Key, key, keys

Arrays = Mapping[str, NDArray[np.float32]]
FLOAT32 = Float32()
_NO_BITS = Key(0, 0)


def decode(payload: Array) -> NDArray[np.float32]:
    """The array of a payload of any registered codec, told by its stype; FedqError FQ302 for a strange one."""
    prefix, _, name = payload.stype.partition(".")
    if prefix != "fedq":
        raise FedqError("FQ302", f"a payload of stype `{payload.stype}`, which no codec of fedq writes")
    return codec(name).decode(payload)


def to_arrays(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Every payload of a record, decoded; float32 ones are read-only views."""
    return {name: decode(payload) for name, payload in held(record).items()}


def own(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """The arrays of a record that this very process made: float32 payloads are not searched for NaN again."""
    made = held(record).items()
    return {n: FLOAT32.view(p) if p.stype == FLOAT32.stype else decode(p) for n, p in made}


@final
class Reader:
    """`to_arrays` for what many clients are sent: the record that was read last is known by its very payloads."""

    def __init__(self) -> None:
        self._lock, self._last = Lock(), list[tuple[str, Array, bytes]]()
        self._arrays: dict[str, NDArray[np.float32]] = {}

    def __call__(self, record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
        """The arrays of a record."""
        now = [(name, payload, payload.data) for name, payload in held(record).items()]
        with self._lock:
            alike = len(now) == len(self._last) and all(
                n == name and p is payload and d is data
                for (n, p, d), (name, payload, data) in zip(now, self._last, strict=True)
            )
            if not alike:
                self._arrays = to_arrays(record)
                self._last = now
            return self._arrays


def record(payloads: Mapping[str, Array]) -> ArrayRecord:
    """A record of these payloads themselves; `ArrayRecord(payloads)` copies each."""
    return filled(ArrayRecord(), payloads)


def to_record(arrays: Arrays) -> ArrayRecord:
    """Named arrays as float32 payloads: the form in which a global model is held and handed about."""
    return record({name: FLOAT32.encode(x, key=_NO_BITS) for name, x in arrays.items()})


def encode(
    arrays: Arrays, by: PackedCodec, seed: int, purpose: str, *place: int | str, side: Arrays | None = None
) -> ArrayRecord:
    """Named arrays, each packed with random bits of its own: `key(seed, purpose, *place, name)`.

    `side` is what the clients shared before, by name, for a codec that wants it.
    """
    shared = side or {}
    return record(
        {n: by.encode(x, key=_bits(by, seed, purpose, *place, n), side=shared.get(n)) for n, x in arrays.items()}
    )


def encode_rows(
    arrays_K: Arrays, by: PackedCodec, seed: int, purpose: str, *place: int | str, each: Sequence[int]
) -> list[ArrayRecord]:
    """Arrays of K clients [K, ...], packed as `encode` would at (*place, k) for each k of `each`; K records."""
    packed = {}
    for name, x_K in arrays_K.items():
        bits = keys(seed, purpose, *place, each=each, then=[name]) if by.draws else [_NO_BITS] * len(each)
        packed[name] = by.encode_rows(x_K, bits)
    return [record(dict(zip(packed, rows, strict=True))) for rows in zip(*packed.values(), strict=True)]


def _bits(by: PackedCodec, seed: int, purpose: str, *place: int | str) -> Key:
    return key(seed, purpose, *place) if by.draws else _NO_BITS
