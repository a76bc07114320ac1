"""Attacks that know nothing but their own update; see `OwnAttack`."""

from typing import final

import numpy as np

from fedq.attacks.base import OwnAttack, Wire
from fedq.kernels.records import Arrays

LOUD = np.float32(10)  # the deviation of gaussian noise, in root mean squares of the client's own update


@final
class SignFlip(OwnAttack):
    """Minus its own update (of votes: minus its own normalised weights)."""

    def forge(self, own: Arrays, start: Arrays, wire: Wire, random: np.random.Generator) -> Arrays:
        """Minus `own`."""
        return {n: -u for n, u in own.items()}


@final
class Random(OwnAttack):
    """Fair coins: +s or -s, with s = 1 for votes, else the mean magnitude of its own update."""

    def forge(self, own: Arrays, start: Arrays, wire: Wire, random: np.random.Generator) -> Arrays:
        """Coins of the shape of `own`."""
        return {n: _scale(u, wire) * (2 * random.integers(0, 2, u.shape, np.int8) - 1) for n, u in own.items()}


@final
class Gaussian(OwnAttack):
    """Normal noise in place of its update: of deviation 1 for votes (clipped), else 10 times its root mean square."""

    def forge(self, own: Arrays, start: Arrays, wire: Wire, random: np.random.Generator) -> Arrays:
        """Noise of the shape of `own`."""
        deviation = {n: np.float32(1) if wire.codec.unit else LOUD * np.sqrt(np.mean(u * u)) for n, u in own.items()}
        return {n: deviation[n] * random.standard_normal(u.shape, np.float32) for n, u in own.items()}


def _scale(u: np.ndarray, wire: Wire) -> np.float32:
    return np.float32(1) if wire.codec.unit else np.float32(np.abs(u).mean())
