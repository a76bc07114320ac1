"""Clients that stay for a while and stay away for a while: a two-state Markov chain each (docs/fedau.md, A9)."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedq.participation.base import F64, Population, Rated, RateOptions, ascending, coins
from fedq.rng import rng


@final
class Markov(Rated):
    """Client n comes and goes as a Markov chain whose stationary share is p_n."""

    class Options(RateOptions):
        """`[participation]` keys of `markov`."""

        a: float = Field(0.05, gt=0, le=1, description="probability that a client who is away comes in the next round")

    def __init__(self, population: Population, options: Any) -> None:
        super().__init__(population, options)
        self._round, self._on_N = 0, np.zeros(0, bool)  # the trace so far: a cache, computed again where it is missing

    def partitions(self, round_: int) -> list[int]:
        """Those whose chain is on; the chains are played from their start where an earlier round is asked for."""
        come_N, go_N = transitions(self.p_N, self.options.a)
        if not self._on_N.size or round_ < self._round:
            self._round, self._on_N = 0, coins(rng(self.seed, "participation", 0), self.p_N)
        while self._round < round_:  # the first transition is before the first round
            self._round += 1
            turned_N = coins(rng(self.seed, "participation", self._round), np.where(self._on_N, go_N, come_N))
            self._on_N = self._on_N ^ turned_N
        return ascending(self._on_N)


def transitions(p_N: F64, a: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P(off -> on) and P(on -> off) of chains with stationary shares p_n; rare clients leave after one round."""
    with np.errstate(divide="ignore"):
        go_N = a * (1 / p_N - 1)  # (A9)
        come_N = np.where(go_N > 1, p_N / (1 - p_N), a)
    return come_N, np.minimum(go_N, 1)
