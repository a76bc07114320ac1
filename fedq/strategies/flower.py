"""Flower's own aggregation strategies behind any codec.

Each is wrapped, never overridden: it sees decoded float32 replies holding the clients' weights, as in plain Flower,
and its settings are those of its constructor. Sampling and packing are ours. Order statistics (Krum, medians, Bulyan)
need all replies at once, so here, and only here, the server holds K decoded models.
"""

import inspect
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, cast, final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr
from pydantic import Field, create_model

from fedq import messages
from fedq._flower import with_content
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.options import Options
from fedq.strategies.base import PackedStrategy, Setup, arrays_of

ONE_NODE = cast(Grid, SimpleNamespace(get_node_ids=lambda: [1]))  # all that a strategy asks of a grid
OURS = (
    "fraction_",
    "min_",
    "weighted_by_key",
    "arrayrecord_key",
    "configrecord_key",
    "train_metrics",
    "evaluate_metrics",
)


class Flower(PackedStrategy):
    """A Flower strategy `inner` on a packed wire."""

    inner: type[flwr.FedAvg]
    defaults: ClassVar[Mapping[str, Any]] = {"codec": "float32"}

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.sends = options.sends
        given = options.model_dump(exclude={"sends"})
        one: dict[str, Any] = {"min_train_nodes": 1, "min_available_nodes": 1}
        try:
            self._inner = self.inner(fraction_train=1.0, fraction_evaluate=0.0, **one, **given)
        except ValueError as error:
            raise FedqError("FQ105", f"Flower's {self.inner.__name__}: {error}", key="strategy.name") from error

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ours, with whatever the inner strategy wants its clients to be told."""
        copied = ConfigRecord({**config})
        (message,) = self._inner.configure_train(server_round, _plain(arrays), copied, ONE_NODE)
        told = messages.config(message.content)
        return super().configure_train(server_round, arrays, told, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The inner strategy's aggregate of decoded replies."""
        decoded = [self._decoded(reply) for reply in replies if reply.has_content()]
        if not decoded:
            return None, None
        try:
            arrays, metrics = self._inner.aggregate_train(server_round, decoded)
        except (ValueError, IndexError) as error:
            raise FedqError(
                "FQ304",
                f"Flower's {self.inner.__name__} cannot combine {len(decoded)} replies: {error}",
                hint="check its settings against --per-round",
            ) from error
        if arrays is None:
            return None, metrics
        return records.to_record({n: a.numpy().astype(np.float32, copy=False) for n, a in arrays.items()}), metrics

    def state(self) -> dict[str, Any]:
        """The inner strategy's numbers and arrays (moments, momentum), but not its copy of the model."""
        given = self.options.model_dump()
        kept = {k: v for k, v in vars(self._inner).items() if k != "current_arrays" and k not in given}
        return {k: v for k, v in kept.items() if not (callable(v) or isinstance(v, str))}

    def restore(self, state: dict[str, Any]) -> None:
        """Put the numbers and arrays back."""
        vars(self._inner).update(state)

    def _decoded(self, reply: Message) -> Message:
        arrays = {name: self.codec.decode(payload) for name, payload in arrays_of(reply).items()}
        if self.sends == "updates":
            arrays = {name: self.current[name] + x for name, x in arrays.items()}
        metrics = messages.metrics(reply.content).copy()
        plain = ArrayRecord({name: Array(x) for name, x in arrays.items()})
        return with_content(reply, RecordDict({"arrays": plain, "metrics": metrics}))


def behind_codec(inner: type[flwr.FedAvg], **also: Any) -> type[Flower]:
    """The wrapped form of a Flower strategy; its `[strategy]` keys are its constructor's numbers.

    `also` are attributes of the class, such as `defaults`.
    """
    fields: dict[str, Any] = {
        name: (type(p.default), p.default)
        for name, p in inspect.signature(inner).parameters.items()
        if not name.startswith(OURS) and isinstance(p.default, bool | int | float)
    }
    sends: Any = (Literal["updates", "weights"], Field("updates", description="what clients send"))
    options = create_model(f"{inner.__name__}Options", __base__=Options, sends=sends, **fields)
    doc = f"Flower's {inner.__name__} behind any codec."
    return final(type(inner.__name__, (Flower,), {"inner": inner, "Options": options, "__doc__": doc, **also}))


def _plain(arrays: ArrayRecord) -> ArrayRecord:
    return ArrayRecord({name: Array(x) for name, x in records.to_arrays(arrays).items()})


FedProx = behind_codec(
    flwr.FedProx,
    client="fedprox",
    defaults={"codec": "float32", "client": {"name": "fedprox"}, "strategy": {"proximal_mu": 0.01}},
)
FedAdagrad = behind_codec(flwr.FedAdagrad)
FedAdam = behind_codec(flwr.FedAdam)
FedYogi = behind_codec(flwr.FedYogi)
FedAvgM = behind_codec(flwr.FedAvgM)
FedMedian = behind_codec(flwr.FedMedian)
FedTrimmedAvg = behind_codec(flwr.FedTrimmedAvg)
Krum = behind_codec(flwr.Krum)
MultiKrum = behind_codec(flwr.MultiKrum)
Bulyan = behind_codec(flwr.Bulyan)
