"""The best ways to do the kernels' jobs with NumPy and with torch: what `fedq bench kernels` compares with."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Pair = tuple[Callable[[], object], Callable[[], object] | None]
_LOOK = (2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") - 1).astype(np.float32)


def _torch() -> Any:
    import torch

    torch.set_num_threads(1)
    return torch


@final
class Others:
    """One client's work on d weights x in [-1, 1]."""

    def __init__(self, d: int, x: NDArray[np.float32]) -> None:
        torch = _torch()
        bits = np.packbits(x >= 0, bitorder="little")
        out = np.empty((bits.size, 8), np.float32)
        p, t = x * np.float32(0.5) + np.float32(0.5), torch.from_numpy(x)
        pt, power = torch.from_numpy(p), torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
        look, index = torch.from_numpy(_LOOK), torch.from_numpy(bits.astype(np.int64))
        draw, full, k = np.random.Generator(np.random.SFC64(0)), d - d % 8, d // 100

        def pack(coins: Any) -> Any:
            return (coins[:full].view(-1, 8).to(torch.uint8) * power).sum(1, dtype=torch.uint8)

        def top() -> object:
            index = np.sort(np.argpartition(np.abs(x), d - k)[d - k :])
            return index, x[index]

        self.bernoulli: Pair = (
            lambda: np.packbits(draw.random(d, np.float32) < p, bitorder="little"),
            lambda: pack(torch.rand(d) < pt),
        )
        self.sign: Pair = (lambda: np.packbits(x >= 0, bitorder="little"), lambda: pack(t >= 0))
        self.decode: Pair = (
            lambda: np.take(_LOOK, bits, axis=0, out=out, mode="clip"),
            lambda: look.index_select(0, index),
        )
        self.topk: Pair = (top, lambda: t.abs().topk(k))
        self._d, self._x, self._t, self._draw, self._lib = d, x, t, draw, torch

    def qsgd(self, width: int) -> Pair:
        """Stochastic rounding to codes of 8 bits, one scale for 4096; 2 and 4 bits would be packed besides."""
        x, t, torch, draw = self._x, self._t, self._lib, self._draw
        levels, full = 2 ** (width - 1) - 1, self._d - self._d % 4096

        def by_numpy() -> object:
            buckets = x[:full].reshape(-1, 4096)
            scale = np.abs(buckets).max(1, keepdims=True)
            y = buckets * (levels / scale)
            return np.floor(y + draw.random(y.shape, np.float32)).astype(np.int8)

        def by_torch() -> object:
            buckets = t[:full].view(-1, 4096)
            y = buckets * (levels / buckets.abs().amax(1, keepdim=True))
            return torch.floor(y + torch.rand_like(y)).to(torch.int8)

        return by_numpy, by_torch


@final
class Votes:
    """n clients' packed rows; torch unpacks with shifts, and is left out where that takes many seconds."""

    def __init__(self, d: int, packed: NDArray[np.uint8], weights: NDArray[np.float32]) -> None:
        torch = _torch()
        rows, w = torch.from_numpy(packed), torch.from_numpy(weights)
        shifts, small = torch.arange(8, dtype=torch.uint8), len(packed) * d <= 2e8

        def unpacked(row: Any) -> Any:
            return ((row[:, None] >> shifts) & 1).reshape(-1)[:d]

        def counts() -> object:
            total = np.zeros(d, np.uint8 if len(packed) <= 255 else np.uint16)
            for row in packed:
                np.add(total, np.unpackbits(row, count=d, bitorder="little"), out=total)
            return total

        def counts_torch() -> object:
            total = torch.zeros(d, dtype=torch.int32)
            for row in rows:
                total += unpacked(row)
            return total

        def weighted() -> object:
            total = np.zeros(d, np.float32)
            for k in range(0, len(packed), 8):
                bits = np.unpackbits(packed[k : k + 8], axis=1, count=d, bitorder="little")
                at = np.packbits(bits, axis=0, bitorder="little")[0]
                table = np.zeros(1, np.float32)
                for weight in weights[k : k + 8]:
                    table = np.concatenate([table, table + weight])
                total += table[at]
            return total

        def weighted_torch() -> object:
            total = torch.zeros(d)
            for row, weight in zip(rows, w, strict=True):
                total.add_(unpacked(row), alpha=float(weight))
            return total

        self.counts: Pair = (counts, counts_torch if small else None)
        self.weighted: Pair = (weighted, weighted_torch if small else None)
