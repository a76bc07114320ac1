"""FedVote: clients send random +-1 (or -1, 0, +1) weights, the server takes a soft vote.

Yue, Jin, Wong, Dai: Federated Learning via Plurality Vote (arXiv 2110.02998; IEEE TNNLS 2022). The global model is
the normalised weights w~ = tanh(a h) of every hidden layer; the last layer stays as drawn and is never sent. F-numbers
are those of docs/fedvote.md.
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
from fedq.rng import rng
from fedq.strategies.base import PackedStrategy, Setup, uniform


@final
class FedVote(PackedStrategy):
    """Uniform soft voting: m = (1/M) sum_k w_k, so E[m] is the mean of the M clients' normalised weights (F13)."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "binary", "client": {"name": "latent"}}

    class Options(Options):
        """`[strategy]` keys of `fedvote`."""

        clip: float = Field(1e-4, gt=0, lt=1, description="votes are clipped to [-1 + clip, 1 - clip]")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.codec, self.downlink = setup.codec, setup.downlink  # values are in [-1, 1] as they are
        if "sign" in setup.codec.name:
            raise FedqError(
                "FQ105",
                f"`fedvote` cannot send by `{setup.codec.name}`: a soft vote needs unbiased weights",
                key="codec",
                hint="use --codec binary, ternary or ternary_base3",
            )
        self._limit = np.float32(1 - options.clip)

    def initial(self, weights: Arrays, hidden: list[str], seed: int) -> Arrays:
        """Normal weights of unit deviation, clipped to +-0.999: the normalised weights of the hidden layers."""
        if not hidden:
            raise FedqError(
                "FQ105",
                "`fedvote` votes on hidden layers, and this model has none",
                hint="add a hidden layer: --set model.hidden=[64]",
            )
        drawn = {name: rng(seed, "latent", name).standard_normal(weights[name].shape, np.float32) for name in hidden}
        return {name: np.clip(n / n.std(), -0.999, 0.999) for name, n in drawn.items()}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The soft vote, clipped; see `PackedStrategy.aggregate_train`."""
        votes = self.folded(replies, uniform)
        if votes.empty:
            return None, None
        m = {name: m.clip(-self._limit, self._limit) for name, m in votes.mean().items()}  # F8, F9
        return records.to_record(m), votes.metrics

    def deployed(self, arrays: Arrays) -> Arrays:
        """The most likely symbol of each weight (F12): its sign, with 0 to -1; ternary ones are 0 up to 1/2."""
        if self.codec.name.startswith("ternary"):
            return {n: np.sign(m) * (np.abs(m) > 0.5) for n, m in arrays.items()}
        return {n: np.where(m > 0, np.float32(1), np.float32(-1)) for n, m in arrays.items()}
