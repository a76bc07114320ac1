"""FedLAW: the server learns each client's weight and a shrinking factor on a proxy set.

Li, Lin, Shang, Wu: Revisiting Weighted Aggregation in Federated Learning with Neural Networks (ICML 2023, arXiv
2302.10911). The next model is w = gamma sum_n lambda_n w_n; gamma > 0 and lambda on the simplex are learned from
scratch in every round by minimising the cross-entropy of w on the proxy set. L-numbers are those of docs/fedlaw.md.

The loss depends on the K + 1 learned numbers through w alone, so one backward pass for g = dL/dw and the inner products
<g, w_n> give their gradient: exact, and no graph over K models. The server holds K decoded models.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray
from pydantic import Field

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.strategies.base import PackedStrategy, Setup, arrays_of, examples, train_loss
from fedq.strategies.laws import LAWS, Adam, Law, Sgd
from fedq.strategies.proxy import ProxyOptions, batches

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]

HALVED = 20  # epochs after which the learning rate is halved, and again: never, in the 20 epochs of the paper


@final
class FedLaw(PackedStrategy):
    """w <- gamma sum_n lambda_n w_n, with gamma and lambda learned on the proxy set in every round."""

    defaults: ClassVar[Mapping[str, Any]] = {"codec": "float32"}

    class Options(ProxyOptions):
        """`[strategy]` keys of `fedlaw`."""

        sends: Literal["updates", "weights"] = Field("updates", description="what clients send")
        form: Literal["exp", "quad"] = Field("exp", description="how gamma and lambda depend on what is learned")
        variant: Literal["joint", "two_stage"] = Field("joint", description="both at once, or lambda and then gamma")
        optimizer: Literal["adam", "sgd"] = Field("adam", description="adam, or sgd of momentum 0.9; new every round")
        server_lr: float = Field(0.01, gt=0, description="its learning rate, halved after every 20 epochs")
        beta1: float = Field(0.5, ge=0, lt=1, description="decay of adam's first moment")
        beta2: float = Field(0.999, ge=0, lt=1, description="decay of adam's second moment")
        epochs: int = Field(20, ge=0, description="passes over the proxy set in a round")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.sends = options.sends
        self._shown: dict[str, Any] = {}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The learned combination of all replies; see `PackedStrategy.aggregate_train`."""
        self._shown = {}
        usable = [reply for reply in replies if reply.has_content()]
        if not usable:
            return None, None
        w_KD = np.stack([flat(self._weights(reply)) for reply in usable])
        n_K, loss_K = np.array([examples(r) for r in usable]), np.array([train_loss(r)[0] for r in usable])
        law = self._learned(w_KD, LAWS[self.options.form].start(n_K / n_K.sum()), server_round)
        lambdas = {str(self.partition_of(r)): float(x) for r, x in zip(usable, law.lambda_K, strict=True)}
        self._shown = {"gamma": law.gamma, "lambda": lambdas}
        metrics = MetricRecord({"train-loss": float(n_K @ loss_K / n_K.sum())})
        return records.to_record(self._named(mixed(w_KD, law))), metrics

    def shown(self) -> dict[str, Any]:
        """The round's gamma, and lambda by partition; nothing where nobody came."""
        return self._shown

    def _learned(self, w_KD: F32, law: Law, round_: int) -> Law:
        """The gamma and lambda after the round's epochs."""
        o, k = self.options, len(w_KD)
        if o.variant == "joint":
            return self._path(w_KD, law, round_, range(o.epochs), np.ones(k + 1))[-1]
        only_x, only_s = np.append(np.ones(k), 0.0), np.append(np.zeros(k), 1.0)
        path = self._path(w_KD, law, round_, range(o.epochs // 2), only_x)
        law = law.at(np.mean([law.theta for law in path[len(path) // 2 :]], 0))
        return self._path(w_KD, law, round_, range(o.epochs // 2, o.epochs), only_s)[-1]

    def _path(self, w_KD: F32, law: Law, round_: int, epochs: range, free: F64) -> list[Law]:
        """The gamma and lambda before the epochs and after each, learning what is `free` (1, and 0 what is not)."""
        o, proxy, path = self.options, self.setup.proxy(), [law]
        steps = Adam(o.beta1, o.beta2) if o.optimizer == "adam" else Sgd()
        for i, epoch in enumerate(epochs):
            for batch in batches(proxy, o.proxy_batch, self.setup.participation.seed, round_, epoch):
                loss, g = proxy.gradient(self._named(mixed(w_KD, law)), batch)
                g_D = flat(g)
                a_K = np.array([w_D @ g_D for w_D in w_KD], np.float64)  # row by row: equal clients, equal bits
                law = law.at(law.theta + steps.step(free * law.gradient(a_K), o.server_lr * 0.5 ** (i // HALVED)))
                if not (np.isfinite(loss) and np.isfinite(law.theta).all()):
                    hint = "lower strategy.server_lr, or client.lr"
                    raise FedqError("FQ304", "learning weights on the proxy set diverged", hint=hint)
            path.append(law)
        return path

    def _weights(self, reply: Message) -> Arrays:
        """The weights that a reply stands for, in the order of the model."""
        arrays = arrays_of(reply)
        sent = {name: self.codec.decode(arrays[name]) for name in self.current}
        return {n: w + sent[n] for n, w in self.current.items()} if self.sends == "updates" else sent

    def _named(self, w_D: F32) -> dict[str, F32]:
        """A flat model as named arrays, views of it."""
        cuts = np.cumsum([x.size for x in self.current.values()])[:-1]
        parts = np.split(w_D, cuts)
        return {n: part.reshape(x.shape) for (n, x), part in zip(self.current.items(), parts, strict=True)}


def mixed(w_KD: F32, law: Law) -> F32:
    """The model gamma sum_n lambda_n w_n."""
    return (law.gamma * law.lambda_K).astype(np.float32) @ w_KD  # (L1)


def flat(arrays: Arrays) -> F32:
    """Named arrays as one vector."""
    return np.concatenate([x.reshape(-1) for x in arrays.values()])
