"""Sums of clients' votes, straight from their packed bits, one client at a time."""

from typing import Any, final

import numpy as np
from flwr.app import Array

from fedq.kernels import active as kernels
from fedq.kernels._reference import F32, U8

_ROWS = 16  # rows that are counted together


@final
class VoteAccumulator:
    """sum_k w_k v_k over rows v_k of -1 and +1 (one bit plane), or of -1, 0, +1 (two: plus and minus).

    Rows of the first weight met are counted exactly, one bit plane for each bit of the count: memory is d log2(K) bits.
    Only where weights differ is there a float32 sum; the other rows are added to it, in the order of the clients.
    """

    def __init__(self, d: int, symbols: int = 2) -> None:
        assert symbols in (2, 3)
        self._d, self._width, self._ternary = d, -(-d // 512) * 64, symbols == 3
        self._weight: np.float32 | None = None
        self._planes = [np.zeros((0, self._width), np.uint8) for _ in range(symbols - 1)]
        self._counted, self._waiting = 0, [list[U8]() for _ in self._planes]
        self._others, self._weights = [list[U8]() for _ in self._planes], list[np.float32]()
        self._total: F32 | None = None

    def add(self, row: U8, *minus: U8, weight: float = 1.0) -> None:
        """Add a client's packed row; of ternary votes the plus row and the minus row. Rows are kept for a while."""
        w = np.float32(weight)
        if self._weight is None:
            self._weight = w
        for queue, some in zip(self._waiting if w == self._weight else self._others, (row, *minus), strict=True):
            queue.append(some)
        if w != self._weight:
            self._weights.append(w)
        if len(self._waiting[0]) == _ROWS:
            self._count()
        if len(self._weights) == (4 if self._ternary else 8):
            self._total = self._with_others()
            self._weights.clear()
            for queue in self._others:
                queue.clear()

    def sum(self) -> F32:
        """The sum so far, [d]; more rows may follow."""
        self._count()
        if self._weight is None:
            return np.zeros(self._d, np.float32)
        minus: Any = self._planes[1] if self._ternary else self._counted
        counted = kernels.planes_sum(self._planes[0], minus, self._d, self._weight)
        if self._total is not None or self._weights:
            counted += self._with_others(keep=True)
        return counted

    def _count(self) -> None:
        self._counted += len(self._waiting[0])
        missing = self._counted.bit_length() - len(self._planes[0])
        for side, rows in enumerate(self._waiting):
            if missing > 0:
                more = np.zeros((missing, self._width), np.uint8)
                self._planes[side] = np.concatenate([self._planes[side], more])
            if rows:
                kernels.planes_add_(self._planes[side], rows)
            rows.clear()

    def _with_others(self, *, keep: bool = False) -> F32:
        """The float sum with the rows that wait for it; `keep`: in a copy."""
        total = np.zeros(self._d, np.float32) if self._total is None else self._total.copy() if keep else self._total
        weights = np.array(self._weights, np.float32)
        if self._ternary and self._weights:
            kernels.vote_weighted_ternary_add_(total, self._others[0], self._others[1], weights)
        elif self._weights:
            kernels.vote_weighted_add_(total, self._others[0], weights, signed=True)
        return total


@final
class PayloadVotes:
    """The accumulator of a codec whose payloads are votes: their parts are rows."""

    def __init__(self, codec: Any, shape: tuple[int, ...], symbols: int) -> None:
        self._codec, self._shape = codec, shape
        self._votes = VoteAccumulator(int(np.prod(shape, dtype=np.int64)), symbols)

    def add(self, payload: Array, weight: float) -> None:
        """Add `weight * decode(payload)`."""
        self.fold(self._codec.open_as(payload, self._shape), weight)

    def fold(self, parts: tuple[U8, ...], weight: float) -> None:
        """Add the rows of a payload."""
        self._votes.add(*parts, weight=weight)

    def sum(self) -> F32:
        """The sum so far."""
        return self._votes.sum().reshape(self._shape)
