"""A million clients are a number: partitions on demand, nothing that grows with the population, states on disk."""

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.data.partition import label_shares
from fedq.data.population import Drawn, shares
from fedq.errors import FedqError
from fedq.grids.memory import Memory

LABELS = np.repeat(np.arange(5), [400, 300, 200, 80, 20])


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["iid", "dirichlet:0.3", "dirichlet:0.001", "fedau:0.3"]),
    st.integers(1, 2000),
    st.integers(0, 10**9 - 1),
)
def test_draws(spec: str, size: int, client: int) -> None:
    """A function of seed and client; no example twice in a client; never none, never more than asked."""
    drawn = Drawn(LABELS, spec, 10**9, size, 7)
    own = drawn[client]
    assert 0 < len(own) <= size
    assert len(set(own.tolist())) == len(own)
    assert 0 <= own.min() <= own.max() < len(LABELS)
    again = pickle.loads(pickle.dumps(drawn))
    assert (again[client] == own).all()
    if spec == "iid":
        assert len(own) == min(size, len(LABELS))


def test_other_seeds_and_clients_draw_otherwise() -> None:
    one, two = (Drawn(LABELS, "iid", 10**6, 50, seed) for seed in (0, 1))
    assert (one[5] != two[5]).any()
    assert (one[5] != one[6]).any()


def test_dirichlet_draws_as_the_partitioner_does() -> None:
    """Means and deviations of label shares over clients agree with those of the disjoint partition."""
    labels = np.repeat(np.arange(5), [4000, 3000, 2000, 800, 200])
    disjoint = label_shares(labels, shares(labels, "dirichlet:1.0", 60, 0))
    drawn = label_shares(labels, [Drawn(labels, "dirichlet:1.0", 10**6, 100, 0)[k] for k in range(300)])
    np.testing.assert_allclose(drawn.mean(0), disjoint.mean(0), atol=0.06)
    np.testing.assert_allclose(drawn.std(0), disjoint.std(0), atol=0.06)


def test_when_clients_draw() -> None:
    assert isinstance(shares(LABELS, "iid", 1001, 0), Drawn)
    assert isinstance(shares(LABELS, "iid", 10, 0, each=30), Drawn)
    assert sorted(np.concatenate(list(shares(LABELS, "iid", 10, 0)))) == list(range(1000))
    with pytest.raises(IndexError):
        shares(LABELS, "iid", 1001, 0)[1001]


def test_sharing_that_nobody_asked_for_is_told() -> None:
    def told(**more: Any) -> tuple[str, ...]:
        return build(make_config({"clients": 2000, "per_round": 2, **more})).warnings

    assert "2000 clients are more than the 1438 examples" in told()[0]
    assert told(**{"data.per_client": 50}) == told(clients=20) == ()


# --------------------------------------------------------------------------------------------- rounds

TINY: dict[str, Any] = {
    "per_round": 10, "rounds": 3, "client.local_steps": 2, "client.batch_size": 8, "model.hidden": [16],
    "evaluate.every": 3, "engine": "local", "workers": 1,
}  # fmt: skip


def played(s: Simulation, last: int = 3) -> list[Any]:
    return list(s.rounds(s.initial, 1, last))


MORE: list[dict[str, Any]] = [
    {},
    {"attack": "crowd:0.3"},
    {"attack": "label_flip:100"},
    {"error_feedback": True, "codec": "topk10", "strategy": "fedpaq"},
]


@pytest.mark.parametrize("more", MORE)
def test_a_million_clients(more: dict[str, Any]) -> None:
    config = make_config({**TINY, "clients": 10**6, **more})
    one, two = played(build(config)), played(build(config.with_(workers=2)))
    assert [r.clients for r in one] == [10, 10, 10]
    assert {n: x.data for n, x in one[-1].arrays.items()} == {n: x.data for n, x in two[-1].arrays.items()}


def test_a_round_takes_no_more_memory_where_there_are_more_clients() -> None:
    peaks = []
    for clients in (2_000, 10**9):
        s = build(make_config({**TINY, "clients": clients}))
        next(rounds := s.rounds(s.initial, 1, 2))
        tracemalloc.start()
        next(rounds)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2e6


@pytest.mark.parametrize("pattern", ["bernoulli", "markov", "cyclic"])
def test_patterns(pattern: str) -> None:
    """Rates of their own: where they follow labels, every client would have to be asked for its own."""
    few = {k: v for k, v in TINY.items() if k != "per_round"}
    coming = {"name": pattern, "mean": 0.002, "floor": 0.002}
    with pytest.raises(FedqError, match="clients draw theirs on demand") as error:
        build(make_config({**few, "clients": 5000}, participation=coming))
    assert "correlated=false" in error.value.hint
    (record,) = played(build(make_config({**few, "clients": 5000}, participation={**coming, "correlated": False})), 1)
    assert record.clients < 60
    with pytest.raises(FedqError, match="too many to ask"):
        build(make_config({**few, "clients": 10**8}, participation={**coming, "correlated": False}))


def test_attackers_that_cannot_be_listed() -> None:
    with pytest.raises(FedqError, match="too many to list"):
        build(make_config({**TINY, "clients": 10**9, "attack": "crowd:0.3"}))
    assert build(make_config({**TINY, "clients": 10**9, "attack": "crowd:30"})).config.top.clients == 10**9


# --------------------------------------------------------------------------------------------- memory


def state(*values: bytes) -> RecordDict:
    arrays = {f"a{i}": Array("uint8", (len(v),), "raw", v) for i, v in enumerate(values)}
    return RecordDict({"kept": ArrayRecord(arrays), "told": ConfigRecord({"n": len(values)})})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 40_000)), max_size=30), st.booleans())
def test_memory_is_a_dict_that_moves_to_disk(writes: list[tuple[int, int]], small: bool) -> None:
    memory, kept = Memory(20_000 if small else 2**30), {}
    for step, (node, size) in enumerate(writes):
        value = bytes([step]) * size
        memory.keep(node, state(value) if size else RecordDict())
        kept[node] = value
    kept = {node: value for node, value in kept.items() if value}
    for again in (memory, Memory.of_packed(memory.packed()), Memory.of_packed(memory.packed(), 1)):
        assert len(again) == len(kept)
        for node in range(1, 7):
            found = again.of(node)
            assert found.get("kept") == (state(kept[node])["kept"] if node in kept else None)


def test_what_clients_share_is_held_once() -> None:
    replica, memory = bytes(100_000), Memory(2**20)
    for node in range(200):
        memory.keep(node, state(replica, bytes([node])))
    assert memory._file is None
    assert len(Memory.of_packed(memory.packed())) == 200
    same = Memory()
    for node in range(200):
        same.keep(node, state(replica))
    assert len(same.packed()["bytes"]) < 2 * len(replica)


def test_states_that_change_stay_where_they_are() -> None:
    """Rounds of the same clients: the file does not grow, nor does memory."""
    memory = Memory(50_000)
    for round_ in range(30):
        for node in range(10):
            memory.keep(node, state(bytes([round_]) * 10_000))
    assert memory._bytes <= 50_000
    assert memory._end < 10 * 11_000
    assert memory.of(3)["kept"] == state(bytes([29]) * 10_000)["kept"]  # type: ignore[comparison-overlap]
