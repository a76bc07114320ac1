"""The round loop, a generator: progress, checkpoints, early stop and notebooks need no callbacks.

One round: the strategy configures messages, the grid carries them, clients train and pack, every reply is checked as it
arrives, the strategy folds it, the ledger has counted both ways, the server evaluates.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields
from math import isfinite
from time import perf_counter
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.ledger import MeteredGrid
from fedq.strategies.base import PackedStrategy, nodes

log = logging.getLogger("fedq")

Score = Callable[[Arrays], tuple[float, float]]


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one round; everything but `arrays` is a line of metrics.jsonl. None where it does not apply.

    Bytes are payload bytes of training messages, those of a first exchange included; `evaluate_bytes` those of client
    evaluation, both ways; wire bytes (transport and TLS included) exist in deployments only. `epsilon` is what the
    client that spent most has spent in all rounds so far, at `delta`; None where its noise was none, or can be drawn
    again. `strategy` is what the strategy shows of its state. `seconds` is wall time.
    """

    round: int
    accuracy: float | None
    deployed_accuracy: float | None
    loss: float | None
    train_loss: float | None
    up_bytes: int
    down_bytes: int
    wire_up_bytes: int | None
    wire_down_bytes: int | None
    clients: int
    failed: int
    rejected: int
    epsilon: float | None
    delta: float | None
    client_accuracy: float | None
    client_accuracy_std: float | None
    evaluate_bytes: int | None
    strategy: Mapping[str, Any]
    seconds: float
    arrays: ArrayRecord = field(repr=False, compare=False)

    def metrics(self) -> dict[str, Any]:
        """The line of metrics.jsonl: JSON values, None for what is not finite."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in values.items()}


@dataclass(frozen=True)
class Evaluation:
    """How and when the global model is evaluated: `score` gives loss and accuracy of named weights on the server."""

    score: Score | None = None
    every: int = 1
    clients: bool = False


def rounds(
    strategy: PackedStrategy,
    grid: MeteredGrid,
    arrays: ArrayRecord,
    *,
    first: int,
    last: int,
    evaluation: Evaluation = Evaluation(),
    tolerate: float = 0.0,
) -> Iterator[RoundRecord]:
    """Play rounds `first ... last` from the global model `arrays`; each record carries the next model.

    FedqError FQ301 or FQ302 when more than a share `tolerate` of a round's clients failed or sent malformed payloads
    (so 0 stops at the first), FQ304 when clients were asked and no reply could be used. The records before stand.
    Where nobody takes part, the strategy is called all the same; the next model is what it returns, if anything.
    """
    for round_ in range(first, last + 1):
        started = perf_counter()
        grid.begin()
        tally = _Tally(round_)
        if asked := list(strategy.configure_query(round_, arrays, ConfigRecord(), grid)):
            tally.allowed = tolerate * len(asked)
            with closing(grid.send_and_receive(asked)) as sent:
                strategy.aggregate_query(round_, tally.usable(sent, strategy.check_query, grid))
            tally.clients = 0  # those of the round are counted by their updates
        messages = list(strategy.configure_train(round_, arrays, ConfigRecord(), grid))
        tally.allowed = tolerate * len(asked or messages)
        with closing(grid.send_and_receive(messages)) as sent:  # here, whatever happens, and not in a client's thread
            mean, metrics = strategy.aggregate_train(round_, tally.usable(sent, strategy.check_reply, grid))
        if mean is None and (asked or messages):
            raise FedqError("FQ304", f"no reply could be used in round {round_}", hint=f"the last: {tally.why}")
        arrays = arrays if mean is None else mean
        up, down = grid.ledger.totals("query", "train")
        wire_up, wire_down = grid.wire()
        due = round_ % evaluation.every == 0 or round_ == last
        yield RoundRecord(
            round=round_,
            **_server_scores(strategy, arrays, evaluation.score if due else None),
            train_loss=float(metrics["train-loss"]) if metrics else None,  # type: ignore[arg-type]
            up_bytes=up,
            down_bytes=down,
            wire_up_bytes=wire_up,
            wire_down_bytes=wire_down,
            clients=tally.clients,
            failed=tally.failed,
            rejected=tally.rejected,
            epsilon=strategy.privacy()[0],
            delta=strategy.privacy()[1],
            **_client_scores(strategy, grid, arrays, round_, due and evaluation.clients, tolerate),
            strategy=strategy.shown(),
            seconds=perf_counter() - started,
            arrays=arrays,
        )


@dataclass
class _Tally:
    """Replies of one exchange: those that could be used, and how many may be lost before the run stops."""

    round: int
    allowed: float = 0.0
    clients: int = 0
    failed: int = 0
    rejected: int = 0
    why: str = ""

    def usable(
        self, replies: Iterable[Message], check: Callable[[Message], None], grid: MeteredGrid
    ) -> Iterator[Message]:
        """The replies that pass `check`; counts the others, and stops at the first that is too many."""
        for reply in replies:
            lost = ""
            if reply.has_error():
                self.failed, lost = self.failed + 1, f"failed in round {self.round}: {reply.error.reason}"
            else:
                try:
                    check(reply)
                except FedqError as error:
                    self.rejected, lost = self.rejected + 1, f"was rejected in round {self.round}: {error.message}"
            if not lost:
                self.clients += 1
                yield reply
                continue
            self.why = f"client {nodes(grid).index(reply.metadata.src_node_id)} {lost}"
            log.warning("%s", self.why)
            if self.failed + self.rejected > self.allowed:
                code = "FQ301" if reply.has_error() else "FQ302"
                client = nodes(grid).index(reply.metadata.src_node_id)
                alone = f"fedq simulate RUN --only-client {client} --round {self.round} --debug"
                hint = f"play it alone: {alone}; --tolerate SHARE goes on without such clients"
                raise FedqError(code, self.why, hint=hint)


def _server_scores(strategy: PackedStrategy, arrays: ArrayRecord, score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"accuracy": None, "deployed_accuracy": None, "loss": None}
    weights = records.to_arrays(arrays)
    loss, accuracy = score(weights)
    deployed = strategy.deployed(weights)
    return {
        "loss": loss,
        "accuracy": accuracy,
        "deployed_accuracy": score(deployed)[1] if deployed is not None else None,
    }


def _client_scores(
    strategy: PackedStrategy, grid: MeteredGrid, arrays: ArrayRecord, round_: int, due: bool, tolerate: float
) -> dict[str, Any]:
    if not due:
        return {"client_accuracy": None, "client_accuracy_std": None, "evaluate_bytes": None}
    messages = list(strategy.configure_evaluate(round_, arrays, ConfigRecord(), grid))
    tally = _Tally(round_, allowed=tolerate * len(messages))
    with closing(grid.send_and_receive(messages)) as sent:
        usable = tally.usable(sent, strategy.check_evaluation, grid)
        found: Mapping[str, Any] = strategy.aggregate_evaluate(round_, usable) or {}
    return {
        "client_accuracy": found.get("client-accuracy"),
        "client_accuracy_std": found.get("client-accuracy-std"),
        "evaluate_bytes": sum(grid.ledger.totals("evaluate")),
    }
