"""q-FedAvg: clients with larger losses count more (Li et al. 2020, arXiv 1905.10497, algorithm 2).

The same law as Flower's QFedAvg, whose loop collects garbage for every reply: half a second each. Here replies stream.
The loss F_k is the mean over the client's local steps, as Flower's is whatever the client reports.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field

from fedq.kernels import records
from fedq.options import Options
from fedq.strategies.base import PackedStrategy, arrays_of, train_loss

LEAST, MOST = 1e-10, 100.0  # losses are taken within them: 0 has a power, and what a client claims a limit


@final
class QFedAvg(PackedStrategy):
    """w <- w - sum_k F_k^q d_k / sum_k h_k, with d_k = L (w - w_k), h_k = q F_k^(q-1) |d_k|^2 + L F_k^q, L = 1 / lr."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "float32"}
    sends: Literal["weights", "updates", "gradient"] = "updates"

    class Options(Options):
        """`[strategy]` keys of `qfedavg`."""

        q: float = Field(0.1, ge=0, le=4, description="fairness: 0 is FedAvg with equal weights, more evens out losses")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The step; see `PackedStrategy.aggregate_train`."""
        q, lipschitz, h = self.options.q, 1 / self.setup.lr, 0.0
        fold = self.fold()
        for reply in replies:
            if reply.has_content():
                loss = min(max(train_loss(reply)[0], LEAST), MOST)
                square = sum(
                    float(np.sum(self.codec.decode(p).astype(np.float64) ** 2)) for p in arrays_of(reply).values()
                )
                h += q * loss ** (q - 1) * lipschitz**2 * square + lipschitz * loss**q
                fold.add(reply, loss**q)
        if fold.empty:
            return None, None
        step, mean = np.float32(lipschitz * fold.weight / h), fold.mean()
        return records.to_record({n: w + step * mean[n] for n, w in self.current.items()}), fold.metrics
