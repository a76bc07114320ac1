"""Local training: epochs, decay, proximal and dynamic regularization, and the strategies that go with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flwr

from fedq.build import build
from fedq.clients import client
from fedq.clients.app import client_app
from fedq.clients.shards import shuffled
from fedq.clients.trainer import Beside, Trained
from fedq.config import RunConfig, load_config, make_config
from fedq.errors import FedqError
from fedq.grids import LocalGrid
from fedq.kernels import CODECS, records
from fedq.ledger import Ledger, MeteredGrid
from fedq.participation import Population
from fedq.participation.uniform import Uniform
from fedq.rng import key
from fedq.rounds import rounds
from fedq.strategies import strategy
from fedq.strategies.base import Setup
from fedq.testing import _Toy, _toy_batch

SMALL: dict[str, Any] = {
    "strategy": "fedavg", "clients": 4, "client.local_steps": 3, "model.hidden": [8], "data.partition": "dirichlet:0.5",
}  # fmt: skip


def trained(round_: int = 1, told: Mapping[str, Any] = {}, **more: Any) -> dict[str, Any]:
    s = build(make_config({**SMALL, **more}))
    return s.trainer.train(s.initial, round_, 1, told=told).arrays


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(np.array_equal(a[n], b[n]) for n in a)


# ------------------------------------------------------------------------------------------------- settings


def test_learning_rate_decays_by_round() -> None:
    assert same(trained(3, **{"client.lr": 0.2, "client.lr_decay": 0.5}), trained(3, **{"client.lr": 0.05}))
    assert same(trained(1, **{"client.lr_decay": 0.5}), trained(1))
    assert not same(trained(2, **{"client.lr_decay": 0.5}), trained(2))


def test_weight_decay_is_torchs() -> None:
    batches = [_toy_batch(step, 1) for step in range(6)]
    w_KD, o = torch.full((1, 12), 0.3), {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    made = client("sgd")(client("sgd").Options(**o))
    w, _ = made.train(_Toy(), w_KD, iter(batches))
    p = w_KD.clone().requires_grad_()
    theirs = torch.optim.SGD([p], **o)
    for x, y in batches:
        p.grad = _Toy().gradient(p.detach(), x, y)[1]
        theirs.step()
    torch.testing.assert_close(w, p.detach())


def test_epochs_are_by_each_clients_own_size() -> None:
    s = build(make_config({**SMALL, "client.local_steps": 20, "client.batch_size": 16}))
    epochs = build(s.config.with_(client__local_epochs=1.5))
    for k in range(4):
        n = len(s.trainer._shards.training(k))
        o = epochs.config.client.options
        steps = list(epochs.trainer._shards.batches([k], o, 1))
        assert len(steps) == o.steps(n) == -(-3 * n // 32)
        assert {len(y[0]) for _, y in steps} == {16}


@pytest.mark.parametrize("needed", [1, 16, 40, 61])
def test_batches_are_shuffled_epochs(needed: int) -> None:
    """Each epoch holds every example once; an order is a client's own, whoever trains with it; all are as likely."""
    sizes = [16, 7, 16, 1, 61]
    keys = [key(3, "batch", 2, k) for k in range(5)]
    together = shuffled(keys, sizes, needed)
    assert together.shape == (5, needed)
    for k, n in enumerate(sizes):
        assert (shuffled(keys[k : k + 1], [n], needed)[0] == together[k]).all()
        for epoch in range(0, needed - n + 1, n):
            assert sorted(together[k, epoch : epoch + n]) == list(range(n))
        assert len(set(together[k, :n].tolist())) == min(n, needed)
    many = shuffled([key(3, "batch", r, 0) for r in range(6000)], [5] * 6000, 5)
    counts = np.array([(many[:, i] == j).sum() for i in range(5) for j in range(5)])
    assert ((counts - 1200) ** 2 / 1200).sum() * 4 / 5 < 45.9  # chi-squared, 16 degrees of freedom: 1 in 10,000


def test_steps_or_epochs_but_not_both(tmp_path: Any) -> None:
    epochs = make_config({"client.local_epochs": 2})
    assert "local_steps" not in epochs.to_toml()
    (tmp_path / "run.toml").write_text(epochs.to_toml())
    assert load_config(tmp_path / "run.toml") == epochs
    assert load_config(tmp_path / "run.toml").hash == epochs.hash
    steps: RunConfig = epochs.with_(client__local_steps=7)
    assert (steps.client.options.local_steps, steps.client.options.local_epochs) == (7, None)
    assert steps.with_(client__local_epochs=2.0).hash == epochs.hash
    with pytest.raises(FedqError, match="both given") as error:
        make_config({"client.local_epochs": 2, "client.local_steps": 3})
    assert error.value.code == "FQ105"
    assert "client.local_steps = 3" in error.value.where
    assert "client.local_epochs = 2" in error.value.where


