"""DIFF2: telescoping sums, noise that shrinks with the steps, and the paper's formulas beside ours."""

from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from fedq.build import Simulation, build
from fedq.clients.diff2 import Diff2
from fedq.clients.private import Own
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.models import model
from fedq.models.network import Blueprint, Network
from fedq.privacy.accountant import gaussian
from fedq.privacy.diff2 import multipliers, paper
from fedq.privacy.ledger import Ledger


def simulation(**settings: Any) -> Simulation:
    small = {"strategy": "diff2", "clients": 4, "rounds": 6, "model.hidden": [8], "data.partition": "dirichlet:1.0"}
    return build(make_config({**small, **settings}))


def gradient(s: Simulation, weights: Any) -> np.ndarray[Any, Any]:
    """The full gradient over all training examples."""
    net = Network(s.trainer._blueprint, s.drawn, list(weights))
    x, y = s.trainer._shards.inputs.tensors(s.data.train)
    return net.gradient(net.flatten(weights)[None], x[None], y[None])[1][0].numpy()  # type: ignore[no-any-return]


def test_without_noise_and_clipping_it_is_gradient_descent() -> None:
    """v is the exact gradient in every round, whether taken whole or as a sum of changes."""
    s = simulation(**{"client.noise": 0.0, "client.clip": 1e9, "client.clip_change": 1e9, "strategy.every": 4})
    before = s.initial
    for record in s.rounds(s.initial, 1, 6):
        v = np.concatenate([x.ravel() for x in s.strategy.state()["v"].values()])
        np.testing.assert_allclose(v, gradient(s, before), atol=1e-5)
        before = records.to_arrays(record.arrays)


def test_every_1_is_private_gradient_descent_bit_for_bit() -> None:
    """Each round is a restart: the same model as when nothing is ever remembered."""
    seeded = {"client.noise": 1.0, "client.noise_seed": 2, "strategy.every": 1}
    s, forgetful = simulation(**seeded), simulation(**seeded)
    arrays = s.initial
    for record in s.rounds(s.initial, 1, 3):
        (alone,) = forgetful.rounds(arrays, record.round, record.round)
        forgetful = simulation(**seeded)
        arrays = records.to_arrays(record.arrays)
        assert all(np.array_equal(x, arrays[n]) for n, x in records.to_arrays(alone.arrays).items())


def released(distance: float) -> torch.Tensor:
    blueprint = Blueprint("mlp", model("mlp").Options(hidden=(64,), norm="none"), (1, 8, 8), 10, 0)
    drawn = blueprint.initial_weights()
    net = Network(blueprint, drawn, list(drawn))
    w = net.flatten(drawn)
    own = Own(
        50,
        lambda i: (torch.zeros(len(i), 1, 8, 8), torch.zeros(len(i), dtype=torch.int64)),
        (2, 0),
        {"rounds": 10, "every": 5},
        w + distance / sqrt(len(w)),
    )
    options = Diff2.Options(noise=3.0, clip_change=1e-6, batch_size=50)
    return Diff2(options).release(net, w, own, Ledger())[0]


def test_noise_shrinks_with_the_step() -> None:
    """Its deviation is sigma C2 |x_r - x_{r-1}| / n: the clip is so small that noise is all there is."""
    for distance in (1.0, 0.01):
        assert float(released(distance).std()) == pytest.approx(3.0 * 1e-6 * distance / 50, rel=0.05)


def test_the_papers_formulas() -> None:
    """R 2000, P 10, n 1000, eps 3, delta 1e-5: alpha = 1 + ceil(2 ln(1e5) / 3) = 9."""
    R, P, n, eps, T = 2000, 10, 1000, 3.0, 60
    alpha = 9
    assert alpha == 1 + np.ceil(2 * log(1e5) / 3)
    s1, s2 = paper(eps, 1e-5, R, T, n, P)
    assert s1**2 == pytest.approx(4 * 1.25 * alpha * R / (T * n**2 * P**2 * eps))
    assert s2**2 == pytest.approx(4 * 1.25 / 0.25 * alpha * R / (n**2 * P**2 * eps))
    assert paper(eps, 1e-5, R, 1, n, P)[0] ** 2 == pytest.approx(4 * alpha * R / (n**2 * P**2 * eps))


