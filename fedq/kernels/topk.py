"""Top-k: only the largest magnitudes, with their places (Stich et al. 2018, arXiv 1809.07599)."""

from math import ceil
from typing import final

import numpy as np

from fedq.errors import FedqError
from fedq.kernels import active as kernels
from fedq.kernels._reference import F32, U32
from fedq.kernels.codec import PackedCodec, sane
from fedq.rng import Key


@final
class TopK(PackedCodec):
    """k = ceil(share d) indices (uint32, ascending), then k float32 values; the others are zero. Biased."""

    unbiased = False
    draws = False

    def __init__(self, name: str, share: float) -> None:
        assert 0 < share <= 1
        self.name, self._share = name, share

    @classmethod
    def of(cls, name: str) -> "TopK":
        """The codec called `topk:SHARE`. FedqError FQ106 if SHARE is not above 0 and at most 1.

        >>> TopK.of("topk:0.05").nbytes(1000)
        400
        """
        try:
            share = float(name.partition(":")[2])
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            hint = "write topk:SHARE with SHARE above 0 and at most 1, such as topk:0.05"
            raise FedqError("FQ106", f"a malformed codec `{name}`", hint=hint)
        return cls(name, share)

    @property
    def about(self) -> str:
        """Which share."""
        share = f"{100 * self._share:.3g}%"
        return f"The {share} of values that are largest in magnitude, 8 bytes each, others zero (topk:SHARE). Biased."

    def nbytes(self, d: int) -> int:
        """8 k."""
        return 8 * self._k(d)

    def pack(self, x: F32, key: Key) -> bytes:
        """Indices, then values."""
        if x.size >= 1 << 32:
            raise FedqError("FQ303", f"`{self.name}` carries fewer than 2^32 values, got {x.size}")
        index, value = kernels.topk(x, self._k(x.size))
        return index.astype("<u4", copy=False).tobytes() + value.astype("<f4", copy=False).tobytes()

    def parts(self, data: bytes, d: int) -> tuple[U32, F32]:
        """Indices and values."""
        k = self._k(d)
        index = np.frombuffer(data, "<u4", k).astype(np.uint32, copy=False)
        value = np.frombuffer(data, "<f4", k, 4 * k).astype(np.float32, copy=False)
        if k and (int(index[-1]) >= d or (index[1:] <= index[:-1]).any()):
            raise self.malformed("indices that do not ascend, or beyond the last value")
        if not sane(value):
            raise self.malformed("NaN, infinite or huge values")
        return index, value

    def unpack(self, data: bytes, d: int) -> F32:
        """Values [d], most of them zero."""
        index, value = self.parts(data, d)
        x = np.zeros(d, np.float32)
        x[index] = value
        return x

    def add_(self, total: F32, parts: tuple[U32, F32], weight: np.float32) -> None:
        """Touch the sum only where the payload has values; see `PackedCodec.add_`."""
        index, value = parts
        total[index] += weight * value

    def _k(self, d: int) -> int:
        return ceil(self._share * d)
