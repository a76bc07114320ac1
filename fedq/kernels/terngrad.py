"""TernGrad's ternary gradients: clip at 2.5 sigma, then s sign(g) b with P(b = 1) = |g| / s.

Wen et al.: TernGrad (NIPS 2017). The scale s of each array is the largest clipped magnitude; workers that share their
scales use the largest of all, so that their average is an integer multiple of s / N.
"""

from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from fedq.kernels import active as kernels
from fedq.kernels._reference import F32
from fedq.kernels.scaled import WithScale
from fedq.kernels.ternary import Planes
from fedq.rng import Key

ROUNDING = 1e-6  # of the mean square: less is no variance but float32 rounding
CLIP = 2.5  # of sigma, for all data, networks and optimizers of the paper


@final
class TernGrad(WithScale):
    """One float32 scale, then the symbols in `inner`'s format. Unbiased for the clipped gradient.

    `scale="max"` is the paper: g is clipped to +-2.5 sigma, s = max |clipped g|. `scale="sigma"` is the released code:
    s = 2.5 sigma, and nothing is clipped but by s itself (equal where max |g| >= 2.5 sigma and scales are not shared).
    """

    def __init__(self, name: str, inner: Planes, *, scale: Literal["max", "sigma"] = "max") -> None:
        super().__init__(name, inner, unbiased=False)
        self._planes, self._rule = inner, scale

    @property
    def about(self) -> str:
        """Which scale, and how many bits."""
        scale = "max |g| of g clipped at 2.5 sigma" if self._rule == "max" else "2.5 sigma, as in the released code"
        bits = 8 * self._planes.nbytes(10_000) / 10_000
        return f"-s, 0 or +s with probability |g| / s, in {bits:g} bits; s = {scale}. Unbiased for the clipped g."

    def side(self, x: F32) -> NDArray[np.float32]:
        """The scale of `x`, of shape (): what workers share."""
        values = np.ascontiguousarray(x, np.float32).reshape(-1)
        limit, largest = _limit(values), kernels.largest(values)
        return np.array(limit if self._rule == "sigma" and limit < np.inf else min(limit, largest), np.float32)

    def pack(self, x: F32, key: Key) -> bytes:
        """With a scale of its own."""
        return self.pack_with(x, key, self.side(x))

    def pack_with(self, x: F32, key: Key, side: NDArray[np.float32]) -> bytes:
        """The shared scale, then the symbols."""
        s = np.float32(side)
        if self._rule == "max":
            limit = _limit(x)
            x = x if limit >= s or kernels.largest(x) <= limit else x.clip(-limit, limit)
        if s <= np.finfo(np.float32).tiny:
            s, x = np.float32(0), np.zeros_like(x)
        planes = kernels.encode_ternary(x, s or np.float32(1), key)
        return np.array(s, "<f4").tobytes() + self._planes.write(planes, x.size).tobytes()


def _limit(x: F32) -> np.float32:
    """2.5 sigma, with sigma about the mean and over n; infinite for one value, or equal ones, which have no sigma."""
    sum_, squares = kernels.moments(x)
    variance = squares - sum_ * sum_ / max(x.size, 1)  # times n
    return np.float32(CLIP * np.sqrt(variance / x.size) if variance > ROUNDING * squares else np.inf)
