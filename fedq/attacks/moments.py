"""Attacks on means and medians, made of the first two moments of the honest updates."""

from math import floor
from statistics import NormalDist
from typing import final

import numpy as np

from fedq.attacks.base import OmniscientAttack, Seen
from fedq.kernels.records import Arrays

EPSILON = np.float32(0.5)  # of ipm: with A attackers of M the mean shrinks by 1 - (A / M) (1 + epsilon)


@final
class Alie(OmniscientAttack):
    """Mean minus z standard deviations of the honest updates, coordinate by coordinate.

    Baruch et al. 2019, A Little Is Enough (arXiv 1902.06156), algorithm 3: z is the largest deviation that still lets
    enough honest clients be further out than the attackers.
    """

    def forge(self, seen: Seen, attackers: int) -> Arrays:
        """The mean less z std, with the honest clients' population deviation."""
        z, mean = np.float32(deviations(len(seen.honest) + attackers, attackers)), _mean(seen)
        square = {n: np.zeros_like(m) for n, m in mean.items()}
        for k in range(len(seen.honest)):
            for n, u in seen.update(k).items():
                square[n] += (u - mean[n]) ** 2
        return {n: m - z * np.sqrt(square[n] / np.float32(len(seen.honest))) for n, m in mean.items()}


@final
class Ipm(OmniscientAttack):
    """Minus half the honest mean, so that the inner product with the true step falls.

    Xie, Koyejo, Gupta 2019, Fall of Empires (arXiv 1903.03936): -epsilon times the honest mean.
    """

    def forge(self, seen: Seen, attackers: int) -> Arrays:
        """-epsilon mean."""
        return {n: -EPSILON * m for n, m in _mean(seen).items()}


def deviations(clients: int, attackers: int) -> float:
    """The z of ALIE for n clients with m attackers: s = floor(n / 2 + 1) - m, z = Phi^-1((n - m - s) / (n - m)).

    >>> round(deviations(50, 24), 3)
    1.426
    """
    s = floor(clients / 2 + 1) - attackers
    share = (clients - attackers - s) / (clients - attackers)
    return NormalDist().inv_cdf(min(max(share, 1e-3), 1 - 1e-3))


def _mean(seen: Seen) -> Arrays:
    total = {n: u.copy() for n, u in seen.update(0).items()}
    for k in range(1, len(seen.honest)):
        for n, u in seen.update(k).items():
            total[n] += u
    return {n: t / np.float32(len(seen.honest)) for n, t in total.items()}
