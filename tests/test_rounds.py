"""The round: failures, rejected payloads, bytes, memory and evaluation on clients."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message

from fedq.build import Simulation, build
from fedq.clients.app import client_app
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.grids import LocalGrid
from fedq.kernels import records
from fedq.ledger import Ledger, MeteredGrid
from fedq.participation import Population, participation
from fedq.rounds import Evaluation, RoundRecord, rounds
from fedq.simulation import begin, play

Break = Callable[[Message], Message]


def simulation(**more: object) -> Simulation:
    return build(
        make_config({"clients": 6, "client.local_steps": 2, "model.hidden": [16], "data.partition": "iid", **more})
    )


def one_round(s: Simulation, spoil: Break, bad: set[int], tolerate: float) -> RoundRecord:
    """A round in which the replies of partitions `bad` go through `spoil`."""
    app = client_app(s.trainer, s.strategy.codec, 0)

    def spoiled(message: Message, context: Context) -> Message:
        reply = app(message, context)
        return spoil(reply) if context.node_config["partition-id"] in bad else reply

    grid = MeteredGrid(LocalGrid(spoiled, 6, workers=2), Ledger())  # type: ignore[arg-type]
    (record,) = rounds(s.strategy, grid, records.to_record(s.initial), first=1, last=1, tolerate=tolerate)
    return record


def raising(reply: Message) -> Message:
    raise RuntimeError("out of paper")


def changed(make: Callable[[Array], Array]) -> Break:
    def spoil(reply: Message) -> Message:
        arrays = reply.content["arrays"]
        assert isinstance(arrays, ArrayRecord)
        reply.content["arrays"] = ArrayRecord({n: make(a) for n, a in arrays.items()})
        return reply

    return spoil


MALFORMED = {
    "truncated": changed(lambda a: Array(a.dtype, a.shape, a.stype, a.data[:-1])),
    "over-long": changed(lambda a: Array(a.dtype, a.shape, a.stype, a.data + b"\0")),
    "wrong stype": changed(lambda a: Array(a.dtype, a.shape, "fedq.ternary", a.data)),
    "numpy": changed(lambda a: Array(np.zeros(a.shape, np.float32))),
    "wrong shape": changed(lambda a: Array(a.dtype, a.shape[::-1], a.stype, a.data)),
}


def test_the_first_failure_stops_the_round() -> None:
    with pytest.raises(FedqError, match="client 2 failed in round 1: RuntimeError: out of paper") as error:
        one_round(simulation(), raising, {2}, 0.0)
    assert (error.value.code, error.value.exit_code) == ("FQ301", 5)


def test_tolerated_failures_are_counted() -> None:
    record = one_round(simulation(), raising, {2, 4}, 0.4)
    assert (record.clients, record.failed, record.rejected) == (4, 2, 0)
    with pytest.raises(FedqError, match="client 4 failed"):
        one_round(simulation(), raising, {2, 4}, 0.3)
    with pytest.raises(FedqError, match="no reply could be used"):
        one_round(simulation(), raising, set(range(6)), 1.0)


@pytest.mark.parametrize("how", MALFORMED)
@pytest.mark.parametrize("strategy", ["fedvote", "fedpaq", "krum"])
def test_malformed_payloads_are_rejected(how: str, strategy: str) -> None:
    record = one_round(simulation(strategy=strategy), MALFORMED[how], {1}, 0.2)
    assert (record.clients, record.rejected) == (5, 1)
    with pytest.raises(FedqError, match="client 1 was rejected") as error:
        one_round(simulation(strategy=strategy), MALFORMED[how], {1}, 0.0)
    assert (error.value.code, error.value.exit_code) == ("FQ302", 5)


def test_a_rejected_reply_changes_nothing() -> None:
    """The model is that of the other five clients, bit for bit."""
    rejected = one_round(simulation(strategy="fedavg"), MALFORMED["truncated"], {3}, 0.2)
    failed = one_round(simulation(strategy="fedavg"), raising, {3}, 0.2)
    assert {n: a.data for n, a in rejected.arrays.items()} == {n: a.data for n, a in failed.arrays.items()}


def test_nan_in_an_update() -> None:
    """Training that diverges is said as such, and stops the run."""
    s = simulation(strategy="fedavg", **{"client.lr": 1e25, "model.norm": "none"})
    with pytest.raises(FedqError, match=r"client 0 failed in round .*(diverged|huge values)") as error:
        list(s.rounds(s.initial, 1, 3))
    assert error.value.exit_code == 5


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failing_client_leaves_one_traceback_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Of clients that failed at the same time, and of those given up for it, nobody waits for an answer."""
    run, s = begin(
        make_config({"clients": 4, "rounds": 2, "model.hidden": [8], "workers": workers, "engine": "local"}), tmp_path
    )

    def fail(*_: object) -> None:
        raise ValueError("a broken disk")

    monkeypatch.setattr(s.trainer, "_trained", fail)
    with pytest.raises(FedqError, match="client 0 failed in round 1: ValueError: a broken disk"):
        list(play(run, s))
    log = (run.path / "log.txt").read_text()
    assert log.count("Traceback") == 1
    assert run.about["status"] == "failed"


