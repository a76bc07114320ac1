"""Floats as they are: 32 or 16 bits a value, little endian."""

from typing import final

import numpy as np
from flwr.app import Array

from fedq.errors import FedqError
from fedq.kernels.codec import F32, PackedCodec, sane
from fedq.rng import Key


@final
class Float32(PackedCodec):
    """Every bit of every value: 4 bytes each. Lossless."""

    name = "float32"
    draws = False

    def nbytes(self, d: int) -> int:
        """4 d."""
        return 4 * d

    def pack(self, x: F32, key: Key) -> bytes:
        """Values as little-endian float32."""
        return x.astype("<f4", copy=False).tobytes()

    def unpack(self, data: bytes, d: int) -> F32:
        """A read-only view of the bytes."""
        x = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
        if not sane(x):
            raise self.malformed("NaN, infinite or huge values")
        return x

    def view(self, payload: Array) -> F32:
        """`decode` of what this process packed: a read-only view, not searched for strange values."""
        return np.frombuffer(payload.data, "<f4").astype(np.float32, copy=False).reshape(payload.shape)


@final
class Float16(PackedCodec):
    """Half precision, rounded to nearest even: 2 bytes a value. Biased by at most half a unit in the last place."""

    name = "float16"
    unbiased = False
    draws = False

    def nbytes(self, d: int) -> int:
        """2 d."""
        return 2 * d

    def pack(self, x: F32, key: Key) -> bytes:
        """Values as little-endian float16."""
        with np.errstate(over="ignore"):
            half = x.astype("<f2")
        if not np.isfinite(half).all():
            raise FedqError("FQ303", "`float16` carries magnitudes up to 65504", hint="use `float32` or `qsgd8`")
        return half.tobytes()

    def unpack(self, data: bytes, d: int) -> F32:
        """Widened to float32."""
        x = np.frombuffer(data, "<f2").astype(np.float32)
        if not sane(x):
            raise self.malformed("NaN, infinite or huge values")
        return x