def test_our_noise_costs_what_is_wanted_and_is_less_than_the_papers() -> None:
    """Sensitivity 2 C / (n P) of the paper's mean: its deviations are s n P / 2 of ours."""
    restart, change = multipliers(3.0, 1e-5, 2000, 50)
    assert gaussian((40 / restart**2 + 1960 / change**2) ** -0.5, 1, 1e-5) == pytest.approx(3.0, rel=1e-4)
    s1, s2 = paper(3.0, 1e-5, 2000, 50, 1000, 10)
    assert restart < 0.9 * s1 * 1000 * 10 / 2
    assert change < 0.9 * s2 * 1000 * 10 / 2


def test_a_run_keeps_its_promise() -> None:
    s = simulation(**{"client.epsilon": 6.0, "client.lr": 0.2, "strategy.every": 3})
    lines = [r.metrics() for r in s.rounds(s.initial, 1, 6)]
    grown = [m["epsilon"] for m in lines]
    assert grown == sorted(grown)
    assert grown[-1] == pytest.approx(6.0, rel=1e-3)
    assert grown[-1] <= 6.0 * (1 + 1e-9)


def test_a_missing_client_makes_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    """The model waits in that round, and the next message brings no weights to compare with."""
    s = simulation(**{"client.noise": 0.0})
    from flwr.app import ConfigRecord

    server, grid, arrays = s.strategy, s.grid, records.to_record(s.initial)
    asked = list(server.configure_train(1, arrays, ConfigRecord(), grid))
    assert "previous" not in asked[0].content
    first, _ = server.aggregate_train(1, iter(list(grid.send_and_receive(asked))))
    assert first is not None
    asked = list(server.configure_train(2, first, ConfigRecord(), grid))
    assert "previous" in asked[0].content
    second, _ = server.aggregate_train(2, iter(list(grid.send_and_receive(asked))[:3]))
    assert second is not None
    assert "round 3 is a restart that the noise was not chosen for" in caplog.text
    assert {n: a.data for n, a in second.items()} == {n: a.data for n, a in first.items()}
    assert "previous" not in next(iter(server.configure_train(3, second, ConfigRecord(), grid))).content


def test_not_all_clients_is_refused() -> None:
    with pytest.raises(FedqError, match="every client must take part"):
        simulation(per_round=2)


def test_a_lossy_downlink_is_refused() -> None:
    """Clients would take the gradient elsewhere than the server's last weights are."""
    with pytest.raises(FedqError, match="`float16` alters them") as error:
        simulation(downlink="float16")
    assert error.value.code == "FQ105"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"client.epsilon": 1e-7}, "no noise gives epsilon 1e-07"),
        ({"client.epsilon": 1.0, "client.noise": 1.0}, "noise 1 costs epsilon .* in 6 steps, and 1 may be spent"),
        ({"client.delta": 0.1}, "delta 0.1 is not below 1/"),
    ],
)
def test_promises_that_cannot_be_kept_are_refused_before_a_round(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FedqError, match=says) as error:
        simulation(**change)
    assert error.value.code == "FQ105"


@pytest.mark.parametrize("key", ["sampling", "lr_decay", "local_epochs"])
def test_options_without_a_meaning_are_unknown(key: str) -> None:
    with pytest.raises(FedqError, match=key):
        simulation(**{f"client.{key}": "shuffle" if key == "sampling" else 0.5})


def test_the_promise_says_that_nothing_is_sampled() -> None:
    said = simulation().promise
    assert "every record is in every release" in said
    assert "Poisson" not in said


def test_the_plan_counts_both_models_that_go_down() -> None:
    """What is announced is at least what is sent, and not twice as much."""
    from fedq.report.screen import plan

    s = simulation()
    (said,) = (line for line in plan(s).splitlines() if line.startswith("  total"))
    down = sum(r.down_bytes for r in s.rounds(s.initial, 1, 6))
    announced = 2 * 4 * 6 * sum(x.nbytes for x in s.initial.values())
    assert "at most " in said
    assert f"{announced / 1e3:.1f} kB down" in said
    assert announced / 2 < down <= announced
