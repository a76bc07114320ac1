"""DP-LoRA: private low-rank fine-tuning (Liu et al. 2023, arXiv 2312.17493), with a choice of aggregation.

Clients make DP-SGD steps on the adapters' factors and the head, noise included, and send what changed. The server
averages the factors (`mean`, the paper's), or the products that they stand for (`svd`, `stack`), or freezes A (`ffa`).
With `user_noise` the server also hides whole clients: it clips each update and adds noise to their mean.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.options import Options
from fedq.privacy.accountant import gaussian
from fedq.privacy.entropy import secret
from fedq.rng import rng
from fedq.strategies.base import Fold, Setup, arrays_of, examples, uniform
from fedq.strategies.factors import A, B, Factors, fitted, layer, pairs, stacked
from fedq.strategies.private import PrivateStrategy


@final
class DpLora(PrivateStrategy):
    """Private fine-tuning of low-rank adapters: mean of factors, of products (svd, stack), or with A frozen (ffa)."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "codec": "float32",
        "client": {"name": "dp_sgd", "local_steps": 8},
        "model": {"name": "minilm_lora"},
    }
    client = "dp_sgd"
    sends = "updates"

    class Options(Options):
        """`[strategy]` keys of `dp_lora`."""

        aggregation: Literal["mean", "ffa", "svd", "stack"] = Field(
            "mean", description="mean of factors; ffa: A frozen; svd: mean of products, fitted; stack: exact, merged"
        )
        weighting: Literal["examples", "uniform"] = Field("examples", description="weight of each client in the mean")
        user_clip: float = Field(1.0, gt=0, description="norm that each client's update is clipped to, by the server")
        user_noise: float = Field(0.0, ge=0, description="noise multiplier that hides whole clients; 0 for none")
        user_seed: int | None = Field(None, ge=0, description="for tests only: that noise repeats, and has no epsilon")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.merges = options.aggregation == "stack"
        self._weight = uniform if options.weighting == "uniform" or options.user_noise else examples
        self._fixed: Arrays = {}  # weights of the layers that products are merged into
        self._joined: dict[int, int] = {}  # rounds that each client took part in
        if options.user_noise and options.aggregation in ("svd", "stack"):
            raise FedqError(
                "FQ105",
                f"`{options.aggregation}` decomposes single updates, and user_noise hides them in their mean",
                key="strategy.user_noise",
                hint="--set strategy.aggregation=mean or ffa",
            )
        clients = setup.participation.population.clients
        if options.user_noise and setup.delta >= 1 / clients:
            raise FedqError(
                "FQ105",
                f"delta {setup.delta:g} is not below 1/{clients} of {clients} clients: "
                "publishing one client's update whole would be allowed",
                key="client.delta",
                hint="lower --delta, or leave strategy.user_noise out",
            )

    def initial(self, weights: Arrays, hidden: list[str], seed: int) -> Arrays:
        """Adapters and head; without A if that is frozen, with the layers beside if products are merged into them."""
        if self.options.aggregation != "mean" and not pairs(weights):
            raise FedqError(
                "FQ105",
                f"aggregation `{self.options.aggregation}` is one of low-rank factors, and the model has none",
                key="strategy.aggregation",
                hint="--model minilm_lora, or --set strategy.aggregation=mean",
            )
        return {n: x for n, x in weights.items() if A not in n or self.options.aggregation != "ffa"}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each client, with the merged layers beside the weights to train."""
        if not self.merges:
            return super().configure_train(server_round, arrays, config, grid)
        weights = records.to_arrays(arrays)
        into = {layer(a) for a, _ in pairs(weights)}
        self._fixed = {n: x for n, x in weights.items() if n in into}
        fixed = records.to_record(self._fixed)
        trained = records.to_record({n: x for n, x in weights.items() if n not in into})
        asked = list(super().configure_train(server_round, trained, config, grid))
        for message in asked:
            message.content["fixed"] = fixed
        return asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next adapters and head; see `PackedStrategy.aggregate_train`."""
        fold, kept, weights = self.fold(), list[Arrays](), list[float]()
        for reply in (r for r in replies if r.has_content()):
            weights.append(self._weight(reply) * self._clipped(reply))
            fold.add(reply, weights[-1])
            if self.options.aggregation in ("svd", "stack"):
                kept.append(self._factors(reply))
            k = self.partition_of(reply)
            self._joined[k] = self._joined.get(k, 0) + 1
        if not weights:
            return None, None
        update = self._hidden(fold, server_round) if self.options.user_noise else fold.mean()
        mean = {n: w + update[n] for n, w in self.current.items()}
        p = [w / sum(weights) for w in weights]
        if self.options.aggregation in ("svd", "stack"):
            mean |= self._products(kept, p, server_round)
        return records.to_record(mean), self.told_loss(fold)

    def _factors(self, reply: Message) -> Arrays:
        """A client's own factors."""
        sent = {n: payload for n, payload in arrays_of(reply).items() if A in n or B in n}
        return {n: self.current[n] + self.codec.decode(payload) for n, payload in sent.items()}

    def _products(self, kept: list[Arrays], p: list[float], round_: int) -> Arrays:
        """New factors from all clients': fitted to the mean of products; or drawn anew, when that is merged."""
        made: dict[str, Any] = {}
        for a, b in pairs(self.current):
            factors: Factors = [(x[a], x[b]) for x in kept]
            if not self.merges:
                made[a], made[b] = fitted(factors, p, len(self.current[a]))
                continue
            a_all, b_all = stacked(factors, p)
            into = layer(a)
            made[into] = self._fixed[into] + np.float32(self.setup.scaling) * (b_all @ a_all)
            shape, seed = self.current[a].shape, self.setup.participation.seed
            bound = 1 / np.sqrt(shape[1])
            made[a] = rng(seed, "stack", round_, a).uniform(-bound, bound, shape).astype(np.float32)
            made[b] = np.zeros_like(self.current[b])
        return made

    # ------------------------------------------------------------------------------------------ whole clients

    def _clipped(self, reply: Message) -> float:
        """What an update is multiplied by, for its norm to be at most `user_clip`."""
        if not self.options.user_noise:
            return 1.0
        parts = (self.codec.decode(payload).astype(np.float64) for payload in arrays_of(reply).values())
        norm = float(np.sqrt(sum(float((x * x).sum()) for x in parts)))
        return min(1.0, self.options.user_clip / norm) if norm else 1.0

    def _hidden(self, fold: Fold, round_: int) -> Arrays:
        """The sum of clipped updates with noise, over all that were asked: who failed counts as zero."""
        o, count = self.options, np.float32(len(self.asked))
        random = secret(o.user_seed, round_)
        std = o.user_noise * o.user_clip
        return {
            n: (x + (std * random.standard_normal(x.shape)).astype(np.float32)) / count for n, x in fold.sum().items()
        }

    def promise(self) -> str:
        """See `PackedStrategy.promise`: the mechanism, the adjacency, and from whom."""
        o = self.options
        if not o.user_noise:
            return ""
        if o.user_seed is not None:
            return "none: that noise can be drawn again (strategy.user_seed, for tests)"
        return (
            f"noise {o.user_noise:g} at delta {self.setup.delta:g}, epsilon as it comes (user_epsilon), for a client's "
            "updates, replaced by zeros; from who sees the models, not from the server, which is trusted"
        )

    def shown(self) -> dict[str, Any]:
        """Also the epsilon of whole clients, with no amplification: who comes follows from a seed that is no secret."""
        o = self.options
        if not o.user_noise:
            return super().shown()
        times = max(self._joined.values(), default=0)
        hides = None if o.user_seed is not None else gaussian(o.user_noise, times, self.setup.delta) if times else 0.0
        return {**super().shown(), "user_epsilon": hides}

    def state(self) -> dict[str, Any]:
        """Also how often each client came."""
        return {**super().state(), "joined": {str(k): n for k, n in self._joined.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self._joined = {int(k): n for k, n in state["joined"].items()}
