"""Byzantine-FedVote: the worth of a vote, from how far it agrees with a reference (B1 to B5 in docs/fedvote.md).

Symbols: CR_k credibility of client k in the round, nu_k its smoothed credibility, lambda_k its weight in the soft vote.
A ballot is all of a client's votes of a round, pooled over arrays, packed as they came.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from fedq.kernels import PackedCodec
from fedq.kernels.plurality import Rows, agreement, likeliest, planes, plurality, rows_of
from fedq.kernels.records import Arrays

F64 = NDArray[np.float64]
BETA = 0.5
FAR, MARGIN = 3.0, 0.02  # plausible: robust deviations from the median that are too many, beyond a margin


@final
@dataclass(frozen=True)
class Round:
    """What a rule may weigh the M clients of a round by: nu [M], CR [M], and the agreement of each pair [M, M]."""

    nu: F64
    cr: F64
    pairs: Callable[[], F64]


def proportional(seen: Round) -> F64:
    """Proportional to nu_k: the paper's rule (B3)."""
    return seen.nu


def filtered(seen: Round) -> F64:
    """As proportional, but 0 for whoever is below the mean: the released code's rule (B4)."""
    return np.where(seen.nu < seen.nu.mean(), 0.0, seen.nu)


def plausible(seen: Round) -> F64:
    """Equal, but 0 for whoever agrees implausibly much or little with the reference, or with its nearest peer.

    Not the paper's. Honest votes are rounded independently, so no two are as near as votes that were agreed upon.
    """
    nearest = (seen.pairs() - 2 * np.eye(len(seen.cr))).max(axis=1)
    return np.where(_near_median(seen.cr) & _near_median(nearest), 1.0, 0.0)


RULES: Mapping[str, Callable[[Round], F64]] = {
    "reputation": proportional,
    "filtered": filtered,
    "plausible": plausible,
}


def smoothed(nu: Mapping[int, float], cr: Mapping[int, float]) -> dict[int, float]:
    """The nu of every client after a round: those that were not in it keep theirs, new ones start from 1 (B2)."""
    return {**nu, **{k: BETA * nu.get(k, 1.0) + (1 - BETA) * x for k, x in cr.items()}}


def weights(rule: str, seen: Round) -> F64:
    """The lambda of the round's clients: they sum to 1; equal ones if the rule leaves nobody."""
    kept = RULES[rule](seen)
    return kept / kept.sum() if kept.sum() > 0 else np.full(len(kept), 1 / len(kept))


def ballot(codec: PackedCodec, sent: Mapping[str, Array], order: Iterable[str]) -> Rows:
    """A client's planes, all arrays one after the other."""
    return _joined([rows_of(codec, sent[name]) for name in order])


def model_ballot(codec: PackedCodec, model: Arrays) -> Rows:
    """How a model of soft votes would vote itself (F12)."""
    return _joined([likeliest(m, planes(codec)) for m in model.values()])


def plurality_ballot(ballots: Sequence[Rows]) -> Rows:
    """The plurality of these ballots (F7), unweighted (B5)."""
    return plurality(ballots, 8 * ballots[0][0].size)


def credibility(ballots: Sequence[Rows], reference: Rows, d: int) -> F64:
    """CR: the fraction of each client's `d` coordinates that equal the reference (B1)."""
    return np.array([agreement(b, reference, d) / d for b in ballots])


def pairs(ballots: Sequence[Rows], d: int) -> F64:
    """The fraction of `d` coordinates in which each two ballots are equal, [M, M]: M^2 d / 16 bytes are compared."""
    same = np.eye(len(ballots))
    for k, a in enumerate(ballots):
        for j in range(k):
            same[k, j] = same[j, k] = agreement(a, ballots[j], d) / d
    return same


def _near_median(x: F64) -> NDArray[np.bool_]:
    """Whether each value is within 3 x 1.4826 median absolute deviations and a margin of the median."""
    off = np.abs(x - np.median(x))
    near: NDArray[np.bool_] = off <= FAR * 1.4826 * np.median(off) + MARGIN
    return near


def _joined(rows: Sequence[Rows]) -> Rows:
    return tuple(np.concatenate(plane) for plane in zip(*rows, strict=True))
