"""Noise that nobody else can draw again: from the operating system's entropy, never from the run's seed.

The server knows seed and config, so it could subtract noise that follows from them, and draw again the batches that
amplify privacy. torch's CPU generator is no source either: whatever its seed, 32 bits of it are used, which a server
that sees the noisy update can try one by one. NumPy's Philox takes all 128 bits of its key.
"""

import secrets

import numpy as np

from fedq.rng import rng


def secret(seed: int | None, *place: int) -> np.random.Generator:
    """A fresh generator with a key of 128 bits from the system; with a `seed`, for tests only, one of this place."""
    if seed is None:
        return np.random.Generator(np.random.Philox(key=secrets.randbits(128)))
    return rng(seed, "noise", *place)
