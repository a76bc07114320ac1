"""TernGrad: the codec's law, shared scales, integer levels down, and weights that every worker keeps."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedq import steps
from fedq._flower import with_content
from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.kernels import CODECS, records
from fedq.kernels.counts import Counts
from fedq.rng import key, rng
from tests.lies import liar

PAPER, CODE = CODECS["terngrad"], CODECS["terngrad_code"]
SETTINGS: dict[str, Any] = {
    "strategy": "terngrad", "clients": 4, "rounds": 6, "client.batch_size": 8, "model.hidden": [16],
    "data.partition": "iid", "evaluate.every": 6, "workers": 1,
}  # fmt: skip


def gradient(d: int = 200_000) -> np.ndarray:
    return rng(0, "gradient").standard_normal(d, np.float32)


def test_example_of_the_slides() -> None:
    """g = [.30, -1.20, .9]: s = 1.20 and the largest always fires (T1)."""
    g = np.array([0.30, -1.20, 0.9], np.float32)
    draws = np.stack([PAPER.decode(PAPER.encode(g, key=key(k, "t"))) for k in range(4000)])
    assert set(np.unique(draws)) == {np.float32(-1.2), 0.0, np.float32(1.2)}
    assert (draws[:, 1] == np.float32(-1.2)).all()
    np.testing.assert_allclose(draws.mean(0), g, atol=0.05)  # 4 standard errors of s / 2 / sqrt(4000)


def test_mean_and_variance_of_an_entry() -> None:
    """E = clipped g, variance |g| (s - |g|) (T2)."""
    g, s = np.full(400_000, 0.3, np.float32), np.array(1.0, np.float32)
    drawn = CODE.decode(CODE.encode(g, key=key(0, "v"), side=s))
    assert abs(drawn.mean() - 0.3) < 5 * np.sqrt(0.21 / g.size)
    assert abs(drawn.var() - 0.3 * 0.7) < 5 * np.sqrt(0.21 * 0.16 / g.size)  # the variance of a Bernoulli's variance


def test_gaussian_clipping() -> None:
    """Clipping at 2.5 sigma: 1.13 % shorter, turned by 2.76 degrees, and 68.2 % of the symbols are zero (T4)."""
    g = gradient(2_000_000)
    clipped = g.clip(-2.5 * g.std(), 2.5 * g.std())
    length, norm = np.linalg.norm(clipped.astype(np.float64)), np.linalg.norm(g.astype(np.float64))
    assert 1 - length / norm == pytest.approx(0.0113, abs=3e-4)
    assert np.degrees(np.arccos(clipped @ g / length / norm)) == pytest.approx(2.76, abs=0.03)
    assert (np.abs(g) > 2.5 * g.std()).mean() == pytest.approx(0.0124, abs=4e-4)
    for codec in (PAPER, CODE):
        drawn = codec.decode(codec.encode(g, key=key(0, codec.name)))
        assert (drawn == 0).mean() == pytest.approx(0.682, abs=2e-3)
        assert np.abs(drawn).max() == pytest.approx(2.5 * g.std(), rel=1e-4)


def test_paper_and_code_scales() -> None:
    """The code's 2.5 sigma exceeds max |g| where values are few; the paper's scale never does."""
    g = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    assert float(PAPER.side(g)) == 1.0  # type: ignore[arg-type]
    assert float(CODE.side(g)) == 2.5  # type: ignore[arg-type]


def test_shared_scale_clips_first_in_the_paper_only() -> None:
    """With a shared scale a worker's own clip at 2.5 sigma still holds in the paper, not in the code (pitfall 2)."""
    g, s = gradient(), np.array(10.0, np.float32)
    outlier = np.append(g, np.float32(10)).astype(np.float32)
    fired = {c.name: np.mean([c.decode(c.encode(outlier, key=key(k, "o"), side=s))[-1] for k in range(400)])
             for c in (PAPER, CODE)}  # fmt: skip
    assert fired["terngrad_code"] == 10
    assert fired["terngrad"] == pytest.approx(2.5, abs=1.1)


@pytest.mark.parametrize("name", ["terngrad", "terngrad_base3", "terngrad_code"])
def test_zeros_and_scalars(name: str) -> None:
    """No gradient sends zeros; one tensor a scalar is plain SGD."""
    codec = CODECS[name]
    assert (codec.decode(codec.encode(np.zeros(9, np.float32), key=key(0, "z"))) == 0).all()
    one = np.array([-0.37], np.float32)
    side = np.abs(one).reshape(())
    assert codec.decode(codec.encode(one, key=key(0, "s"), side=side))[0] == one[0]
    assert codec.decode(codec.encode(one, key=key(0, "s")))[0] == one[0]


