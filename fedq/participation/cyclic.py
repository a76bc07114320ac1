"""Clients that come for a stretch of rounds in every cycle (docs/fedau.md, A10)."""

from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedq.participation.base import Rated, RateOptions, ascending
from fedq.rng import rng


@final
class Cyclic(Rated):
    """Client n comes in round(C p_n) rounds on end of every cycle of C rounds, each client at a time of its own."""

    class Options(RateOptions):
        """`[participation]` keys of `cyclic`."""

        cycle: int = Field(100, ge=2, description="rounds of a cycle, C")
        wrap: bool = Field(
            False,
            description="stretches may begin at any round of the cycle; else none crosses its end, "
            "so that nobody comes in the last round of each, as in the released code",
        )

    def partitions(self, round_: int) -> list[int]:
        """Those whose stretch holds this round."""
        on_N, period_N, wait_N = self._stretches
        return ascending((round_ - 1 - wait_N) % period_N < on_N)

    @cached_property
    def _stretches(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rounds on, rounds of the period, and rounds before the first stretch, of every client."""
        C, wrap = self.options.cycle, self.options.wrap
        on_N = np.maximum(1, np.rint(C * self.p_N)).astype(np.int64)  # (A10)
        off_N = np.maximum(0 if wrap else 1, C - on_N)
        waits_N = on_N + off_N if wrap else off_N  # where a client's first stretch may begin
        return on_N, on_N + off_N, rng(self.seed, "participation", 0).integers(waits_N)
