"""What participation patterns share: the population they are about, and how often each client of it comes.

FedAU's rates (docs/fedau.md, A8): clients rich in the labels that one common vector m favours come often.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedq.errors import FedqError
from fedq.options import Options
from fedq.rng import rng

F64 = NDArray[np.float64]
MOST = 10_000_000  # clients that each have a rate
Random = np.random.Generator | np.random.RandomState


@dataclass(frozen=True)
class Population:
    """The clients of a run: how many, how many a round where that is fixed, and the share of each label in their data.

    `labels` gives the shares, [N, L]; it is called when rates are first wanted, if they follow labels.
    """

    seed: int
    clients: int
    per_round: int | None = None
    labels: Callable[[], F64] = field(default=lambda: np.zeros((0, 0)), repr=False)


class Participation(ABC):
    """Which partitions take part in a round. A leaf says so as a pure function of (seed, round)."""

    class Options(Options):
        """`[participation]` keys."""

    def __init__(self, population: Population, options: Any) -> None:
        self.population, self.options = population, options
        self.seed, self.clients = population.seed, population.clients

    @abstractmethod
    def partitions(self, round_: int) -> list[int]:
        """The partitions of a round, counted from 1: ascending, perhaps none."""

    @abstractmethod
    def probabilities(self) -> F64:
        """The share of rounds in which each client takes part, [N], as the pattern's parameters say it."""

    def probability(self, n: int) -> float:
        """That of one client."""
        return float(self.probabilities()[n])

    def expected(self) -> float:
        """How many clients come in a round, on average."""
        return float(self.probabilities().sum())


class RateOptions(Participation.Options):
    """`[participation]` keys of patterns in which every client has a rate of its own."""

    mean: float = Field(0.1, gt=0, le=1, description="mean rate of the clients, before the floor")
    floor: float = Field(0.02, gt=0, le=1, description="lowest rate of a client")
    alpha: float = Field(0.1, gt=0, description="Dirichlet parameter of the labels' vector: small favours few labels")
    correlated: bool = Field(True, description="rates follow the clients' labels; else all have the mean rate")


class Rated(Participation, ABC):
    """A pattern in which client n takes part in a share p_n of the rounds."""

    Options = RateOptions

    @cached_property
    def p_N(self) -> F64:
        """The clients' rates. FedqError FQ105 if one is above 1."""
        o = self.options
        if self.clients > MOST:
            raise FedqError(
                "FQ105",
                f"every one of {self.clients} clients decides by itself whether it comes: too many to ask",
                key="participation.name",
                hint=f"up to {MOST:,} clients, or --per-round at random",
            )
        if not o.correlated:
            return np.full(self.clients, max(o.floor, o.mean))
        return rates(rng(self.seed, "participation"), self.population.labels(), o.mean, o.floor, o.alpha)

    def probabilities(self) -> F64:
        """The rates p_n."""
        return self.p_N


def rates(random: Random, q_NL: F64, mean: float, floor: float, alpha: float) -> F64:
    """p_n = max(floor, mean L <q_n, m>) with m ~ Dir(alpha): [N], for the label shares `q_NL` of N clients."""
    L = q_NL.shape[1]
    m = random.dirichlet([alpha] * L)
    p_N: F64 = np.maximum(floor, mean * L * (q_NL @ m))  # (A8)
    if p_N.max() > 1:
        raise FedqError(
            "FQ105",
            f"client {p_N.argmax()} would take part in {p_N.max():.2f} of the rounds: its labels are too much favoured",
            key="participation.mean",
            hint=f"participation.mean up to {mean / p_N.max():.2g}, or --set participation.correlated=false",
        )
    return p_N


def coins(random: Random, p_N: F64) -> NDArray[np.bool_]:
    """Independent coins that show True with probability p_n, [N]."""
    return random.binomial(1, p_N).astype(bool)


def ascending(came_N: NDArray[np.bool_]) -> list[int]:
    """The places of True."""
    return [int(n) for n in np.flatnonzero(came_N)]