def test_a_failing_strategy_is_said_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, s = begin(make_config({"clients": 4, "rounds": 2, "model.hidden": [8], "client.local_steps": 1}), tmp_path)

    def fail(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(s.strategy, "aggregate_train", fail)
    with pytest.raises(FedqError, match="round 1 failed on the server: KeyError") as error:
        list(play(run, s))
    assert error.value.exit_code == 5
    assert "Traceback" in (run.path / "log.txt").read_text()


def test_a_strategy_without_its_file_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, s = begin(make_config({"clients": 4, "rounds": 2, "model.hidden": [8], "client.local_steps": 1}), tmp_path)

    def fail(*_: object) -> None:
        raise FileNotFoundError(2, "No such file", "prior.npy")

    monkeypatch.setattr(s.strategy, "aggregate_train", fail)
    with pytest.raises(FedqError, match="round 1 failed on the server: FileNotFoundError") as error:
        list(play(run, s))
    assert error.value.code == "FQ305"
    assert "Traceback" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize("codec", ["float32", "qsgd4", "binary"])
def test_ledger_counts_what_was_sent(codec: str) -> None:
    """The record's bytes are the lengths of the payloads that passed, counted here a second time."""
    s = simulation(strategy="fedavg", codec=codec, downlink="float16", per_round=3)
    seen = {"up": 0, "down": 0}
    inner = s.grid.send_and_receive

    def watched(messages, *, timeout=None):  # type: ignore[no-untyped-def]
        messages = list(messages)
        seen["down"] += sum(len(a.data) for m in messages for a in m.content["arrays"].values())
        for reply in inner(messages, timeout=timeout):
            seen["up"] += sum(len(a.data) for a in reply.content["arrays"].values())
            yield reply

    s.grid.send_and_receive = watched  # type: ignore[method-assign]
    (record,) = s.rounds(s.initial, 1, 1)
    weights = sum(x.size for x in s.initial.values())
    assert record.up_bytes == seen["up"] > 0
    assert record.down_bytes == seen["down"] == 3 * 2 * weights


def test_evaluation_on_clients() -> None:
    s = simulation(**{"evaluate.clients": True, "evaluate.every": 2})
    first, second = s.rounds(s.initial, 1, 2)
    assert (first.accuracy, first.client_accuracy, first.evaluate_bytes) == (None, None, None)
    assert second.client_accuracy is not None
    assert 0 < second.client_accuracy < 1
    assert second.client_accuracy_std is not None
    assert second.client_accuracy_std > 0
    assert second.evaluate_bytes == second.down_bytes
    assert s.trainer._shards.evaluation(0).x.shape[0] == 48  # a fifth of 240, kept from training
    assert len(s.trainer._shards.training(0)) == 192


def test_sampling_is_over_partitions_and_keyed() -> None:
    uniform = participation("uniform")
    many, few = (uniform(Population(*of), uniform.Options()) for of in ((0, 1_000_000, 50), (1, 10, 3)))
    chosen = many.partitions(3)
    assert len(set(chosen)) == 50
    assert chosen == sorted(chosen) == many.partitions(3)
    assert chosen != many.partitions(4)
    counts = np.bincount([k for r in range(2000) for k in few.partitions(r)], minlength=10)
    assert abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_replies_stream() -> None:
    """The grid never runs far ahead of the server: with 2 threads at most 4 clients more than replies taken."""
    started: list[int] = []

    def app(message: Message, context: Context) -> Message:
        started.append(int(context.node_config["partition-id"]))
        return Message(message.content, reply_to=message)

    from flwr.app import RecordDict

    for workers, ahead in ((1, 0), (2, 4)):
        started.clear()
        grid = LocalGrid(app, 100, workers=workers)  # type: ignore[arg-type]
        replies = grid.send_and_receive([Message(RecordDict(), node, "train") for node in grid.get_node_ids()])
        taken = 0
        for reply in replies:
            taken += 1
            assert reply.metadata.src_node_id == taken
            assert len(started) <= taken + ahead
        assert taken == 100


def test_a_client_that_hangs_is_an_error_reply() -> None:
    from threading import Event

    from flwr.app import RecordDict

    over = Event()

    def app(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            over.wait(60)
        return Message(RecordDict(), reply_to=message)

    grid = LocalGrid(app, 2)  # type: ignore[arg-type]
    replies = list(grid.send_and_receive([Message(RecordDict(), n, "train") for n in (1, 2)], timeout=2.0))
    over.set()
    assert [r.has_error() for r in replies] == [False, True]
    assert "no reply within" in replies[1].error.reason


def test_evaluation_every_other_round_and_at_the_end() -> None:
    s = simulation(**{"evaluate.every": 2})
    assert [r.accuracy is not None for r in s.rounds(s.initial, 1, 3)] == [False, True, True]
    assert Evaluation().score is None


def test_failing_evaluations_are_failures() -> None:
    s = simulation(**{"evaluate.clients": True})

    def fail(*_: object) -> None:
        raise RuntimeError("no test data")

    s.trainer.evaluate = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(FedqError, match="client 0 failed in round 1: RuntimeError: no test data"):
        list(s.rounds(s.initial, 1, 1))


def test_abandoned_clients_stop_training() -> None:
    """Closing a round does not wait for the local steps of clients that nobody needs."""
    import time

    s = simulation(workers=2, engine="local", **{"client.local_steps": 200_000})
    s.clients.cohort = 1
    playing = s.rounds(s.initial, 1, 1)
    began = time.monotonic()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def app(message: Message, context: Any) -> Message:
        return interrupt() if message.metadata.dst_node_id == 1 else slow(message, context)

    slow = client_app(s.trainer, s.strategy.codec, 0)
    s.clients._crew = replace(s.clients._crew, app=app)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        next(playing)
    assert time.monotonic() - began < 20  # the steps would take minutes


def test_scores_use_all_the_weights_they_are_given() -> None:
    s = simulation()
    before = s.score(s.drawn)
    zeroed = {**s.drawn, "4.weight": np.zeros_like(s.drawn["4.weight"])}
    s.score(s.initial)
    assert s.score(zeroed)[0] == pytest.approx(np.log(10), abs=1e-5)
    assert s.score(s.drawn) == before


@pytest.mark.parametrize("field", ["train-loss", "num-examples"])
@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "signsgd"])
def test_hostile_metrics_are_rejected(field: str, strategy: str) -> None:
    from flwr.app import MetricRecord

    def spoil(reply: Message) -> Message:
        reply.content["metrics"] = MetricRecord({**reply.content["metrics"], field: 1e300, "more": 2.0})  # type: ignore[dict-item]
        return reply

    record = one_round(simulation(strategy=strategy), spoil, {1}, 0.2)
    assert (record.clients, record.rejected) == (5, 1)


@pytest.mark.parametrize(
    "said",
    [{"num-examples": -3}, {"num-examples": 2**40}, {"accuracy": 1e9}, {"accuracy": -0.1}, {"loss": float("nan")}],
)
def test_evaluations_that_cannot_be_are_rejected(said: dict[str, float]) -> None:
    from flwr.app import MetricRecord, RecordDict

    server = simulation(strategy="fedavg").strategy
    good: dict[str, float] = {"num-examples": 3, "loss": 0.5, "accuracy": 1.0}

    def reply(**changes: float) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({**good, **changes})}), 1, "evaluate")  # type: ignore[dict-item]

    server.check_evaluation(reply())
    with pytest.raises(FedqError) as error:
        server.check_evaluation(reply(**said))
    assert error.value.code == "FQ302"


def test_huge_values_are_rejected_before_they_overflow() -> None:
    huge = changed(lambda a: Array(a.dtype, a.shape, a.stype, np.full(a.shape, 3e38, "<f4").tobytes()))
    record = one_round(simulation(strategy="fedavg"), huge, {1}, 0.2)
    assert record.rejected == 1
