"""Averages of updates when clients come and go, for the objective f(x) = (1/N) sum_n F_n(x): every client counts once.

What the strategies share, and the three baselines of FedAU that keep nothing between rounds. A-numbers are those of
docs/fedau.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field

from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.strategies.base import Fold, PackedStrategy, Setup


class AverageOptions(PackedStrategy.Options):
    """`[strategy]` keys that they all have."""

    server_lr: float = Field(1.0, gt=0, description="server learning rate, eta")


class Averaging(PackedStrategy, ABC):
    """x <- x + eta step, where a leaf says how the updates Delta_n of those who came make a step.

    A client came to a round if a reply of it was accepted.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "float32"}
    sends = "updates"
    Options = AverageOptions

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.N = setup.participation.clients

    def weight(self, n: int, reply: Message) -> float:
        """The weight of client n's update in the sum; a leaf that keeps something of the reply takes it here."""
        return 1.0

    @abstractmethod
    def step(self, fold: Fold, came: list[int]) -> Arrays | None:
        """The step, from the weighted sum of the updates of the clients who came; None moves nothing.

        Called once in every round, also where nobody came.
        """

    @final
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after the step; see `PackedStrategy.aggregate_train`."""
        came: list[int] = []

        def weight(reply: Message) -> float:
            came.append(self.partition_of(reply))
            return self.weight(came[-1], reply)

        fold = self.folded(replies, weight)
        if self.asked and not came:
            return None, None  # clients were asked, and all failed
        step = self.step(fold, came)
        if step is None:
            return None, None
        eta = np.float32(self.options.server_lr)
        moved = {name: x + eta * step[name] for name, x in self.current.items()}  # (A3)
        return records.to_record(moved), fold.metrics if came else None

    def over_all(self, fold: Fold) -> Arrays:
        """The weighted sum divided by the number of all clients."""
        return {name: total / np.float32(self.N) for name, total in fold.sum().items()}


@final
class AverageParticipating(Averaging):
    """The mean over those who came: who comes often counts more."""

    def step(self, fold: Fold, came: list[int]) -> Arrays | None:
        """(1/|S|) sum of Delta_n (A4)."""
        return fold.mean() if came else None


@final
class AverageAll(Averaging):
    """The mean over all clients, absent ones with a zero update: who comes often counts more, and steps are short."""

    def step(self, fold: Fold, came: list[int]) -> Arrays | None:
        """(1/N) sum of Delta_n (A5)."""
        return self.over_all(fold) if came else None


@final
class KnownProbability(Averaging):
    """Updates weighted by 1/p_n, with the probabilities that the participation pattern is made from: unbiased."""

    def weight(self, n: int, reply: Message) -> float:
        """1/p_n."""
        return 1 / self.setup.participation.probability(n)

    def step(self, fold: Fold, came: list[int]) -> Arrays | None:
        """(1/N) sum of Delta_n / p_n (A6)."""
        return self.over_all(fold) if came else None
