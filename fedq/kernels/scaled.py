"""Any values through a codec for [-1, 1]: one float32 scale in front of the packed bytes."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import final

import numpy as np
from flwr.app import Array

from fedq.kernels.codec import F32, LARGEST, Accumulator, PackedCodec, Parts
from fedq.rng import Key

_SCALE = Struct("<f")
TINY = np.finfo(np.float32).tiny  # a scale so small is none


class WithScale(PackedCodec):
    """`inner` on x / s, with s sent along: 4 bytes more than `inner`. A leaf says which s."""

    def __init__(self, name: str, inner: PackedCodec, *, unbiased: bool) -> None:
        self._inner, self.name, self.unbiased, self.draws = inner, name, unbiased, inner.draws

    @abstractmethod
    def pack(self, x: F32, key: Key) -> bytes:
        """The scale, then the inner bytes."""

    def nbytes(self, d: int) -> int:
        """4 + the inner length."""
        return 4 + self._inner.nbytes(d)

    def lengths(self, d: int) -> range:
        """4 + the inner lengths."""
        inner = self._inner.lengths(d)
        return range(4 + inner.start, 4 + inner.stop)

    def unpack(self, data: bytes, d: int) -> F32:
        """Inner values times the scale."""
        return self._inner.unpack(data[4:], d) * np.float32(self._scale(data))

    def accumulator(self, shape: tuple[int, ...]) -> Accumulator:
        """The inner accumulator, with each weight times the payload's scale."""
        return _ScaledSum(self, self._inner, shape)

    def parts(self, data: bytes, d: int) -> tuple[float, Parts]:
        """The scale, and what the inner bytes hold."""
        return self._scale(data), self._inner.parts(data[4:], d)

    def _scale(self, data: bytes) -> float:
        (scale,) = _SCALE.unpack_from(data)
        if not 0 <= scale <= LARGEST:
            raise self.malformed("the scale is negative, huge or not finite")
        return float(scale)


@final
class Scaled(WithScale):
    """For an unbiased `inner` s = max |x|, so the whole stays unbiased.

    For `sign` s = mean |x|, the scale of the nearest multiple of a sign vector (Bernstein et al. 2018; Karimireddy et
    al. 2019, EF-signSGD); its bias stays.
    """

    def __init__(self, inner: PackedCodec) -> None:
        super().__init__(f"scaled_{inner.name}", inner, unbiased=inner.unbiased)

    def pack(self, x: F32, key: Key) -> bytes:
        """The scale, then the inner bytes."""
        (packed,) = self.pack_rows(x[None], [key])
        return packed

    def pack_rows(self, x_KD: F32, keys: Sequence[Key]) -> Iterable[bytes]:
        """All rows at once."""
        by_mean = x_KD.size and not self.unbiased
        scale_K = np.abs(x_KD).mean(1) if by_mean else np.maximum(x_KD.max(1, initial=0), -x_KD.min(1, initial=0))
        none_K = scale_K <= TINY
        unit_KD = x_KD / np.maximum(scale_K, TINY)[:, None]
        if by_mean:
            np.clip(unit_KD, -1, 1, out=unit_KD)
        if none_K.any():
            unit_KD[none_K] = 0
        rows = zip(scale_K.astype("<f4", copy=False), self._inner.pack_rows(unit_KD, keys), strict=True)
        return (scale.tobytes() + packed for scale, packed in rows)


@final
class _ScaledSum:
    def __init__(self, outer: WithScale, inner: PackedCodec, shape: tuple[int, ...]) -> None:
        self._outer, self._shape, self._total = outer, shape, inner.accumulator(shape)

    def add(self, payload: Array, weight: float) -> None:
        self.fold(self._outer.open_as(payload, self._shape), weight)

    def fold(self, parts: tuple[float, Parts], weight: float) -> None:
        scale, inner = parts
        self._total.fold(inner, weight * scale)

    def sum(self) -> F32:
        return self._total.sum()
