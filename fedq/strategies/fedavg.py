"""Federated averaging behind any codec (McMahan et al. 2017, arXiv 1602.05629), and FedPAQ (arXiv 1909.13014).

The next model is the mean of the clients' models weighted by their examples. Clients send their weights, or, better
for lossy codecs, their updates, which are averaged and added. FedPAQ is the case of QSGD-quantized updates with equal
weights.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field

from fedq.kernels import records
from fedq.options import Options
from fedq.strategies.base import PackedStrategy, Setup, examples, uniform


class FedAvg(PackedStrategy):
    """w <- sum_k (n_k / n) w_k, or w <- w + sum_k (n_k / n) (w_k - w)."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "float32"}

    class Options(Options):
        """`[strategy]` keys of `fedavg`."""

        sends: Literal["updates", "weights"] = Field("updates", description="what clients send")
        weighting: Literal["examples", "uniform"] = Field("examples", description="weight of each client in the mean")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.sends = options.sends
        self._weight = uniform if options.weighting == "uniform" else examples

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The weighted mean; see `PackedStrategy.aggregate_train`."""
        fold = self.folded(replies, self._weight)
        if fold.empty:
            return None, None
        mean = fold.mean()
        if self.sends == "updates":
            mean = {name: w + mean[name] for name, w in self.current.items()}
        return records.to_record(mean), fold.metrics


class FedPaq(FedAvg):
    """Periodic averaging of quantized updates (Reisizadeh et al. 2020, algorithm 1): every client counts the same."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "qsgd2", "strategy": {"weighting": "uniform"}}
