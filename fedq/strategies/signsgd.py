"""signSGD with majority vote (Bernstein et al. 2018, arXiv 1802.04434, algorithm 3): one bit a weight up.

Each client sends the sign of a stochastic gradient, the server moves every weight by the learning rate against the
majority.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.strategies.base import PackedStrategy, Setup, uniform


@final
class SignSgd(PackedStrategy):
    """w <- w - lr sign(sum_k sign(g_k)); a tie moves nothing."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "sign", "client": {"name": "gradient", "lr": 0.005}}
    sends = "gradient"

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.codec = setup.codec  # signs as they are
        if setup.codec.name != "sign":
            raise FedqError(
                "FQ105",
                f"`signsgd` sends signs, not `{setup.codec.name}`",
                key="codec",
                hint="leave --codec out, or use --strategy fedavg",
            )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """A step against the majority; see `PackedStrategy.aggregate_train`."""
        votes = self.folded(replies, uniform)
        if votes.empty:
            return None, None
        lr = np.float32(self.setup.lr)
        moved = {n: self.current[n] - lr * np.sign(m).astype(np.float32, copy=False) for n, m in votes.mean().items()}
        return records.to_record(moved), votes.metrics
