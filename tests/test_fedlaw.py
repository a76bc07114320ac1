"""FedLAW: gradients, starts, steps and the simplex (docs/fedlaw.md), and where its proxy set comes from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.build import Simulation, build
from fedq.clients.proxy import ProxySet
from fedq.config import make_config
from fedq.data import Dataset, Examples
from fedq.data.proxy import hold_proxy
from fedq.errors import FedqError
from fedq.kernels import CODECS, records
from fedq.participation import Population
from fedq.participation.uniform import Uniform
from fedq.rng import rng
from fedq.strategies.base import Setup
from fedq.strategies.fedavg import FedAvg
from fedq.strategies.fedlaw import FedLaw, mixed
from fedq.strategies.laws import LAWS, Adam, Sgd
from fedq.strategies.proxy import batches

SMALL = {"clients": 5, "client.local_steps": 4, "model.hidden": [16], "data.partition": "dirichlet:0.3"}


def simulation(**more: Any) -> Simulation:
    return build(make_config({**SMALL, "strategy": "fedlaw", **more}))


def replies_to(s: Simulation) -> tuple[list[Message], ArrayRecord]:
    arrays = records.to_record(s.initial)
    messages = list(s.strategy.configure_train(1, arrays, ConfigRecord(), s.grid))
    return list(s.grid.send_and_receive(messages)), arrays


class Bowl:
    """A proxy set whose loss is |w - target|^2 / 2: everything about it is known."""

    size = 20

    def __init__(self, target: float) -> None:
        self.target = target

    def gradient(self, weights: Mapping[str, Any], examples: Any) -> tuple[float, Mapping[str, Any]]:
        g = {n: (w - self.target).astype(np.float32) for n, w in weights.items()}
        return float(sum((x**2).sum() for x in g.values()) / 2), g


def learner(k: int, target: float = 0.3, **options: Any) -> FedLaw:
    codec = CODECS["float32"]
    setup = Setup(Uniform(Population(0, k, k), None), codec, codec, 0.1, proxy=lambda: Bowl(target))
    server = FedLaw(setup, FedLaw.Options(**options))
    server.current = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    return server


def clients(k: int, seed: int = 0) -> Any:
    return rng(seed, "clients").standard_normal((k, 10), np.float32)


# ------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("form", LAWS)
@given(k=st.integers(1, 8), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_gradient_is_autograds(form: str, k: int, seed: int) -> None:
    """Through a loss of w, by the graph over all K models; and where the gradient must vanish, it does."""
    random = rng(seed, "law")
    w_KD, theta = random.standard_normal((k, 6)), random.uniform(0.2, 1.5, k + 1)
    law = LAWS[form].start(np.full(k, 1 / k)).at(theta)
    t = torch.tensor(theta, requires_grad=True)
    gamma = t[-1].exp() if form == "exp" else t[-1] ** 2
    lambda_K = t[:-1].softmax(0) if form == "exp" else t[:-1] ** 2 / (t[:-1] ** 2).sum()
    w = (gamma * lambda_K @ torch.tensor(w_KD)).requires_grad_()
    loss = (w.sin() + 0.5 * w**2).sum()
    (g,) = torch.autograd.grad(loss, w, retain_graph=True)
    loss.backward()
    assert t.grad is not None
    np.testing.assert_allclose((law.gamma, *law.lambda_K), (gamma.item(), *lambda_K.tolist()), rtol=1e-12)
    gradient = law.gradient(w_KD @ g.numpy())
    np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-9, atol=1e-12)
    across = gradient[:-1].sum() if form == "exp" else gradient[:-1] @ theta[:-1]  # along a shift, along a scaling
    assert abs(across) < 1e-9


def test_gradient_through_a_network_is_that_of_functional_call() -> None:
    """The cheap path (one backward, K + 1 inner products) against the graph over all models."""
    s = simulation()
    server = s.strategy
    assert isinstance(server, FedLaw)
    server.current = s.initial
    names, proxy = list(s.initial), server.setup.proxy()
    assert isinstance(proxy, ProxySet)
    models = [
        {n: x + 0.05 * rng(k, n).standard_normal(x.shape, np.float32) for n, x in s.initial.items()} for k in (1, 2, 3)
    ]
    w_KD = np.stack([np.concatenate([m[n].reshape(-1) for n in names]) for m in models])
    law = LAWS["exp"].start(np.array([0.5, 0.3, 0.2])).at(np.array([-0.7, -1.2, -1.6, -0.1]))
    batch = np.arange(64)
    _, g = proxy.gradient(server._named(mixed(w_KD, law)), batch)
    a_K = w_KD @ np.concatenate([g[n].reshape(-1) for n in names])

    theta = torch.tensor(law.theta, dtype=torch.float32, requires_grad=True)
    weights = theta[-1].exp() * theta[:-1].softmax(0)
    state = {n: sum(c * torch.tensor(m[n]) for c, m in zip(weights, models, strict=True)) for n in names}
    module = s.trainer._blueprint.module().train()
    logits = torch.func.functional_call(module, state, (proxy._x[batch],))
    torch.nn.functional.cross_entropy(logits, proxy._y[batch]).backward()
    assert theta.grad is not None
    np.testing.assert_allclose(law.gradient(a_K.astype(np.float64)), theta.grad.numpy(), rtol=1e-3, atol=1e-5)
    assert np.abs(theta.grad.numpy()).min() > 0  # no coordinate is cut off from the loss


# ------------------------------------------------------------------------------------------------- steps


def test_starts() -> None:
    share_K = np.array([0.5, 0.3, 0.2])
    law = LAWS["exp"].start(share_K)
    assert law.gamma == 1
    np.testing.assert_allclose(law.lambda_K, share_K, rtol=1e-15)
    law = LAWS["quad"].start(share_K)
    assert law.gamma == 1
    np.testing.assert_allclose(law.lambda_K, 1 / 3, rtol=1e-15)


@pytest.mark.parametrize("lr", [0.01, 0.005])
@pytest.mark.parametrize("form", LAWS)
def test_first_adam_step_is_the_learning_rate(form: str, lr: float) -> None:
    start = LAWS[form].start(np.full(4, 0.25))
    first = learner(4, server_lr=lr)._path(clients(4), start, 1, range(1), np.ones(5))[1]
    np.testing.assert_allclose(np.abs(first.theta - start.theta), lr, rtol=1e-5)


def test_optimizers_are_torchs() -> None:
    pairs = [
        (Adam(0.5, 0.999), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.999))),
        (Sgd(), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    ]
    for ours, theirs in pairs:
        x, p = np.ones(3), torch.ones(3, dtype=torch.float64, requires_grad=True)
        optimizer = theirs([p])
        for step in range(5):
            g = rng(step, "g").standard_normal(3)
            x, p.grad = x + ours.step(g, 0.01), torch.tensor(g)
            optimizer.step()
        np.testing.assert_allclose(x, p.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("k", [2, 5, 7])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_identical_clients_keep_their_weights(k: int, optimizer: str) -> None:
    w_KD = np.repeat(clients(1), k, 0)
    share_K = rng(k, "share").dirichlet(np.ones(k))
    law = learner(k, optimizer=optimizer)._learned(w_KD, LAWS["exp"].start(share_K), 1)
    np.testing.assert_allclose(law.lambda_K, share_K, rtol=1e-6)
    assert abs(np.log(law.gamma)) > 0.1


@pytest.mark.parametrize("variant", ["joint", "two_stage"])
@pytest.mark.parametrize("form", LAWS)
@given(k=st.integers(1, 6), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_weights_stay_on_the_simplex_and_within_reach(form: str, variant: str, k: int, seed: int) -> None:
    start = LAWS[form].start(np.full(k, 1 / k))
    law = learner(k, form=form, variant=variant)._learned(clients(k, seed), start, 1)
    assert law.gamma > 0
    assert (law.lambda_K >= 0).all()
    assert law.lambda_K.sum() == pytest.approx(1)
    assert np.abs(law.theta - start.theta).max() < 20 * 0.01 * 1.5  # 20 steps of about the learning rate at most


@pytest.mark.parametrize("epochs", [2, 3, 10, 12])
def test_two_stages(epochs: int) -> None:
    """Lambda moves first, with gamma at 1, however few the epochs; then gamma, with lambda at its mean."""
    start = LAWS["exp"].start(np.array([0.5, 0.25, 0.25]))
    server = learner(3, epochs=epochs, variant="two_stage")
    law = server._learned(clients(3), start, 1)
    path = server._path(clients(3), start, 1, range(epochs // 2), np.array([1.0, 1, 1, 0]))
    assert all(at.gamma == 1 for at in path)
    np.testing.assert_allclose(law.theta[:-1], np.mean([at.theta for at in path[len(path) // 2 :]], 0)[:-1])
    assert np.abs(law.theta - start.theta).min() > 1e-3


def test_learning_lowers_the_loss_and_finds_the_good_client() -> None:
    """One client at the optimum, one far off: the weight goes to the first."""
    w_KD = np.stack([np.full(10, 0.3, np.float32), np.full(10, -2, np.float32)])
    server = learner(2, server_lr=0.1, epochs=200)
    law = server._learned(w_KD, LAWS["exp"].start(np.array([0.2, 0.8])), 1)
    assert law.lambda_K[0] > 0.8
    loss, _ = Bowl(0.3).gradient({"w": mixed(w_KD, law)}, np.arange(1))
    before, _ = Bowl(0.3).gradient({"w": np.array([0.2, 0.8], np.float32) @ w_KD}, np.arange(1))
    assert loss < 0.1 * before


def test_divergence_is_said() -> None:
    with pytest.raises(FedqError, match="diverged") as error:
        learner(3, target=float("nan"))._learned(clients(3), LAWS["exp"].start(np.full(3, 1 / 3)), 1)
    assert error.value.code == "FQ304"


# ------------------------------------------------------------------------------------------------- rounds


@pytest.mark.parametrize("sends", ["updates", "weights"])
def test_without_steps_it_is_fedavg(sends: str) -> None:
    s = simulation(**{"strategy.epochs": 0, "strategy.sends": sends})
    replies, _ = replies_to(s)
    law, metrics = s.strategy.aggregate_train(1, replies)
    average = FedAvg(s.strategy.setup, FedAvg.Options(sends=sends))  # type: ignore[arg-type]
    average.current = s.strategy.current
    mean, expected = average.aggregate_train(1, replies)
    assert law is not None
    assert mean is not None
    for name, x in records.to_arrays(mean).items():
        np.testing.assert_allclose(records.to_arrays(law)[name], x, rtol=1e-5, atol=1e-6)
    assert dict(metrics or {}) == pytest.approx(dict(expected or {}))
    n_K = [len(s.trainer._shards.training(k)) for k in range(5)]
    shown = s.strategy.shown()
    assert shown["gamma"] == 1
    assert shown["lambda"] == pytest.approx({str(k): n / sum(n_K) for k, n in enumerate(n_K)})


def test_a_round_learns_and_shows_it() -> None:
    s = simulation(**{"strategy.proxy_per_class": 5})
    (record,) = s.rounds(s.initial, 1, 1)
    shown, n_K = record.metrics()["strategy"], [len(s.trainer._shards.training(k)) for k in range(5)]
    assert 0 < abs(np.log(shown["gamma"])) <= 0.3
    assert sum(shown["lambda"].values()) == pytest.approx(1)
    moved = [abs(np.log(shown["lambda"][str(k)] / (n / sum(n_K)))) for k, n in enumerate(n_K)]
    assert max(moved) > 0.02
    assert s.strategy.aggregate_train(2, ()) == (None, None)
    assert s.strategy.shown() == {}  # a round without anybody: as after a resume


# ------------------------------------------------------------------------------------------------- the proxy set


def numbered(n: int) -> Dataset:
    """Images that say which they are."""

    def part(first: int) -> Examples:
        x = np.arange(first, first + n, dtype=">u4").view(np.uint8).reshape(n, 1, 2, 2)
        return Examples(x, rng(first, "y").integers(0, 4, n))

    return Dataset("numbered", part(0), part(10_000), 4)


@pytest.mark.parametrize("source", ["heldout", "test"])
def test_the_proxy_set_is_balanced_and_taken_out(source: Any) -> None:
    data = numbered(200)
    left, proxy = hold_proxy(data, source, 7, seed=3)
    assert np.bincount(proxy.y).tolist() == [7, 7, 7, 7]
    ids = [{e.tobytes() for e in x} for x in (left.train.x, left.test.x, proxy.x)]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]
    assert len(ids[0] | ids[1] | ids[2]) == 400
    assert len(left.test) == (172 if source == "test" else 200)
    assert left.checksum == data.checksum
    again = hold_proxy(data, source, 7, seed=3)[1]
    assert (again.x == proxy.x).all()
    assert (hold_proxy(data, source, 7, seed=4)[1].x != proxy.x).any()


def test_a_proxy_set_that_is_too_large() -> None:
    with pytest.raises(FedqError, match=r"lower strategy\.proxy_per_class") as error:
        simulation(**{"strategy.proxy": "test", "strategy.proxy_per_class": 30, "data.holdout": 0.15})
    assert error.value.code == "FQ105"


def test_heldout_by_default_and_the_test_set_by_name_with_a_warning() -> None:
    plain, heldout, test = build(make_config(SMALL)), simulation(), simulation(**{"strategy.proxy": "test"})
    sizes = [(len(s.data.train), len(s.data.test)) for s in (plain, heldout, test)]
    assert sizes == [(1438, 359), (1338, 359), (1438, 259)]
    for s in (heldout, test):
        assert sum(len(s.trainer._shards.training(k)) for k in range(5)) == len(s.data.train)
    assert heldout.warnings == ()
    assert "learns on 100 test images" in test.warnings[0]


@given(size=st.integers(1, 300), batch=st.integers(2, 130))
def test_proxy_batches(size: int, batch: int) -> None:
    proxy = Bowl(0)
    proxy.size = size
    parts = list(batches(proxy, batch, 0, 1, 0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert all(len(p) > 1 for p in parts) or size == 1
    assert max(map(len, parts)) <= batch + 1
