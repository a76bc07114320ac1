"""Epsilon of Poisson-subsampled Gaussian releases, and the noise for a wanted epsilon.

Two accountants of Opacus: PRV (Gopi et al. 2021), numerical and tight, its upper bound; and RDP (Mironov et al. 2019),
looser. Both are upper bounds, so the smaller is one. Opacus's GDP accountant is a limit and no bound: not used.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Any, TypeAlias

from fedq.errors import FedqError
from fedq.plugins import extra

Release: TypeAlias = tuple[float, float, int]  # noise multiplier, sampling rate, steps

LARGE = 50.0  # above it PRV takes long and nobody asks for the third digit
LEAST, MOST = 2.0**-6, 2.0**13  # noise multipliers that are tried


def epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """The smaller of both bounds for all releases together; exact where nothing was sampled, infinite without noise."""
    if not releases:
        return 0.0
    if any(noise <= 0 for noise, _, _ in releases):
        return inf
    if all(rate == 1 for _, rate, _ in releases):  # without sampling, Gaussians compose to one
        return gaussian(sum(steps / noise**2 for noise, _, steps in releases) ** -0.5, 1, delta)
    loose = rdp(releases, delta)
    return loose if loose > LARGE else min(loose, prv(releases, delta))


@lru_cache(maxsize=4096)
def prv(releases: tuple[Release, ...], delta: float) -> float:
    """The upper bound of the PRV accountant."""
    return _spent(extra("opacus.accountants", "lora").PRVAccountant(), releases, delta)


@lru_cache(maxsize=4096)
def rdp(releases: tuple[Release, ...], delta: float) -> float:
    """The bound of the RDP accountant."""
    return _spent(extra("opacus.accountants", "lora").RDPAccountant(), releases, delta)


@lru_cache(maxsize=4096)
def noise_for(target: float, delta: float, rate: float, steps: int) -> float:
    """The least noise multiplier, to about one percent, with which so many steps cost at most `target`.

    FedqError FQ105 if there is none.
    """

    def cost(noise: float) -> float:
        return epsilon(((noise, rate, steps),), delta)

    high = least(lambda noise: rdp(((noise, rate, steps),), delta) <= target, LEAST, MOST)
    if high == MOST:  # RDP gives no small epsilon at all
        high = least(lambda noise: cost(noise) <= target, LEAST, MOST)
    if high == MOST:
        raise FedqError(
            "FQ105",
            f"no noise gives epsilon {target:g} at delta {delta:g} after {steps} steps of a batch share {rate:.3g}",
            key="client.epsilon",
            hint="raise --epsilon or --delta",
        )
    return least(lambda noise: cost(noise) <= target, 0.8 * high, high)  # RDP asks for a little too much


def gaussian(noise: float, times: int, delta: float) -> float:
    """The exact epsilon of `times` Gaussian releases without any sampling (Balle and Wang 2018)."""
    if not (noise and times):
        return inf if times else 0.0
    return float(extra("dp_accounting", "lora").get_epsilon_gaussian(noise / times**0.5, delta))


def least(enough: Callable[[float], bool], low: float, high: float, *, to: float = 0.01) -> float:
    """The least value between two, to a share `to`, that is enough; `high` if none below it is."""
    while high > (1 + to) * low:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _spent(accountant: Any, releases: tuple[Release, ...], delta: float) -> float:
    merged: dict[tuple[float, float], int] = {}
    for noise, rate, steps in releases:
        merged[noise, rate] = merged.get((noise, rate), 0) + steps
    accountant.history = [(noise, rate, steps) for (noise, rate), steps in merged.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the largest: the bound holds all the same
        return float(accountant.get_epsilon(delta=delta))