@given(st.integers(1, 33), st.integers(0, 2**32), st.sampled_from([0, 1, 3, 8, 9, 320, 321]))
def test_sharing_gives_integer_levels(n: int, seed: int, d: int) -> None:
    """The average of N workers is an integer multiple of s / N with a shared scale, and travels losslessly (T6, T9)."""
    gs = [rng(seed, "w", k).standard_normal(d, np.float32) * (k + 1) for k in range(n)]
    s = np.asarray(np.max([PAPER.side(g) for g in gs]))  # type: ignore[arg-type]
    payloads = [PAPER.encode(g, key=key(seed, "k", k), side=s) for k, g in enumerate(gs)]
    mean = PAPER.aggregate(payloads, [1.0] * n) / np.float32(n)
    levels = mean * n / max(float(s), 1e-30)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    x = (np.rint(levels) / np.float32(n)).astype(np.float32)
    packed = Counts(2 * n).encode(x, key=key(0, "d"))
    assert (CODECS["counts"].decode(packed) == x).all()
    assert len(packed.data) == 8 + min(int(np.ceil(np.log2(2 * n + 1))) * -(-d // 8), 4 * d)


def test_without_sharing_levels_are_not_integers() -> None:
    gs = [rng(1, "w", k).standard_normal(64, np.float32) * (k + 1) for k in range(3)]
    payloads = [PAPER.encode(g, key=key(1, "k", k)) for k, g in enumerate(gs)]
    largest = max(float(PAPER.side(g)) for g in gs)  # type: ignore[arg-type]
    levels = PAPER.aggregate(payloads, [1.0] * 3) / largest
    assert np.abs(levels - np.rint(levels)).max() > 0.05


# ------------------------------------------------------------------------------------------------- the strategy


def played(simulation: Simulation) -> list[dict[str, Any]]:
    return [r.metrics() for r in simulation.rounds(simulation.initial, 1, simulation.config.top.rounds)]


def test_weights_kept_by_workers_are_the_servers_bits() -> None:
    """Averages down or weights down: the same model (T7), in an eighth of the bytes."""
    kept, sent = (build(make_config(**{**SETTINGS, "downlink": down})) for down in ("counts", "float32"))
    a = list(kept.rounds(kept.initial, 1, 6))
    b = list(sent.rounds(sent.initial, 1, 6))
    for x, y in zip(a, b, strict=True):
        assert {n: p.data for n, p in x.arrays.items()} == {n: p.data for n, p in y.arrays.items()}
    d = sum(x.size for x in kept.initial.values())
    assert b[1].down_bytes == 4 * (4 * d + 4 * len(kept.initial))  # weights, and the shared scales
    assert a[1].down_bytes < b[1].down_bytes / 7  # 4 bits a weight for 4 workers: levels -4 ... 4
    assert a[0].down_bytes >= b[0].down_bytes  # nobody holds anything yet


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_every_worker_holds_the_weights_of_the_round(optimizer: str) -> None:
    simulation = build(make_config(**{**SETTINGS, "strategy": {"name": "terngrad", "optimizer": optimizer}}))
    records_ = list(simulation.rounds(simulation.initial, 1, 4))
    memory = simulation.clients.memory
    before = {n: p.data for n, p in records_[-2].arrays.items()}  # what round 4 started from
    assert len(memory) == 4
    for node in simulation.clients.get_node_ids():
        assert {n: p.data for n, p in memory.of(node).array_records["replica"].items()} == before


@pytest.mark.parametrize("change", [{"strategy.share": False}, {"strategy.ema": 0.0}, {"codec": "terngrad_base3"}])
def test_options_run(change: dict[str, Any]) -> None:
    lines = played(build(make_config(**{**SETTINGS, **change})))
    assert lines[-1]["accuracy"] > 0
    assert (lines[-1]["deployed_accuracy"] is None) == ("strategy.ema" in change)


def test_one_worker_shares_with_nobody() -> None:
    """With one worker, sharing changes nothing."""
    shared, own = (build(make_config(**{**SETTINGS, "clients": 1, "strategy.share": s})) for s in (True, False))
    a, b = (records.to_arrays(list(s.rounds(s.initial, 1, 3))[-1].arrays) for s in (shared, own))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-7)


def test_it_learns() -> None:
    simulation = build(make_config(**{**SETTINGS, "rounds": 150, "evaluate.every": 150, "client.lr": 0.02}))
    last = played(simulation)[-1]
    assert last["accuracy"] > 0.9
    assert last["deployed_accuracy"] > 0.9  # the moving average, warmed up


def test_a_client_that_lies_about_its_scale() -> None:
    """It is rejected, counted, and the round goes on without it."""

    def negative(side: ArrayRecord) -> ArrayRecord:
        return ArrayRecord({n: Array("float32", (), a.stype, np.float32(-1).tobytes()) for n, a in side.items()})

    lines = played(liar(build(make_config(**{**SETTINGS, "tolerate": 0.5})), "side", negative))
    assert [line["rejected"] for line in lines] == [1] * 6
    assert [line["clients"] for line in lines] == [3] * 6


def test_a_client_that_sends_another_scale() -> None:
    """One that is not the shared one is no level of the average."""

    def forged(arrays: ArrayRecord) -> ArrayRecord:
        head = np.float32(2.0**60).tobytes()
        return ArrayRecord({n: Array(a.dtype, a.shape, a.stype, head + a.data[4:]) for n, a in arrays.items()})

    lines = played(liar(build(make_config(**{**SETTINGS, "tolerate": 0.5})), "arrays", forged))
    assert [(line["clients"], line["rejected"]) for line in lines] == [(3, 1)] * 6


def test_a_codec_that_cannot() -> None:
    with pytest.raises(FedqError, match="cannot send by `binary`"):
        build(make_config(**{**SETTINGS, "codec": "binary"}))


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_steps_are_torchs(rule: steps.Rule) -> None:
    import torch

    w = torch.nn.Parameter(torch.from_numpy(rng(0, "w").standard_normal(50, np.float32)))
    theirs = torch.optim.Adam([w], 0.01) if rule == "adam" else torch.optim.SGD([w], 0.01, 0.9 * (rule == "momentum"))
    mine: Any = {"w": w.detach().numpy().copy()}
    slots: Any = {}
    for t in range(1, 30):
        g = rng(0, "g", t).standard_normal(50, np.float32)
        w.grad = torch.from_numpy(g.copy())
        theirs.step()
        mine, slots = steps.step(rule, mine, {"w": g}, slots, lr=0.01, t=t)
    np.testing.assert_allclose(mine["w"], w.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_more_rounds_after_all(tmp_path: Any) -> None:
    """Workers take the server's last step at the rate it was taken with, whatever the schedule becomes."""
    from fedq.simulation import begin, play, reopen

    ends = []
    for down in ("counts", "float32"):
        settings = {**SETTINGS, "downlink": down, "strategy.power": 0.5, "strategy.optimizer": "sgd"}
        run, simulation = begin(make_config(**settings), tmp_path / down)
        list(play(run, simulation))
        run, simulation = reopen(run.path, rounds=12)
        ends.append({n: a.data for n, a in list(play(run, simulation))[-1].arrays.items()})
    assert ends[0] == ends[1]


def test_a_layer_without_any_gradient(recwarn: pytest.WarningsRecorder) -> None:
    """A dead layer's scale is 0 on every worker: nothing moves, and nothing is NaN."""
    settings = {**SETTINGS, "clients": 8, "model.hidden": [1], "model.norm": "none", "client.lr": 3.0}
    assert all(np.isfinite(line["loss"]) for line in played(build(make_config(**settings))) if line["loss"])
    assert not [w for w in recwarn if "invalid" in str(w.message)]


@pytest.mark.parametrize("stype", ["fedq." + "scaled_" * 3000 + "binary", "fedq.ternary_entropy"])
def test_a_strange_scale_is_refused(stype: str) -> None:
    simulation = build(make_config(**SETTINGS))
    server, grid = simulation.strategy, simulation.grid
    asked = list(server.configure_query(1, records.to_record(simulation.initial), ConfigRecord(), grid))
    reply = next(iter(grid.send_and_receive(asked)))
    for shape in ((), (2**50,)):
        side = {n: Array("float32", shape, stype, b"\x03" * 10) for n in simulation.initial}
        with pytest.raises(FedqError) as error:
            server.check_query(with_content(reply, RecordDict({"side": ArrayRecord(side)})))
        assert error.value.code == "FQ302"


def test_more_workers_than_counts_can_tell() -> None:
    server = build(make_config(**{**SETTINGS, "strategy.ema": 0.0})).strategy
    server.restore({"slots": {}, "ema": {}, "stepped": 1, "rate": 0.1, "holders": list(range(3000)),
                    "levels": {"w": np.zeros(4, np.float32)}, "scales": {"w": np.array(1, np.float32)}})  # fmt: skip
    assert len(server._packed_average()["levels"]["w"].data) > 0  # type: ignore[attr-defined]