# ------------------------------------------------------------------------------------------------- FedProx


@pytest.mark.parametrize("more", [{}, {"client.momentum": 0.9}, {"client.optimizer": "adam"}])
def test_fedprox_without_its_term_is_sgd(more: dict[str, Any]) -> None:
    assert same(
        trained(**{"client.name": "fedprox", "client.mu": 0.0, **more}), trained(**{"client.name": "sgd", **more})
    )


def test_fedprox_takes_its_strength_from_the_server() -> None:
    prox = {"client.name": "fedprox"}
    assert same(trained(told={"proximal-mu": 3.0}, **prox), trained(**prox, **{"client.mu": 3.0}))
    assert same(trained(told={"proximal-mu": 3.0}, **prox, **{"client.mu": 1.0}), trained(**prox, **{"client.mu": 1.0}))
    s = build(make_config({**SMALL, "strategy": {"name": "fedprox", "proximal_mu": 3.0}}))
    (message, *_) = s.strategy.configure_train(1, records.to_record(s.initial), ConfigRecord(), s.grid)
    assert message.content.config_records["config"]["proximal-mu"] == 3.0
    assert s.config.client.name == "fedprox"


def test_a_larger_pull_stays_nearer() -> None:
    lengths = [
        sum(float((x**2).sum()) for x in trained(**{"client.name": "fedprox", "client.mu": mu}).values())
        for mu in (0.0, 1.0, 10.0)
    ]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("name", ["fedprox", "feddyn"])
def test_a_strategy_with_the_wrong_client_is_refused(name: str) -> None:
    with pytest.raises(FedqError, match=f"needs the client `{name}`") as error:
        build(make_config({**SMALL, "strategy": name, "client.name": "sgd"}))
    assert error.value.code == "FQ105"


# ------------------------------------------------------------------------------------------------- FedDyn

A_KD = torch.tensor([[1.0, 4.0], [3.0, 0.5], [0.2, 1.0]])  # curvatures and centres of three clients' bowls
C_KD = torch.tensor([[1.0, -2.0], [-1.0, 1.0], [3.0, 0.0]])
OPTIMUM = ((A_KD * C_KD).sum(0) / A_KD.sum(0)).numpy()


class Bowls:
    """A trainer of clients with losses sum_d a_kd (w_d - c_kd)^2 / 2."""

    def __init__(self, name: str, **options: Any) -> None:
        self._algorithm = client(name)(client(name).Options(**options))

    def ready(self, round_: int, k: int) -> None:
        """Nobody was trained ahead."""

    def train(self, weights: Mapping[str, Any], round_: int, k: int, told: Any, beside: Beside) -> Trained:
        class Bowl:
            def gradient(self, w_KD: Any, x: Any, y: Any) -> Any:
                error = w_KD - C_KD[k]
                return (A_KD[k] * error**2).sum(1) / 2, A_KD[k] * error

        start, batches = torch.tensor(weights["w"])[None], [(torch.zeros(()), torch.zeros(()))] * 100
        kept: dict[str, Any] = {}
        if hasattr(self._algorithm, "train_on"):
            was = torch.tensor(beside.memory["w"])[None] if beside.memory else torch.zeros_like(start)
            end, loss, memory_KD = self._algorithm.train_on(Bowl(), start, was, batches)
            kept = {"w": memory_KD[0].numpy()}
        else:
            end, loss = self._algorithm.train(Bowl(), start, batches)
        return Trained({"w": (end - start)[0].numpy()}, 10, float(loss[0]), kept)


def final(name: str, trainer: Bowls, played: int, per_round: int = 3) -> Any:
    codec = CODECS["float32"]
    server = strategy(name)(
        Setup(Uniform(Population(0, 3, per_round), None), codec, codec, 0.1), strategy(name).Options()
    )
    app = client_app(trainer, codec, 0)  # type: ignore[arg-type]
    start = records.to_record({"w": np.zeros(2, np.float32)})
    *_, last = rounds(server, MeteredGrid(LocalGrid(app, 3), Ledger()), start, first=1, last=played)
    return records.to_arrays(last.arrays)["w"]


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_feddyn_finds_the_optimum_where_fedavg_is_biased(alpha: float) -> None:
    dynamic = final("feddyn", Bowls("feddyn", lr=0.1, alpha=alpha), 150)
    np.testing.assert_allclose(dynamic, OPTIMUM, atol=1e-3)
    assert np.abs(final("fedavg", Bowls("sgd", lr=0.1), 30) - OPTIMUM).max() > 0.3


