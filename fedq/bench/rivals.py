"""The best ways to do the kernels' jobs with NumPy and with torch: what `fedq bench kernels` compares with."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Pair = tuple[Callable[[], object], Callable[[], object] | None]
_LOOK = (2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") - 1).astype(np.float32)
_SPREAD = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").view(np.uint64).reshape(-1)


def _torch() -> Any:
    import torch

    torch.set_num_threads(1)
    return torch


def _packer(torch: Any, d: int) -> Callable[[Any], Any]:
    """Torch has no packbits: eight booleans times powers of two, summed."""
    power, full = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8), d - d % 8
    return lambda coins: (coins[:full].view(-1, 8).to(torch.uint8) * power).sum(1, dtype=torch.uint8)


@final
class Others:
    """One client's work on d weights x in [-1, 1]."""

    def __init__(self, d: int, x: NDArray[np.float32]) -> None:
        torch = _torch()
        bits = np.packbits(x >= 0, bitorder="little")
        out = np.empty((bits.size, 8), np.float32)
        t, pack = torch.from_numpy(x), _packer(torch, d)
        look, index = torch.from_numpy(_LOOK), torch.from_numpy(bits.astype(np.int64))
        draw, k = np.random.Generator(np.random.SFC64(0)), d // 100

        def top() -> object:
            index = np.sort(np.argpartition(np.abs(x), d - k)[d - k :])
            return index, x[index]

        self.binary: Pair = (
            lambda: np.packbits(2 * draw.random(d, np.float32) - 1 < x, bitorder="little"),
            lambda: pack(2 * torch.rand(d) - 1 < t),
        )
        self.sign: Pair = (lambda: np.packbits(x >= 0, bitorder="little"), lambda: pack(t >= 0))
        self.decode: Pair = (
            lambda: np.take(_LOOK, bits, axis=0, out=out, mode="clip"),
            lambda: look.index_select(0, index),
        )
        self.topk: Pair = (top, lambda: t.abs().topk(k))
        self._d, self._x, self._t, self._draw, self._lib, self._pack = d, x, t, draw, torch, pack

    def bernoulli(self, p: NDArray[np.float32]) -> Pair:
        """Coins of probabilities p."""
        d, draw, torch, pack, t = self._d, self._draw, self._lib, self._pack, self._lib.from_numpy(p)
        return (
            lambda: np.packbits(draw.random(d, np.float32) < p, bitorder="little"),
            lambda: pack(torch.rand(d) < t),
        )

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
class Trits:
    """One client's ternary work; base 3 on whole blocks of 320 weights."""

    def __init__(self, d: int, x: NDArray[np.float32], planes: NDArray[np.uint8]) -> None:
        torch = _torch()
        draw, t, pack = np.random.Generator(np.random.SFC64(0)), torch.from_numpy(x), _packer(torch, d)
        pos, neg = planes
        index = [torch.from_numpy(plane.astype(np.int64)) for plane in planes]
        unit, spread = torch.from_numpy((_LOOK + 1) / 2), torch.from_numpy(_SPREAD.view(np.int64))
        blocks, ones = d // 320, np.uint64(0x0101010101010101)

        def encode() -> object:
            hit = draw.random(d, np.float32) < np.abs(x)
            return np.packbits(hit & (x > 0), bitorder="little"), np.packbits(hit & (x < 0), bitorder="little")

        def encode_torch() -> object:
            hit = torch.rand(d) < t.abs()
            return pack(hit & (t > 0)), pack(hit & (t < 0))

        def by_bytes() -> NDArray[np.uint64]:
            digits: NDArray[np.uint64] = _SPREAD[pos] + ones - _SPREAD[neg]
            return digits  # 1 + trit in every byte: nothing is borrowed

        def by_bytes_torch() -> Any:
            return spread.index_select(0, index[0]) + int(ones) - spread.index_select(0, index[1])

        def base3(digits: Any) -> object:
            of = digits[: blocks * 320].reshape(-1, 5, 64)
            return (((of[:, 4] * 3 + of[:, 3]) * 3 + of[:, 2]) * 3 + of[:, 1]) * 3 + of[:, 0]

        self.encode: Pair = (encode, encode_torch)
        self.decode: Pair = (
            lambda: by_bytes().view(np.int8).astype(np.float32) - 1,
            lambda: unit.index_select(0, index[0]) - unit.index_select(0, index[1]),
        )
        self.decode_i8: Pair = (
            lambda: by_bytes().view(np.int8) - np.int8(1),
            lambda: by_bytes_torch().view(torch.int8) - 1,
        )
        self.pack: Pair = (lambda: base3(by_bytes().view(np.uint8)), lambda: base3(by_bytes_torch().view(torch.uint8)))
        self._base3 = base3
        self._blocks, self._lib, self._bits = blocks, torch, _packer(torch, blocks * 320)

    def pack_i8(self, trits: NDArray[np.int8]) -> Pair:
        """Base 3 from trits of a byte each."""
        t, torch = self._lib.from_numpy(trits), self._lib
        return (
            lambda: self._base3((trits + np.int8(1)).view(np.uint8)),
            lambda: self._base3((t + 1).view(torch.uint8)),
        )

    def unpack(self, packed: NDArray[np.uint8]) -> Pair:
        """Bytes to planes: a table of each digit, then bits."""
        digit = np.arange(256)[:, None] // 3 ** np.arange(5) % 3
        at = packed[: self._blocks * 64].reshape(-1, 64)
        torch, pack = self._lib, self._bits
        tables = [np.ascontiguousarray((digit == value).T) for value in (2, 0)]
        index = torch.from_numpy(at.reshape(-1).astype(np.int64))

        def by_numpy() -> object:
            each = [np.stack([np.take(digit, at) for digit in table], axis=1) for table in tables]
            return [np.packbits(bits.reshape(-1), bitorder="little") for bits in each]

        def by_torch() -> object:
            each = [
                [torch.from_numpy(digit).index_select(0, index).view(-1, 64) for digit in table] for table in tables
            ]
            return [pack(torch.stack(bits, 1).view(-1)) for bits in each]

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

        def counts(packed: NDArray[np.uint8] = packed) -> Any:
            total = np.zeros(d, np.uint8 if len(packed) <= 255 else np.uint16)
            for row in packed:
                np.add(total, np.unpackbits(row, count=d, bitorder="little"), out=total)
            return total

        def counts_torch(rows: Any = rows) -> Any:
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
        self._d, self._small, self._lib, self._counts, self._counts_torch = d, small, torch, counts, counts_torch

    def plurality(self, pos: NDArray[np.uint8], neg: NDArray[np.uint8]) -> Pair:
        """Counts of both planes, compared."""
        d, torch = self._d, self._lib
        n, pack, two = len(pos), _packer(torch, d), [torch.from_numpy(rows) for rows in (pos, neg)]

        def by_numpy() -> object:
            plus, minus = self._counts(pos), self._counts(neg)
            zero = n - plus - minus
            won = (plus > minus) & (plus > zero), (minus > plus) & (minus > zero)
            return [np.packbits(some, bitorder="little") for some in won]

        def by_torch() -> object:
            plus, minus = (self._counts_torch(rows) for rows in two)
            zero = n - plus - minus
            return pack((plus > minus) & (plus > zero)), pack((minus > plus) & (minus > zero))

        return by_numpy, by_torch if self._small else None
