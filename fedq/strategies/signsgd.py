"""signSGD with majority vote (Bernstein et al. 2018, arXiv 1802.04434, algorithm 3): one bit a weight up.

Each client sends the sign of a stochastic gradient, the server moves every weight by the learning rate against the
majority. Momentum may stand on the server (over the majorities of the rounds, as Signum's is over gradients) or on the
clients (Signum with majority vote: client `signum`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.options import Options
from fedq.strategies.base import PackedStrategy, Setup, uniform


@final
class SignSgd(PackedStrategy):
    """w <- w - lr sign(v) with v <- momentum v + (1 - momentum) sign(sum_k sign(g_k)); a tie moves nothing."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "sign", "client": {"name": "gradient", "lr": 0.005}}
    sends = "gradient"

    class Options(Options):
        """`[strategy]` keys of `signsgd`."""

        momentum: float = Field(0.0, ge=0, lt=1, description="server momentum over the majority's signs")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.codec = setup.codec  # signs as they are
        self._v: Arrays = {}
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
        v = self._smoothed({n: np.sign(m).astype(np.float32, copy=False) for n, m in votes.mean().items()})
        lr = np.float32(self.setup.lr)
        moved = {n: self.current[n] - lr * np.sign(x).astype(np.float32, copy=False) for n, x in v.items()}
        return records.to_record(moved), votes.metrics

    def state(self) -> dict[str, Any]:
        """The momentum, if there is any."""
        return {"momentum": dict(self._v)} if self._v else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the momentum back."""
        self._v = state.get("momentum", {})

    def _smoothed(self, majority: Arrays) -> Arrays:
        if not self.options.momentum:
            return majority
        b, v = np.float32(self.options.momentum), self._v or {n: np.zeros_like(s) for n, s in majority.items()}
        self._v = {n: b * v[n] + (np.float32(1) - b) * s for n, s in majority.items()}
        return self._v
