"""FedAU's weights: the mean length of the intervals between a client's participations, cut off at K rounds.

Two forms of one rule. `Intervals` follows all N clients round by round, where somebody sees who comes. `Sleeper` is
what one client can know: it catches up from the number of the round when it wakes. Both keep whole numbers, the count
M of closed intervals and their total length T: omega = T/M is the mean that the paper's recursion
omega <- (M omega + S)/(M + 1) computes, without its rounding. K = 0 stands for no cut-off.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Intervals:
    """Of each client: closed intervals M, their total length T, and the length S of the one that runs."""

    K: int
    M_N: I64
    T_N: I64
    S_N: I64

    @classmethod
    def fresh(cls, clients: int, K: int) -> "Intervals":
        """Before the first round."""
        return cls(K, *np.zeros((3, clients), np.int64))

    @property
    def omega_N(self) -> NDArray[np.float64]:
        """The weights for the coming round: 1 before the first interval has closed."""
        return np.where(self.M_N > 0, self.T_N / np.maximum(self.M_N, 1), 1.0)  # (A2)

    def after(self, came: list[int]) -> "Intervals":
        """After a round to which these clients came: an interval closes with a participation, or at length K."""
        S_N = self.S_N + 1
        closes_N = S_N == self.K
        closes_N[came] = True
        return Intervals(self.K, self.M_N + closes_N, self.T_N + closes_N * S_N, np.where(closes_N, 0, S_N))  # (A1)


@dataclass(frozen=True)
class Sleeper:
    """One client's closed intervals M and their total length T, as of its last participation, in round `last`."""

    M: int = 0
    T: int = 0
    last: int = 0

    def came(self, round_: int, K: int) -> tuple[float, "Sleeper"]:
        """The client comes in `round_`, counted from 1: its weight in this round, and what to keep after it."""
        gap = round_ - self.last
        slept = (gap - 1) // K if K else 0  # intervals of length K that closed meanwhile
        M, T = self.M + slept, self.T + slept * K
        return T / M if M else 1.0, Sleeper(M + 1, T + gap - slept * K, round_)  # (A7)
