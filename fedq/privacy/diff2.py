"""Noise of DIFF2 (Murata and Suzuki 2023): two kinds of Gaussian releases of whole local data, nothing is sampled.

In R rounds, every T-th releases a mean gradient (a restart) and the others a mean difference of gradients. Gaussian
releases with multipliers s_i together are one of multiplier (sum 1 / s_i^2)^(-1/2), exactly.
"""

from functools import lru_cache
from math import ceil, log, sqrt

from fedq.errors import FedqError
from fedq.privacy.accountant import LEAST, MOST, gaussian, least

U = 1.25  # the paper's u: restarts spend a share 1 / u of what there is, differences the rest


def counts(rounds: int, every: int) -> tuple[int, int]:
    """Restarts and differences among so many rounds, the first of which is a restart."""
    restarts = -(-rounds // every)
    return restarts, rounds - restarts


@lru_cache(maxsize=256)
def multipliers(target: float, delta: float, rounds: int, every: int) -> tuple[float, float]:
    """Noise multipliers of restarts and of differences that cost exactly `target` together, split as in the paper.

    FedqError FQ105 if there are none.
    """
    restarts, differences = counts(rounds, every)
    whole = least(lambda noise: gaussian(noise, 1, delta) <= target, LEAST, MOST, to=1e-6)
    if whole == MOST:
        raise FedqError("FQ105", f"no noise gives epsilon {target:g} at delta {delta:g}", key="client.epsilon")
    if not differences:
        return whole * sqrt(restarts), whole
    return whole * sqrt(U * restarts), whole * sqrt(U / (U - 1) * differences)


def paper(target: float, delta: float, rounds: int, every: int, examples: int, clients: int) -> tuple[float, float]:
    """The paper's own deviations s1, s2 of the noise on the mean over all clients, in units of the clip (its theorem).

    By RDP at one order, for replacing a record; examples of the smallest client.
    """
    alpha = 1 + ceil(2 * log(1 / delta) / target)
    common = alpha * rounds / (examples**2 * clients**2 * target)
    s1 = sqrt((4 if every == 1 else 4 * U) * common / every)
    return s1, sqrt(4 * U / (U - 1) * common)