def test_feddyn_with_sampled_clients() -> None:
    dynamic = final("feddyn", Bowls("feddyn", lr=0.1, alpha=2.0), 600, per_round=2)
    np.testing.assert_allclose(dynamic, OPTIMUM, atol=1e-2)


def test_feddyns_server_is_the_papers() -> None:
    """With h as the paper has it: h <- h - alpha/m sum(w_k - w), w <- mean w_k - h / alpha."""
    alpha, m, h, w = 0.5, 3, np.zeros(2), np.zeros(2)
    s = build(make_config({**SMALL, "strategy": "feddyn", "clients": 3, "per_round": 2}))
    s.strategy.current = {"w": w.astype(np.float32)}
    for round_ in (1, 2, 3):
        w_KD = np.random.default_rng(round_).standard_normal((2, 2)).astype(np.float32)
        h = h - alpha / m * (w_KD - w).sum(0)
        expected = w_KD.mean(0) - h / alpha
        got, _ = s.strategy.aggregate_train(round_, [reply(u - s.strategy.current["w"]) for u in w_KD])
        assert got is not None
        s.strategy.current = records.to_arrays(got)
        w = expected
        np.testing.assert_allclose(s.strategy.current["w"], w, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- servers


def reply(x: Any, n: int = 5, loss: float = 1.0, *, plain: bool = False) -> Message:
    made = ArrayRecord({"w": Array(x)}) if plain else records.to_record({"w": np.asarray(x, np.float32)})
    metrics = MetricRecord({"num-examples": n, "train-loss": loss})
    return Message(RecordDict({"arrays": made, "metrics": metrics}), reply_to=Message(RecordDict(), 1, "train"))


@pytest.mark.parametrize("q", [0.0, 0.3, 2.0])
def test_qfedavg_is_flowers(q: float) -> None:
    s = build(make_config({**SMALL, "strategy": {"name": "qfedavg", "q": q}}))
    w, u_KD = np.array([0.5, -1.0], np.float32), np.array([[0.1, 0.2], [-0.3, 0.1], [0.0, 0.4]], np.float32)
    losses = (0.2, 1.5, 3.0)
    s.strategy.current = {"w": w}
    ours, _ = s.strategy.aggregate_train(1, [reply(u, loss=x) for u, x in zip(u_KD, losses, strict=True)])
    theirs = flwr.QFedAvg(client_learning_rate=0.05, q=q, train_loss_key="train-loss")
    theirs.current_arrays = ArrayRecord({"w": Array(w)})
    expected, _ = theirs.aggregate_train(
        1, [reply(w + u, loss=x, plain=True) for u, x in zip(u_KD, losses, strict=True)]
    )
    assert ours is not None
    assert expected is not None
    np.testing.assert_allclose(records.to_arrays(ours)["w"], expected["w"].numpy(), rtol=1e-5)


def test_signsgd_momentum_on_the_server() -> None:
    """Two rounds of +1 outweigh one of -1 where momentum is 0.9, and do not without."""
    for momentum, expected in ((0.0, [-1.0, -2.0, -1.0]), (0.9, [-1.0, -2.0, -3.0])):
        s = build(make_config({**SMALL, "strategy": {"name": "signsgd", "momentum": momentum}, "client.lr": 1.0}))
        s.strategy.current = {"w": np.zeros(8, np.float32)}
        seen = []
        for vote in (1.0, 1.0, -1.0):
            sent = reply(np.zeros(8))
            signs = np.full(8, vote, np.float32)
            sent.content["arrays"] = records.encode({"w": signs}, CODECS["sign"], 0, "up", 0)
            moved, _ = s.strategy.aggregate_train(1, [sent])
            assert moved is not None
            s.strategy.current = records.to_arrays(moved)
            seen.append(float(s.strategy.current["w"][0]))
        assert seen == expected


def test_signum_sends_its_momentum() -> None:
    made = client("signum")(client("signum").Options(momentum=0.75))
    w_KD, v = torch.zeros(1, 12), torch.zeros(1, 12)
    for step in range(3):
        batch = _toy_batch(step, 1)
        g = _Toy().gradient(w_KD, *batch)[1]
        sent, _, kept = made.train_on(_Toy(), w_KD, v, [batch])
        torch.testing.assert_close(sent, 0.75 * v + 0.25 * g)
        v = kept
