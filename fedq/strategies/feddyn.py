"""FedDyn's server (Acar et al. 2021, arXiv 2111.04263, algorithm 1): the mean of the clients, corrected by a state.

The paper's h <- h - alpha (1/m) sum_{k in P} (w_k - w) and w <- mean_{k in P} w_k - h / alpha hold alpha only as a
ratio: here h stands for h / alpha, so that alpha is the clients' (`client.alpha`) and stands in one place.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.strategies.base import PackedStrategy, Setup, uniform


@final
class FedDyn(PackedStrategy):
    """h <- h - (|P|/m) mean_k (w_k - w), w <- w + mean_k (w_k - w) - h, for the clients k in P of all m."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "float32", "client": {"name": "feddyn"}}
    client = "feddyn"
    sends = "updates"

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self._h: Arrays = {}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The corrected mean, each client counting once; see `PackedStrategy.aggregate_train`."""
        fold = self.folded(replies, uniform)
        if fold.empty:
            return None, None
        share = np.float32(fold.weight / self.setup.participation.clients)
        mean, h = fold.mean(), self._h
        self._h = {n: (h[n] if h else 0) - share * u for n, u in mean.items()}
        return records.to_record({n: w + mean[n] - self._h[n] for n, w in self.current.items()}), fold.metrics

    def state(self) -> dict[str, Any]:
        """h, once a round was played."""
        return {"h": dict(self._h)} if self._h else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take h back."""
        self._h = state.get("h", {})
