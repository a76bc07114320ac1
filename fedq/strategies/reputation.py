"""Byzantine-FedVote: the worth of a vote, from how far it agrees with a reference (B1 to B5 in docs/fedvote.md).

Symbols: CR_k credibility of client k in the round, nu_k its smoothed credibility, lambda_k its weight in the soft vote.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from fedq.kernels import PackedCodec
from fedq.kernels.plurality import Rows, agreement, likeliest, plurality, rows_of
from fedq.kernels.records import Arrays

F64 = NDArray[np.float64]
Reference = Mapping[str, Rows]
BETA = 0.5
FAR, ALWAYS = 3.0, 0.02  # median: robust deviations from the median that are too many, and a margin in any case


@final
class Reputation:
    """nu of every client that ever took part, by partition; the others count as new, at nu_0 = 1."""

    def __init__(self) -> None:
        self.nu: dict[int, float] = {}

    def updated(self, credibility: Mapping[int, float]) -> F64:
        """The nu of the round's clients, moved by the credibility of this round."""
        for k, cr in credibility.items():
            self.nu[k] = BETA * self.nu.get(k, 1.0) + (1 - BETA) * cr  # B2
        return np.array([self.nu[k] for k in credibility])


def proportional(nu: F64, cr: F64) -> F64:
    """Proportional to nu_k: the paper's rule (B3)."""
    return nu


def filtered(nu: F64, cr: F64) -> F64:
    """As proportional, but 0 for whoever is below the mean: the released code's rule (B4)."""
    return np.where(nu < nu.mean(), 0.0, nu)


def middle(nu: F64, cr: F64) -> F64:
    """Equal weights, 0 for whoever's credibility of this round is far from the median, on either side. Not the paper's.

    Far is more than 3 x 1.4826 times the median absolute deviation, and 0.02.
    """
    off = np.abs(cr - np.median(cr))
    return np.where(off <= FAR * 1.4826 * np.median(off) + ALWAYS, 1.0, 0.0)


WEIGHTINGS: Mapping[str, Callable[[F64, F64], F64]] = {
    "reputation": proportional,
    "filtered": filtered,
    "median": middle,
}


def by_votes(codec: PackedCodec, voters: Sequence[Mapping[str, Array]], like: Arrays) -> Reference:
    """The plurality of these clients' votes (F7), unweighted (B5)."""
    return {n: plurality([rows_of(codec, v[n]) for v in voters], x.size) for n, x in like.items()}


def by_model(codec: PackedCodec, model: Arrays) -> Reference:
    """The most likely symbols of a model of soft votes (F12)."""
    planes = 2 if codec.name.startswith("ternary") else 1
    return {n: likeliest(m, planes) for n, m in model.items()}


def credibility(codec: PackedCodec, sent: Mapping[str, Array], reference: Reference, like: Arrays) -> float:
    """The fraction of all of a client's transmitted coordinates, pooled over arrays, that equal the reference (B1)."""
    same = sum(agreement(rows_of(codec, sent[n]), reference[n], x.size) for n, x in like.items())
    return same / sum(x.size for x in like.values())


def weights(rule: str, nu: F64, cr: F64) -> F64:
    """The lambda of the round's clients: they sum to 1; equal ones if the rule leaves nobody."""
    kept = WEIGHTINGS[rule](nu, cr)
    return kept / kept.sum() if kept.sum() > 0 else np.full(len(kept), 1 / len(kept))


__all__ = ["WEIGHTINGS", "Reputation", "by_model", "by_votes", "credibility", "weights"]
