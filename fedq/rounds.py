"""The round loop, a generator: progress, checkpoints, early stop and notebooks need no callbacks.

One round: the strategy configures messages, the grid carries them, clients train and pack, every reply is checked as it
arrives, the strategy folds it, the ledger has counted both ways, the server evaluates.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from time import perf_counter
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.ledger import Ledger, MeteredGrid
from fedq.strategies.base import Arrays, PackedStrategy
from fedq.strategies.sampling import nodes

log = logging.getLogger("fedq")

Score = Callable[[Arrays], tuple[float, float]]


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one round; everything but `arrays` is a line of metrics.jsonl. None where it does not apply.

    Bytes are payload bytes of training messages; `evaluate_bytes` those of client evaluation, both ways; wire bytes
    (transport and TLS included) exist in deployments only. `seconds` is wall time.
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
    client_accuracy: float | None
    client_accuracy_std: float | None
    evaluate_bytes: int | None
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
    ledger: Ledger,
    arrays: ArrayRecord,
    *,
    first: int,
    last: int,
    evaluation: Evaluation = Evaluation(),
    tolerate: float = 0.0,
) -> Iterator[RoundRecord]:
    """Play rounds `first ... last` from the global model `arrays`; each record carries the next model.

    FedqError FQ301 or FQ302 when more than a share `tolerate` of a round's clients failed or sent malformed payloads
    (so 0 stops at the first), FQ304 when no reply could be used. The records before stand.
    """
    for round_ in range(first, last + 1):
        started = perf_counter()
        ledger.clear()
        messages = list(strategy.configure_train(round_, arrays, ConfigRecord(), grid))
        tally = _Tally(round_, allowed=tolerate * len(messages))
        replies = _usable(grid.send_and_receive(messages), strategy, grid, tally)
        mean, metrics = strategy.aggregate_train(round_, replies)
        if mean is None:
            raise FedqError("FQ304", f"no reply could be used in round {round_}", hint=f"the last: {tally.why}")
        arrays = mean
        up, down = ledger.totals("train")
        due = round_ % evaluation.every == 0 or round_ == last
        yield RoundRecord(
            round=round_,
            **_server_scores(strategy, arrays, evaluation.score if due else None),
            train_loss=float(metrics["train-loss"]) if metrics else None,  # type: ignore[arg-type]
            up_bytes=up,
            down_bytes=down,
            wire_up_bytes=None,
            wire_down_bytes=None,
            clients=tally.clients,
            failed=tally.failed,
            rejected=tally.rejected,
            epsilon=None,
            **_client_scores(strategy, grid, ledger, arrays, round_, due and evaluation.clients),
            seconds=perf_counter() - started,
            arrays=arrays,
        )


@dataclass
class _Tally:
    round: int
    allowed: float  # replies that may be lost
    clients: int = 0
    failed: int = 0
    rejected: int = 0
    why: str = "no client was sampled"


def _usable(
    replies: Iterable[Message], strategy: PackedStrategy, grid: MeteredGrid, tally: _Tally
) -> Iterator[Message]:
    """The replies that the strategy can fold; counts the others, and stops at the first that is too many."""
    for reply in replies:
        client = f"client {nodes(grid).index(reply.metadata.src_node_id)}"
        code = "FQ301"
        if reply.has_error():
            tally.failed += 1
            tally.why = f"{client} failed in round {tally.round}: {reply.error.reason}"
        else:
            try:
                strategy.check_reply(reply)
            except FedqError as error:
                tally.rejected += 1
                code, tally.why = "FQ302", f"{client} was rejected in round {tally.round}: {error.message}"
            else:
                tally.clients += 1
                yield reply
                continue
        log.warning("%s", tally.why)
        if tally.failed + tally.rejected > tally.allowed:
            raise FedqError(code, tally.why, hint="more is in log.txt; --tolerate SHARE goes on without such clients")


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
    strategy: PackedStrategy, grid: MeteredGrid, ledger: Ledger, arrays: ArrayRecord, round_: int, due: bool
) -> dict[str, Any]:
    if not due:
        return {"client_accuracy": None, "client_accuracy_std": None, "evaluate_bytes": None}
    messages = strategy.configure_evaluate(round_, arrays, ConfigRecord(), grid)
    found: Mapping[str, Any] = strategy.aggregate_evaluate(round_, grid.send_and_receive(messages)) or {}
    return {
        "client_accuracy": found.get("client-accuracy"),
        "client_accuracy_std": found.get("client-accuracy-std"),
        "evaluate_bytes": sum(ledger.totals("evaluate")),
    }
