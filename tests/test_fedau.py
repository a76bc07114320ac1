"""What pins FedAU and its baselines down: A-numbers are those of docs/fedau.md."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.grids import LocalGrid
from fedq.kernels import CODECS, records
from fedq.participation import Participation, Population
from fedq.rng import rng
from fedq.strategies import PackedStrategy, Setup, strategy
from fedq.strategies.intervals import Intervals, Sleeper
from fedq.testing import check_strategy

AVERAGES = ("fedau", "average_participating", "average_all", "known_probability", "fedvarp", "mifa")
BERNOULLI = {"participation.name": "bernoulli", "participation.correlated": False}


class Told(Participation):
    """Who comes is told by the test."""

    def __init__(self, trace: list[list[int]], clients: int, p_N: Any = None) -> None:
        super().__init__(Population(0, clients), None)
        self.trace, self._p_N = trace, p_N

    def partitions(self, round_: int) -> list[int]:
        return self.trace[round_ - 1]

    def probabilities(self) -> np.ndarray:
        return self._p_N if self._p_N is not None else np.full(self.clients, 0.5)


def grid(clients: int) -> LocalGrid:
    """As many nodes as clients; nobody plays them."""
    return LocalGrid(ClientApp(), clients)


def played(
    name: str,
    trace: list[list[int]],
    update: Callable[[int, np.ndarray], Any],
    *,
    clients: int,
    p_N: Any = None,
    codec: str = "float32",
    start: Any = (0.0,),
    **options: Any,
) -> tuple[list[np.ndarray], PackedStrategy]:
    """The models before each round and after the last, where client n answers `update(n, model)`."""
    kind = strategy(name)
    setup = Setup(Told(trace, clients, p_N), CODECS[codec], CODECS["float32"], 0.1)
    server, x = kind(setup, kind.Options(**options)), np.array(start, np.float32)
    models = [x]
    for round_ in range(1, len(trace) + 1):
        asked = list(server.configure_train(round_, records.to_record({"x": x}), ConfigRecord(), grid(clients)))
        replies = [answer(server, m, update(m.metadata.dst_node_id - 1, x), round_) for m in asked]
        arrays, metrics = server.aggregate_train(round_, iter(replies))
        assert metrics is None or metrics["train-loss"] == 0.5
        assert bool(asked) == (metrics is not None)
        x = records.to_arrays(arrays)["x"] if arrays is not None else x
        models.append(x)
    return models, server


def answer(server: PackedStrategy, message: Message, update: Any, round_: int) -> Message:
    update = np.asarray(update, np.float32)
    packed = records.encode({"x": update}, server.codec, 0, "up", round_, message.metadata.dst_node_id)
    metrics = MetricRecord({"num-examples": 10, "train-loss": 0.5})
    return Message(RecordDict({"arrays": packed, "metrics": metrics}), reply_to=message)


def coin_flips(p_N: Any, rounds: int, seed: int = 0) -> list[list[int]]:
    flips = rng(seed, "flips").random((rounds, len(p_N))) < np.asarray(p_N)
    return [np.flatnonzero(row).tolist() for row in flips]


# ------------------------------------------------------------------------------------------------- the weights


@pytest.mark.parametrize(
    ("K", "expected"),
    [
        (4, [1, 1, 1, 3, 2, 2, 2, 2, 8 / 3, 8 / 3, 2.5, 2.5]),
        (0, [1, 1, 1, 3, 2, 2, 2, 2, 2, 2, 10 / 3, 10 / 3]),
    ],
)
def test_weights_of_a_trace(K: int, expected: list[float]) -> None:
    """A1, A2: participations at t = 2, 3, 9, 11 of 0 ... 11."""
    intervals, seen, sleeper, told = Intervals.fresh(1, K), [], Sleeper(), {}
    for t in range(12):
        seen.append(float(intervals.omega_N[0]))
        came = t in (2, 3, 9, 11)
        intervals = intervals.after([0] if came else [])
        if came:
            told[t], sleeper = sleeper.came(t + 1, K)
    np.testing.assert_allclose(seen, expected, rtol=1e-15)
    assert told == {t: seen[t] for t in (2, 3, 9, 11)}


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(0, 60))
def test_both_forms_are_the_papers_recursion(trace: list[bool], K: int) -> None:
    """A1, A2, A7: whole numbers against the running mean, and against what a client knows that slept, exactly."""
    M, S, omega = 0, 0, 1.0
    intervals, sleeper = Intervals.fresh(1, K), Sleeper()
    for t, came in enumerate(trace):
        assert intervals.omega_N[0] == pytest.approx(omega, rel=1e-12)
        if came:
            weight, sleeper = sleeper.came(t + 1, K)
            assert weight == intervals.omega_N[0]
        intervals = intervals.after([0] if came else [])
        S += 1
        if came or S == K:
            omega, M, S = (M * omega + S) / (M + 1) if M else float(S), M + 1, 0


@pytest.mark.parametrize("K", [0, 1, 5, 50])
def test_weight_of_a_client_that_always_comes(K: int) -> None:
    intervals = Intervals.fresh(2, K)
    for _ in range(120):
        intervals = intervals.after([0])
        assert intervals.omega_N[0] == 1
    assert intervals.omega_N[1] == (K or 1)  # and of one that never comes


@pytest.mark.parametrize("K", [1, 10, 50])
def test_mean_interval(K: int) -> None:
    """E[omega] = (1 - (1 - p)^K) / p: K = 50 corrects a client of p = 0.02 by 31.8, not 50, by design."""
    p_N, T = np.repeat([0.02, 0.05, 0.1, 0.2056], 100), 4000
    intervals = Intervals.fresh(400, K)
    for came in coin_flips(p_N, T):
        intervals = intervals.after(came)
    omega = intervals.omega_N.reshape(4, 100)
    p = np.array([0.02, 0.05, 0.1, 0.2056])
    expected = (1 - (1 - p) ** K) / p
    if K == 50:
        np.testing.assert_allclose(expected, [31.79, 18.46, 9.948, 4.864], atol=0.01)
    error = omega.std(1) / 10
    assert (np.abs(omega.mean(1) - expected) <= 5 * error + 0.01 * expected).all()


# ------------------------------------------------------------------------------------------------- the strategies


def pull(centres: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    """A gradient step of F_n = |x - c_n|^2 / 2."""
    return lambda n, x: 0.02 * (centres[n] - x)


def test_cutoff_one_is_average_all_bit_for_bit() -> None:
    trace = coin_flips([0.1, 0.4, 0.9, 0.5, 0.2], 60)
    update = pull(rng(0, "centres").standard_normal(5))
    for codec in ("float32", "qsgd4", "ternary"):
        one, _ = played("fedau", trace, update, clients=5, cutoff=1, codec=codec)
        every, _ = played("average_all", trace, update, clients=5, codec=codec)
        assert all((a == b).all() for a, b in zip(one, every, strict=True))


def test_bias_on_quadratic_clients() -> None:
    """Average-participating settles where frequent clients want it, FedAU at the mean of all, as with known 1/p_n."""
    p_N = np.array([0.05, 0.1, 0.3, 0.9])
    c_N = np.array([1.0, 2.0, -1.0, -3.0])
    trace = coin_flips(p_N, 2500)

    def settled(name: str, **options: Any) -> float:
        models, _ = played(name, trace, pull(c_N), clients=4, p_N=p_N, **options)
        return float(np.mean(models[1000:]))

    assert settled("average_participating") < -1.5
    assert settled("average_all") == pytest.approx((p_N * c_N).sum() / p_N.sum(), abs=0.15)
    assert settled("known_probability") == pytest.approx(c_N.mean(), abs=0.2)
    assert settled("fedau", cutoff=0) == pytest.approx(c_N.mean(), abs=0.2)
    cut = (p_N * (1 - (1 - p_N) ** 8) / p_N * c_N).sum() / (1 - (1 - p_N) ** 8).sum()
    assert settled("fedau", cutoff=8) == pytest.approx(cut, abs=0.15)  # the cut-off trades bias for variance


def test_one_step_of_each() -> None:
    """A3 to A6, A11, A12 in round 3 of a trace, from numbers that fit on a page; N = 4, eta = 2."""
    trace = [[0], [0, 2], [1, 2]]
    updates = {1: {0: 4.0}, 2: {0: 8.0, 2: 1.0}, 3: {1: 6.0, 2: 3.0}}
    steps = {
        "average_participating": (6 + 3) / 2,
        "average_all": (6 + 3) / 4,
        "known_probability": (6 / 0.25 + 3 / 0.5) / 4,
        "fedau": (1 * 6 + 2 * 3) / 4,  # client 1 for the first time, client 2 after an interval of 2
        "fedvarp": (6 - 0 + 3 - 1) / 2 + (8 + 1) / 4,
        "mifa": (8 + 6 + 3) / 4,
    }
    p_N = np.array([1, 0.25, 0.5, 0.125])
    for name, step in steps.items():
        calls = iter([updates[t][n] for t, came in enumerate(trace, 1) for n in came])
        models, _ = played(name, trace, lambda n, x, c=calls: [next(c)], clients=4, p_N=p_N, server_lr=2.0)  # type: ignore[misc]
        assert (models[3] - models[2]).item() == 2 * step, name


@pytest.mark.parametrize("name", AVERAGES)
def test_rounds_without_anybody(name: str) -> None:
    """The model stays as it is, but MIFA's memory goes on moving it; FedVARP's does not. Intervals go on."""
    models, server = played(name, [[], [0, 1], [], []], lambda n, x: [n + 1.0], clients=2)
    assert models[0] == models[1] == 0
    moved = models[2].item()
    assert moved > 0
    assert [m.item() for m in models[3:]] == ([2 * moved, 3 * moved] if name == "mifa" else [moved, moved])
    if name == "fedau":
        assert server.state()["S"].tolist() == [2, 2]


@pytest.mark.parametrize("name", AVERAGES)
def test_no_reply_of_those_who_were_asked(name: str) -> None:
    """Not the same as nobody: the round loop ends with FQ304."""
    kind = strategy(name)
    server = kind(Setup(Told([[0, 1]], 2), CODECS["float32"], CODECS["float32"], 0.1), kind.Options())
    list(server.configure_train(1, records.to_record({"x": np.zeros(3, np.float32)}), ConfigRecord(), grid(2)))
    assert server.aggregate_train(1, iter(())) == (None, None)


def test_a_rejected_reply_is_no_participation() -> None:
    kind = strategy("fedau")
    server = kind(Setup(Told([[0, 1]], 2), CODECS["float32"], CODECS["float32"], 0.1), kind.Options())
    messages = list(
        server.configure_train(1, records.to_record({"x": np.zeros(1, np.float32)}), ConfigRecord(), grid(2))
    )
    server.aggregate_train(1, iter([answer(server, messages[1], [1.0], 1)]))
    assert (server.state()["M"].tolist(), server.state()["S"].tolist()) == ([0, 1], [1, 0])


# ------------------------------------------------------------------------------------------------- whole runs


def run(rounds: int = 12, **more: Any) -> tuple[Simulation, list[Any]]:
    s = build(
        make_config(
            {"clients": 12, "client.local_steps": 2, "model.hidden": [8], "data.partition": "iid", **BERNOULLI, **more}
        )
    )
    return s, list(s.rounds(s.initial, 1, rounds))


def same(a: ArrayRecord, b: ArrayRecord) -> bool:
    return all(a[n].data == b[n].data for n in a)


@pytest.mark.parametrize("cutoff", [0, 3])
def test_clients_that_keep_their_own_intervals(cutoff: int) -> None:
    """Bit for bit the same models as with the intervals on the server, which then shows none."""
    settings: dict[str, Any] = {"strategy": "fedau", "strategy.cutoff": cutoff, "participation.mean": 0.2}
    _, at_server = run(**settings)
    s, at_clients = run(**settings, **{"strategy.state_at": "client"})
    assert all(same(a.arrays, b.arrays) for a, b in zip(at_server, at_clients, strict=True))
    assert set(at_server[-1].strategy) == {"weight_min", "weight_mean", "weight_max"}
    assert (at_clients[-1].strategy, s.strategy.state()) == ({}, {})


@pytest.mark.parametrize("name", ["fedau", "mifa", "fedavg", "fedvote", "fedadam", "terngrad"])
def test_runs_with_empty_rounds(name: str) -> None:
    """Lines of such rounds: nobody, no loss, no bytes, and the model as before but for MIFA's."""
    _, lines = run(strategy=name, **{"participation.mean": 0.1})
    empty = [r for r in lines if not r.clients]
    assert 2 <= len(empty) < 10
    assert all((r.train_loss, r.up_bytes, r.down_bytes, r.failed) == (None, 0, 0, 0) for r in empty)
    assert all(r.accuracy is not None and r.train_loss is not None for r in lines if r.clients)
    for before, now in pairwise(lines):
        if not now.clients and name != "mifa":
            assert same(before.arrays, now.arrays)


@pytest.mark.parametrize("name", AVERAGES)
def test_contract_with_clients_that_come_and_go(name: str) -> None:
    check_strategy(name, **BERNOULLI, **{"participation.mean": 0.7, "codec": "qsgd4"})


def test_contract_of_client_side_state() -> None:
    check_strategy("fedau", **BERNOULLI, **{"participation.mean": 0.7, "strategy.state_at": "client"})


def test_terngrad_workers_that_stay_away() -> None:
    """Levels of the last average, or weights: the same model, also after rounds without anybody."""
    settings: dict[str, Any] = {"strategy": "terngrad", "participation.mean": 0.15, "strategy.optimizer": "adam"}
    _, levels = run(25, **settings)
    _, weights = run(25, downlink="float32", **settings)
    assert [r.clients for r in levels].count(0) > 1
    assert all(same(a.arrays, b.arrays) for a, b in zip(levels, weights, strict=True))
    assert sum(r.down_bytes for r in levels) != sum(r.down_bytes for r in weights)
