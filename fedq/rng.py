"""Randomness is a function: of the run's seed, a purpose and the place where it is used. Nothing is stored.

Two forms. `rng` gives a NumPy generator (sampling, initial weights). `key` names a stream of Philox4x32-10 random
bits for the packed kernels and the order of batches, which any machine, core or GPU can reproduce bit for bit. In both,
the name `(purpose, *place)` is hashed with BLAKE2b, so streams are independent and resuming needs no generator state.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Key(NamedTuple):
    """A stream of random bits for the kernels: Philox key (64 bits) and stream id (63 bits)."""

    seed: int
    stream: int


def rng(seed: int, purpose: str, *place: int | str) -> np.random.Generator:
    """A generator for one purpose at one place of one run, such as `rng(seed, "augment", round_, partition)`.

    >>> float(rng(0, "doc", 1).random()) == float(rng(0, "doc", 1).random())
    True
    """
    return np.random.Generator(np.random.Philox(key=np.frombuffer(_digest(seed, purpose, place, size=16), "<u8")))


def key(seed: int, purpose: str, *place: int | str) -> Key:
    """The kernels' stream for one purpose at one place, such as `key(seed, "up", round_, partition, name)`."""
    stream = int.from_bytes(_digest(0, purpose, place, size=8), "little")
    return Key(seed & (2**64 - 1), stream & (2**63 - 1))


def _digest(seed: int, purpose: str, place: Sequence[int | str], *, size: int) -> bytes:
    name = repr((seed, purpose, *place)).encode()
    return hashlib.blake2b(name, digest_size=size, person=b"fedq").digest()
