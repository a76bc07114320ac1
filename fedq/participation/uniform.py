"""Everybody, or the same number of clients in every round, drawn without replacement."""

from typing import final

import numpy as np

from fedq.participation.base import F64, Participation
from fedq.rng import rng


@final
class Full(Participation):
    """Every client in every round."""

    def partitions(self, round_: int) -> list[int]:
        """All."""
        return list(range(self.clients))

    def probabilities(self) -> F64:
        """1 for each."""
        return np.ones(self.clients)

    def expected(self) -> float:
        """All."""
        return self.clients


@final
class Uniform(Participation):
    """`per_round` clients, drawn uniformly without replacement in every round."""

    def partitions(self, round_: int) -> list[int]:
        """A new draw for every round."""
        return drawn(self.seed, "sample", round_, self.clients, self.population.per_round)

    def probabilities(self) -> F64:
        """per_round / N for each."""
        return np.full(self.clients, self.probability(0))

    def probability(self, n: int) -> float:
        """per_round / N."""
        return (self.population.per_round or self.clients) / self.clients

    def expected(self) -> float:
        """per_round."""
        return self.population.per_round or self.clients


def drawn(seed: int, purpose: str, round_: int, clients: int, some: int | None) -> list[int]:
    """`some` of `clients` partitions without replacement, ascending; all of them where `some` is None."""
    if some is None or some == clients:
        return list(range(clients))
    found: list[int] = np.sort(rng(seed, purpose, round_).choice(clients, some, replace=False)).tolist()
    return found
