"""Attacks on votes: all attackers send the same, chosen against the honest plurality and the model of the round."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, final

import numpy as np
from flwr.app import Array

from fedq.attacks.base import F32, OmniscientAttack, OwnAttack, Seen, Wire
from fedq.kernels.plurality import Rows, agreement, likeliest, planes, plurality, rows_of, unpacked
from fedq.kernels.records import Arrays
from fedq.strategies.reputation import MARGIN

LEAST_SETTLED = 0.3  # of the weights; 30 % fool a reference made of all votes


@final
class Inverse(OmniscientAttack):
    """Minus the honest plurality, the same from every attacker: the attack of FedVote's released code."""

    needs: ClassVar[Literal["votes"]] = "votes"

    def forge(self, seen: Seen, attackers: int) -> Arrays:
        """Minus the honest plurality."""
        return {n: -v for n, v in _plurality(seen).items()}


@final
class Mimic(OmniscientAttack):
    """The model's own vote, but minus the honest plurality on the 30 % of weights that are least settled."""

    needs: ClassVar[Literal["soft votes"]] = "soft votes"

    def forge(self, seen: Seen, attackers: int) -> Arrays:
        """The vote of the model, turned where |m| is smallest."""
        return _turned(seen, LEAST_SETTLED)


@final
class Camouflage(OmniscientAttack):
    """As mimic, with as many weights turned as make its agreement with the model the median of the honest clients'.

    Made against filters on that agreement: no attacker stands out on either side.
    """

    needs: ClassVar[Literal["soft votes"]] = "soft votes"

    def forge(self, seen: Seen, attackers: int) -> Arrays:
        """The vote of the model, turned on the share of weights found by bisection: agreement falls with it."""
        wanted = float(np.median([_agreement(seen, sent) for sent in seen.honest]))
        return _turned(seen, _share(seen, lambda agrees: agrees > wanted))


@final
class Crowd(OmniscientAttack):
    """As camouflage, but each attacker rounds at random, so that no two are nearer than honest clients are.

    Made against the weighting `plausible`: both agreements are at its medians, moved by its whole margin.
    """

    needs: ClassVar[Literal["soft votes"]] = "soft votes"

    def forge(self, seen: Seen, attackers: int) -> Arrays:
        """A turned vote of the model, softened to s: two of them agree in (1 + s^2) / 2 of all coordinates."""
        near = float(np.median(_nearest(seen))) + MARGIN
        s = np.sqrt(max(2 * near - 1, 0))
        wanted = float(np.median([_agreement(seen, sent) for sent in seen.honest])) - MARGIN
        share = _share(seen, lambda agrees: (1 - s) / 2 + s * agrees > wanted)
        return _each(_turned(seen, share), lambda v: np.float32(s) * v)


@final
class Stall(OwnAttack):
    """The vote of the model that it was sent: the vote shall not move. Made against filters on low agreement."""

    needs: ClassVar[Literal["soft votes"]] = "soft votes"

    def forge(self, own: Arrays, start: Arrays, wire: Wire, random: np.random.Generator) -> Arrays:
        """The most likely symbol of each weight of `start`."""
        return _each(start, lambda m: unpacked(likeliest(m, planes(wire.codec)), m.size).reshape(m.shape))


def _plurality(seen: Seen) -> Arrays:
    codec = seen.wire.codec

    def of(name: str, like: F32) -> F32:
        rows = [rows_of(codec, sent[name]) for sent in seen.honest]
        return unpacked(plurality(rows, like.size), like.size).reshape(like.shape)

    return {n: of(n, x) for n, x in seen.start.items()}


def _model(seen: Seen) -> Arrays:
    return _each(seen.start, lambda m: unpacked(likeliest(m, planes(seen.wire.codec)), m.size).reshape(m.shape))


def _turned(seen: Seen, share: float) -> Arrays:
    """The vote of the model, and minus the honest plurality on a `share` of all weights, those of smallest |m|."""
    honest, model = _plurality(seen), _model(seen)
    limit = np.quantile(np.concatenate([np.abs(m).ravel() for m in seen.start.values()]), share)
    return {n: np.where(np.abs(m) < limit, -honest[n], model[n]) for n, m in seen.start.items()}


def _share(seen: Seen, too_much: Callable[[float], bool]) -> float:
    """The share of weights to turn at which the agreement with the model stops being too much, by bisection."""
    low, high, model = 0.0, 1.0, _model(seen)
    for _ in range(16):
        middle = (low + high) / 2
        enough = not too_much(_mean_equal(_turned(seen, middle), model))
        low, high = (low, middle) if enough else (middle, high)
    return high


def _nearest(seen: Seen) -> list[float]:
    """The agreement of each honest client with the one nearest to it."""
    codec, d = seen.wire.codec, sum(m.size for m in seen.start.values())
    ballots = [[(rows_of(codec, sent[n]), m.size) for n, m in seen.start.items()] for sent in seen.honest]

    def same(a: list[tuple[Rows, int]], b: list[tuple[Rows, int]]) -> float:
        return sum(agreement(x, y, size) for (x, size), (y, _) in zip(a, b, strict=True)) / d

    return [max((same(a, b) for b in ballots if b is not a), default=1.0) for a in ballots]


def _agreement(seen: Seen, sent: Mapping[str, Array]) -> float:
    codec = seen.wire.codec
    same = sum(agreement(rows_of(codec, sent[n]), likeliest(m, planes(codec)), m.size) for n, m in seen.start.items())
    return same / sum(m.size for m in seen.start.values())


def _mean_equal(a: Arrays, b: Arrays) -> float:
    return sum(int((a[n] == b[n]).sum()) for n in a) / sum(x.size for x in a.values())


def _each(arrays: Arrays, f: Callable[[F32], F32]) -> Arrays:
    return {n: f(x) for n, x in arrays.items()}
