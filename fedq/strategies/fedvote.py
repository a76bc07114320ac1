"""FedVote: clients send random +-1 (or -1, 0, +1) weights, the server takes a soft vote.

Yue, Jin, Wong, Dai: Federated Learning via Plurality Vote (arXiv 2110.02998; IEEE TNNLS 2022). The global model is
the normalised weights w~ = tanh(a h) of every hidden layer; the last layer stays as drawn and is never sent. F-numbers
are those of docs/fedvote.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.plurality import Rows, planes, votes
from fedq.kernels.records import Arrays
from fedq.options import Options
from fedq.rng import rng
from fedq.strategies import reputation
from fedq.strategies.base import Fold, PackedStrategy, Setup, arrays_of, uniform


@final
class FedVote(PackedStrategy):
    """Soft voting: m = sum_k lambda_k w_k; if uniform, E[m] is the mean of the M clients' normalised weights (F13)."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "binary", "client": {"name": "latent"}}

    class Options(Options):
        """`[strategy]` keys of `fedvote`."""

        clip: float = Field(1e-4, gt=0, lt=1, description="votes are clipped to [-1 + clip, 1 - clip]")
        weighting: Literal["uniform", "reputation", "filtered", "plausible"] = Field(
            "uniform",
            description="uniform; reputation (the paper's: by smoothed credibility); filtered (the released code's: 0 "
            "below the mean); plausible (ours: 0 for implausible votes)",
        )
        reference: Literal["all", "honest", "broadcast"] | None = Field(
            None,
            description="what credibility agrees with: the plurality of all votes, of the honest ones (an oracle), or "
            "the model that the round began with; broadcast for plausible, else all",
        )

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.codec, self.downlink = setup.codec, setup.downlink  # values are in [-1, 1] as they are
        if not (setup.codec.unbiased or setup.codec.name == "float16"):  # float16 rounds, and drops nothing
            raise FedqError(
                "FQ105",
                f"`fedvote` cannot send by `{setup.codec.name}`: a soft vote needs unbiased weights",
                key="codec",
                hint="use --codec binary, ternary, ternary_base3 or float32",
            )
        self._limit = np.float32(1 - options.clip)
        self._nu, self._weights = dict[int, float](), dict[int, float]()
        if options.weighting != "uniform":
            self._check_credibility()

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
        self._weights = {}
        uniform_ = self.options.weighting == "uniform"
        vote = self.folded(replies, uniform) if uniform_ else self._weighted(server_round, replies)
        if vote.empty:
            return None, None
        m = {name: m.clip(-self._limit, self._limit) for name, m in vote.mean().items()}  # F8, F9
        return records.to_record(m), vote.metrics

    def _weighted(self, round_: int, replies: Iterable[Message]) -> Fold:
        """The vote weighted by credibility; a round's packed votes are kept until all are there."""
        kept = {self.partition_of(r): r for r in replies if r.has_content()}
        fold = self.fold()
        if not kept:
            return fold
        d, ballots = sum(x.size for x in self.current.values()), self._ballots(kept)
        cr = reputation.credibility(list(ballots.values()), self._reference(round_, ballots), d)  # B1
        self._nu = reputation.smoothed(self._nu, dict(zip(kept, cr.tolist(), strict=True)))  # B2
        nu = np.array([self._nu[k] for k in kept])
        seen = reputation.Round(nu, cr, lambda: reputation.pairs(list(ballots.values()), d))
        lambda_ = reputation.weights(self.options.weighting, seen)
        self._weights = dict(zip(kept, lambda_.tolist(), strict=True))
        for k, reply in kept.items():
            if self._weights[k]:
                fold.add(reply, self._weights[k])
        return fold

    def _ballots(self, kept: Mapping[int, Message]) -> dict[int, Rows]:
        return {k: reputation.ballot(self.codec, arrays_of(r), self.current) for k, r in kept.items()}

    def _reference(self, round_: int, ballots: Mapping[int, Rows]) -> Rows:
        kind = self.options.reference or ("broadcast" if self.options.weighting == "plausible" else "all")
        if kind == "broadcast":
            sent = self._packed(records.to_record(self.current), round_)
            return reputation.model_ballot(self.codec, records.to_arrays(sent))
        bad = self.setup.attackers if kind == "honest" else frozenset[int]()
        honest = [b for k, b in ballots.items() if k not in bad]
        return reputation.plurality_ballot(honest or list(ballots.values()))

    def _check_credibility(self) -> None:
        if not votes(self.codec):
            raise FedqError(
                "FQ105",
                f"credibility counts votes, and `{self.codec.name}` carries none",
                key="strategy.weighting",
                hint="use --codec binary, ternary or ternary_base3, or strategy.weighting=uniform",
            )
        if self.options.reference == "honest" and not self.setup.attackers:
            raise FedqError(
                "FQ105",
                "reference `honest` needs to know who attacks: it exists in simulation only, with an attack",
                key="strategy.reference",
                hint="give --attack NAME:SHARE, or use strategy.reference=broadcast",
            )

    def state(self) -> dict[str, Any]:
        """Smoothed credibility by partition."""
        return {"nu": {str(k): nu for k, nu in self._nu.items()}} if self._nu else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self._nu = {int(k): float(nu) for k, nu in state.get("nu", {}).items()}

    def shown(self) -> dict[str, Any]:
        """Smoothed credibility of every client seen so far, and the weights of the round, by partition."""
        if self.options.weighting == "uniform":
            return {}
        return {"credibility": _rounded(self._nu), "weight": _rounded(self._weights)}

    def deployed(self, arrays: Arrays) -> Arrays:
        """The most likely symbol of each weight (F12): its sign, with 0 to -1; ternary ones are 0 up to 1/2."""
        if planes(self.codec) == 2:
            return {n: np.sign(m) * (np.abs(m) > 0.5) for n, m in arrays.items()}
        return {n: np.where(m > 0, np.float32(1), np.float32(-1)) for n, m in arrays.items()}


def _rounded(by_partition: Mapping[int, float]) -> dict[str, float]:
    return {str(k): round(x, 4) for k, x in sorted(by_partition.items())}
