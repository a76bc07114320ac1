"""What strategies on a packed wire share: messages down, checked replies up, evaluation on clients, state.

A strategy is a Flower `Strategy`, so it runs in simulation, under `flwr run` and in a deployment. It holds the global
model as an `ArrayRecord` of float32 payloads, and is given the replies as a stream: it folds them one by one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Literal, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedq import messages
from fedq._flower import addressed, held
from fedq.errors import FedqError
from fedq.kernels import PackedCodec, Scaled, records
from fedq.kernels.codec import Parts
from fedq.kernels.records import Arrays
from fedq.options import Options
from fedq.participation import Participation
from fedq.participation.uniform import drawn
from fedq.strategies.proxy import Proxy, no_proxy

MOST_EXAMPLES = 2**31  # with the codecs' limit on magnitudes, sums over a million clients stay finite in float32


@dataclass(frozen=True)
class Setup:
    """What every strategy is told: who takes part, the codecs both ways, and the clients' learning rate.

    `proxy` and what `participation` knows of rates may need the data, which are loaded when they are first asked for.
    """

    participation: Participation
    codec: PackedCodec
    downlink: PackedCodec
    lr: float
    rounds: int = 1
    attackers: frozenset[int] = frozenset()  # partitions; known in simulation only
    proxy: Callable[[], Proxy] = no_proxy  # the server's own examples, where options are `ProxyOptions`
    scaling: float = 1.0  # what the model multiplies products of LoRA factors by
    delta: float = 1e-5  # at which private clients tell their epsilon
    tell_loss: bool = False  # whether they tell their training loss; it is 0 if not


class PackedStrategy(Strategy, ABC):
    """A strategy whose clients reply with one array record packed by `setup.codec`. A leaf says how replies combine.

    `defaults` are the run's settings where the user gives none; `sends` is what clients put into their arrays; `client`
    names the local algorithm that it needs, if another would make it a different method.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    sends: Literal["weights", "updates", "gradient"] = "weights"
    together: ClassVar[bool] = True  # whether a simulation may train clients ahead of their calls
    client: ClassVar[str] = ""
    told: ClassVar[frozenset[str]] = frozenset({"num-examples", "train-loss"})  # what replies say beside arrays
    private: ClassVar[bool] = False  # whether its clients keep privacy ledgers
    copies: ClassVar[int] = 1  # models in a message down, at most
    merges: bool = False  # whether products of LoRA factors are merged into the layers beside them

    class Options(Options):
        """`[strategy]` keys."""

    def __init__(self, setup: Setup, options: Any) -> None:
        self.setup, self.options = setup, options
        self.codec, self.downlink = real(setup.codec), real(setup.downlink)
        self.current: Arrays = {}  # the global model of the round in progress
        self.asked: dict[int, int] = {}  # whom the round's messages went to: node id -> partition
        self._checked: tuple[Message | None, Mapping[str, Parts]] = (None, {})

    # --------------------------------------------------------------------------------------------- the model

    def initial(self, weights: Arrays, hidden: list[str], seed: int) -> Arrays:
        """The arrays to train and send, from the model's `weights`; `hidden` names all but the last layer's tensors."""
        return weights

    def deployed(self, arrays: Arrays) -> Arrays | None:
        """The arrays that a device would hold, where they differ from the global model."""
        return None

    # --------------------------------------------------------------------------------------------- training

    @property
    def asks_first(self) -> bool:
        """Whether a round begins with `configure_query`: clients share something before they encode."""
        return False

    def mods(self) -> Sequence[Mod]:
        """The strategy's part on clients, around training and inside the packing."""
        return ()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each partition of the round, with the same packed arrays; arguments are not written to."""
        self.current = records.to_arrays(arrays)
        return self._messages("train", server_round, arrays, config, grid)

    def configure_query(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages of a first exchange in the round, where a strategy needs one: none."""
        return ()

    def check_query(self, reply: Message) -> None:
        """FedqError FQ302 unless `aggregate_query` can use the reply."""

    def aggregate_query(self, server_round: int, replies: Iterable[Message]) -> None:
        """Take what `configure_train` needs from the first exchange."""

    def check_reply(self, reply: Message) -> None:
        """FedqError FQ302 unless the reply to a train message is what `aggregate_train` can fold."""
        content = reply.content
        if held(content).keys() != {"arrays", "metrics"}:
            raise FedqError("FQ302", f"a reply with {sorted(content)}, expected arrays and metrics")
        payloads, metrics = held(messages.arrays(content)), held(messages.metrics(content))
        if payloads.keys() != self.current.keys():
            raise FedqError("FQ302", f"a reply with arrays {sorted(payloads)}, expected {sorted(self.current)}")
        parts = dict[str, Parts]()
        for name, payload in payloads.items():
            expected = self.current[name].shape
            if tuple(payload.shape) != expected:
                raise FedqError("FQ302", f"array `{name}` has shape {payload.shape}, expected {expected}")
            parts[name] = self.codec.open(payload)
        if metrics.keys() != self.told:
            raise FedqError("FQ302", f"metrics {sorted(metrics)}, expected {' and '.join(sorted(self.told))}")
        n, loss = metrics["num-examples"], metrics["train-loss"]
        if not isinstance(n, int) or not 0 < n < MOST_EXAMPLES:
            raise FedqError("FQ302", f"`num-examples` must be a positive integer below 2^31, got {n!r}")
        if not isinstance(loss, int | float) or not isfinite(loss):
            raise FedqError("FQ302", f"`train-loss` must be a finite number, got {loss!r}")
        self._checked = reply, parts

    @abstractmethod
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next global model, and the mean training loss; None for each that there is not, for want of replies.

        Called in every round, also in those for which nobody was asked: then None leaves the model as it is.
        """

    # --------------------------------------------------------------------------------------------- evaluation

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each partition that evaluates in this round: a sample of its own."""
        return self._messages("evaluate", server_round, arrays, config, grid)

    def check_evaluation(self, reply: Message) -> None:
        """FedqError FQ302 unless the reply to an evaluate message has scores that can be, or no examples."""
        metrics = messages.metrics(reply.content)
        if set(metrics) != {"num-examples", "loss", "accuracy"}:
            raise FedqError("FQ302", "an evaluation needs num-examples, loss and accuracy")
        values = list(metrics.values())
        if not all(isinstance(v, int | float) and isfinite(v) for v in values):
            raise FedqError("FQ302", f"an evaluation with values {values}")
        n, accuracy = metrics["num-examples"], cast(float, metrics["accuracy"])
        if not isinstance(n, int) or not 0 <= n < MOST_EXAMPLES or not 0 <= accuracy <= 1:
            raise FedqError("FQ302", f"an evaluation with accuracy {accuracy} on {n} examples")

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean and standard deviation of the clients' accuracies, each client counting once; and their mean loss."""
        metrics = [messages.metrics(r.content) for r in replies if r.has_content()]
        scores = [(cast(float, m["accuracy"]), cast(float, m["loss"])) for m in metrics if m["num-examples"]]
        if not scores:
            return None
        accuracy, loss = np.array(scores).T
        return MetricRecord(
            {
                "client-accuracy": accuracy.mean(),
                "client-accuracy-std": accuracy.std(),
                "client-loss": loss.mean(),
            }
        )

    # --------------------------------------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """What must survive a checkpoint besides the model: numbers, strings, arrays, and dicts or lists of them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        assert not state, f"{type(self).__name__} keeps no state"

    def shown(self) -> dict[str, Any]:
        """What of its state a strategy shows in each line of metrics.jsonl, under `strategy`: JSON values."""
        return {}

    def privacy(self) -> tuple[float | None, float | None]:
        """Epsilon and delta of all rounds so far; None where nothing is promised, infinite where noise is none."""
        return None, None

    def promise(self) -> str:
        """What the server promises to whole clients, in words; empty where nothing."""
        return ""

    def summary(self) -> None:
        """Nothing: the run's plan says it all."""

    # --------------------------------------------------------------------------------------------- helpers

    def partition_of(self, reply: Message) -> int:
        """The partition whose client sent this reply to a train message of the round."""
        return self.asked[reply.metadata.src_node_id]

    def folded(self, replies: Iterable[Message], weight: Callable[[Message], float]) -> "Fold":
        """The weighted mean of all replies that carry content, folded as they come."""
        fold = self.fold()
        for reply in replies:
            if reply.has_content():
                fold.add(reply, weight(reply))
        return fold

    def fold(self) -> "Fold":
        """An empty weighted mean of replies."""
        return Fold(self.codec, self.current, self._parts)

    def _parts(self, reply: Message) -> Mapping[str, Parts]:
        """What the arrays of a reply hold: as `check_reply` read them if it was the last that it saw."""
        checked, parts = self._checked
        return parts if checked is reply else {name: self.codec.open(p) for name, p in arrays_of(reply).items()}

    def _messages(
        self,
        kind: str,
        round_: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        """Messages to the partitions of the round, or to those that evaluate in it."""
        of = self.setup.participation.population
        if kind == "evaluate":
            partitions = drawn(of.seed, "sample-evaluate", round_, of.clients, of.per_round)
        else:
            partitions = self.setup.participation.partitions(round_)
        down = self._packed(arrays, round_)
        content = RecordDict({"arrays": down, "config": ConfigRecord({**config, "server-round": round_})})
        ids = nodes(grid)
        chosen = {ids[partition]: partition for partition in partitions}
        if kind != "evaluate":
            self.asked = chosen
        return addressed(content, chosen, kind)

    def _packed(self, arrays: ArrayRecord, round_: int) -> ArrayRecord:
        by = self.downlink
        if all(payload.stype == by.stype for payload in arrays.values()):
            return arrays
        return records.encode(records.to_arrays(arrays), by, self.setup.participation.seed, "down", round_)


class Fold:
    """The weighted mean of a stream of replies, one accumulator for each array, straight from packed bytes."""

    def __init__(self, codec: PackedCodec, like: Arrays, opened: Callable[[Message], Mapping[str, Parts]]) -> None:
        self._sums, self._opened = {name: codec.accumulator(x.shape) for name, x in like.items()}, opened
        self._weight = self._loss = self._examples = 0.0

    def add(self, reply: Message, weight: float) -> None:
        """Add a checked reply with this weight."""
        for name, parts in self._opened(reply).items():
            self._sums[name].fold(parts, weight)
        self._weight += weight
        loss, n = train_loss(reply)
        self._loss, self._examples = self._loss + n * loss, self._examples + n

    def sum(self) -> dict[str, NDArray[np.float32]]:
        """The weighted sum of all replies."""
        return {name: total.sum() for name, total in self._sums.items()}

    def mean(self) -> dict[str, NDArray[np.float32]]:
        """The weighted mean of all replies."""
        return {name: total / np.float32(self._weight) for name, total in self.sum().items()}

    @property
    def weight(self) -> float:
        """The sum of the weights."""
        return self._weight

    @property
    def empty(self) -> bool:
        """Whether no reply was added."""
        return self._weight == 0

    @property
    def metrics(self) -> MetricRecord:
        """The training loss, each client weighted by its examples."""
        return MetricRecord({"train-loss": self._loss / self._examples})


def nodes(grid: Grid) -> Sequence[int]:
    """Node ids with partition k at place k: in the grid's own order if it has one, else ascending."""
    ids = grid.get_node_ids()
    return ids if isinstance(ids, Sequence) else sorted(ids)


def real(codec: PackedCodec) -> PackedCodec:
    """A codec for values of any size: with a scale sent along if it carries [-1, 1] only, or nothing but signs."""
    return Scaled(codec) if codec.unit or codec.name == "sign" else codec


def arrays_of(reply: Message) -> Mapping[str, Array]:
    """The packed arrays of a reply, by name."""
    return messages.arrays(reply.content)


def uniform(reply: Message) -> float:
    """One: every client counts the same."""
    return 1.0


def examples(reply: Message) -> float:
    """The number of examples that a reply stands for."""
    return float(held(messages.metrics(reply.content))["num-examples"])


def train_loss(reply: Message) -> tuple[float, float]:
    """The mean training loss of a reply, and the examples it stands for."""
    metrics = held(messages.metrics(reply.content))
    return float(metrics["train-loss"]), float(metrics["num-examples"])
