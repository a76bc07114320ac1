"""Independent coins: in every round client n comes with probability p_n."""

from typing import final

from fedq.participation.base import Rated, ascending, coins
from fedq.rng import rng


@final
class Bernoulli(Rated):
    """Client n comes with probability p_n, independently of everything."""

    def partitions(self, round_: int) -> list[int]:
        """Those whose coin of this round shows heads."""
        return ascending(coins(rng(self.seed, "participation", round_), self.p_N))
