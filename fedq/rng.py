"""Randomness is a function: of the run's seed, a purpose and the place where it is used. Nothing is stored.

Two forms. `rng` gives a NumPy generator (sampling, initial weights). `key` names a stream of Philox4x32-10 random
bits for the packed kernels and the order of batches, which any machine, core or GPU can reproduce bit for bit. In both,
the name `(purpose, *place)` is hashed with BLAKE2b, so streams are independent and resuming needs no generator state.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, final, overload

import numpy as np
from numpy.typing import NDArray

_PERSON = b"fedq"
_STREAMS = 2**63 - 1


class Key(NamedTuple):
    """A stream of random bits for the kernels: Philox key (64 bits) and stream id (63 bits)."""

    seed: int
    stream: int


@final
class Keys(Sequence[Key]):
    """Streams of one seed, as an array [K] of their ids: what kernels take for K clients."""

    def __init__(self, seed: int, streams: NDArray[np.uint64]) -> None:
        self.seed, self.streams = seed, streams

    def __len__(self) -> int:
        return len(self.streams)

    @overload
    def __getitem__(self, k: int) -> Key: ...
    @overload
    def __getitem__(self, k: slice) -> "Keys": ...
    def __getitem__(self, k: int | slice) -> "Key | Keys":
        some = self.streams[k]
        return Keys(self.seed, some) if isinstance(some, np.ndarray) else Key(self.seed, int(some))


def rng(seed: int, purpose: str, *place: int | str) -> np.random.Generator:
    """A generator for one purpose at one place of one run, such as `rng(seed, "augment", round_, partition)`.

    >>> float(rng(0, "doc", 1).random()) == float(rng(0, "doc", 1).random())
    True
    """
    return np.random.Generator(np.random.Philox(key=np.frombuffer(_digest(seed, purpose, place, size=16), "<u8")))


@final
class Places:
    """`rng(seed, purpose, *place)` for one place after another, in a quarter of the time, by one thread.

    >>> float(Places(0, "doc").at(1).random()) == float(rng(0, "doc", 1).random())
    True
    """

    def __init__(self, seed: int, purpose: str) -> None:
        self._seed, self._purpose, self._bits = seed, purpose, np.random.Philox(key=0)
        self._new, self._random = self._bits.state, np.random.Generator(self._bits)

    def at(self, *place: int | str) -> np.random.Generator:
        """The generator of a place; that of the place before is no more."""
        self._new["state"]["key"] = np.frombuffer(_digest(self._seed, self._purpose, place, size=16), "<u8")
        self._bits.state = self._new
        return self._random


def key(seed: int, purpose: str, *place: int | str) -> Key:
    """The kernels' stream for one purpose at one place, such as `key(seed, "up", round_, partition, name)`."""
    stream = int.from_bytes(_digest(0, purpose, place, size=8), "little")
    return Key(seed & (2**64 - 1), stream & _STREAMS)


def keys(seed: int, purpose: str, *place: int | str, each: Iterable[int], then: Sequence[str] = ()) -> Keys:
    """`key(seed, purpose, *place, e, *then)` for every `e` of `each`, in a third of the time."""
    start, end = repr((0, purpose, *place))[:-1] + ", ", "".join(f", {word!r}" for word in then) + ")"
    begun, digests = hashlib.blake2b(start.encode(), digest_size=8, person=_PERSON), bytearray()
    for e in each:
        name = begun.copy()
        name.update(f"{e}{end}".encode())
        digests += name.digest()
    return Keys(seed & (2**64 - 1), np.frombuffer(digests, "<u8") & np.uint64(_STREAMS))


def _digest(seed: int, purpose: str, place: Sequence[int | str], *, size: int) -> bytes:
    name = repr((seed, purpose, *place)).encode()
    return hashlib.blake2b(name, digest_size=size, person=_PERSON).digest()
