"""K clients together are each alone, bit for bit, and whatever the workers."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from fedq.build import Simulation, build
from fedq.clients.app import train_ahead
from fedq.config import make_config
from fedq.kernels import _reference_steps, active, records
from fedq.models import MODELS, mlp, model
from fedq.models.chains import stackable
from fedq.models.network import Blueprint, Network
from fedq.models.stacked import Stacked

SETTINGS: dict[str, Any] = {
    "clients": 20, "rounds": 3, "client.local_steps": 4, "model.hidden": [16], "evaluate.every": 3, "workers": 1,
    "codec": "float32",
}  # fmt: skip


class Affine(torch.nn.Sequential):
    """Every kind of layer that can be stacked, in every form."""

    class Options(mlp.Mlp.Options):
        pass

    def __init__(self, shape: tuple[int, ...], classes: int, options: Any) -> None:
        act, linear, norm = torch.nn.ReLU(), torch.nn.Linear, partial(torch.nn.BatchNorm1d, track_running_stats=False)
        first = (torch.nn.Flatten(), act, norm(64), linear(64, 24, bias=False), norm(24), act)
        super().__init__(*first, linear(24, 9), norm(9, affine=False), act, linear(9, classes))


@pytest.mark.parametrize("norm", ["batch", "none", "affine"])
@pytest.mark.parametrize("trained", ["all", "hidden", "biases"])
@pytest.mark.parametrize("way", ["gradient", "_differentiated"])
def test_stacked_gradients(norm: str, trained: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel, and by the products that other devices take, which this one has too."""
    monkeypatch.setitem(MODELS, "affine", Affine)
    name = "mlp" if norm != "affine" else norm
    options = model(name).Options(hidden=(24, 16), norm=norm if name == "mlp" else "none")
    blueprint = Blueprint(name, options, (1, 8, 8), 10, 0)
    weights = blueprint.initial_weights()
    some = {"all": list(weights), "hidden": blueprint.hidden(), "biases": [n for n in weights if n.endswith("bias")]}
    names = some[trained]
    alone, together = Network(blueprint, weights, names), Stacked(blueprint, weights, names)
    random = torch.Generator().manual_seed(0)
    w = alone.flatten(weights).repeat(5, 1)
    w += 0.1 * torch.randn(w.shape, generator=random)
    x, y = torch.randn(5, 7, 1, 8, 8, generator=random), torch.randint(0, 10, (5, 7), generator=random)
    losses, g = getattr(together, way)(w, x, y)
    for k in range(5):
        loss, one = alone.gradient(w[k : k + 1], x[k : k + 1], y[k : k + 1])
        torch.testing.assert_close(losses[k], loss[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(g[k], one[0], rtol=1e-4, atol=1e-6)


def known(name: str, shape: tuple[int, ...], device: str = "cpu") -> bool:
    return stackable(Blueprint(name, model(name).Options(), shape, 10, 0).module(), shape, device)


def test_what_can_be_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions where kernels are native, and faster."""
    monkeypatch.setattr(active, "isa", lambda: "avx2")
    assert known("mlp", (1, 8, 8))
    assert known("mlp", (1, 8, 8), "cuda")
    planes = torch.nn.BatchNorm2d(1, track_running_stats=False), torch.nn.Flatten(), torch.nn.Linear(64, 2)
    assert stackable(torch.nn.Sequential(*planes), (1, 8, 8))
    assert not stackable(torch.nn.Sequential(*planes), (1, 8, 8), "cuda")
    assert known("lenet5", (1, 28, 28))
    assert not known("lenet5", (1, 28, 28), "cuda")
    assert not known("vgg7", (3, 32, 32))  # too wide
    assert not known("resnet20", (3, 32, 32))
    monkeypatch.setattr(active, "isa", lambda: "numpy")
    assert known("mlp", (1, 8, 8))
    assert not known("lenet5", (1, 28, 28))


@pytest.mark.parametrize(
    "name", ["lenet5", "fedvote_lenet5", "terngrad_lenet", "fedau_cnn_fmnist", "fedlaw_cnn", "fedlaw_lenet5"]
)
def test_convolutions_have_torchs_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where two of a pool's four values, or a value and zero, are as near to each other as rounding."""
    monkeypatch.setattr(active, "isa", lambda: "avx2")
    shape = (3, 20, 18) if name == "fedlaw_cnn" else (2, 14, 12)
    assert known(name, shape)
    blueprint = Blueprint(name, model(name).Options(), shape, 10, 0)
    weights = blueprint.initial_weights()
    alone, together = (kind(blueprint, weights, list(weights)) for kind in (Network, Stacked))
    random = torch.Generator().manual_seed(0)
    w = alone.flatten(weights)[None] + 0.01 * torch.randn(2, sum(x.size for x in weights.values()), generator=random)
    x, y = torch.rand(2, 5, *shape, generator=random), torch.randint(0, 10, (2, 5), generator=random)
    losses, g = together.gradient(w, x, y)
    for k in range(2):
        loss, one = alone.gradient(w[k : k + 1], x[k : k + 1], y[k : k + 1])
        torch.testing.assert_close(losses[k], loss[0], rtol=1e-5, atol=1e-6)
        assert (g[k] - one[0]).norm() < 0.02 * one.norm()
        assert (g[k] - one[0]).abs().median() < 1e-5 * one.abs().max()


def test_only_plain_chains_are_stacked() -> None:
    """Layers that stand twice count twice; subclasses and hooks might do anything."""

    class Odd(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    act = torch.nn.ReLU()
    assert stackable(torch.nn.Sequential(torch.nn.Linear(2, 2), act, torch.nn.Linear(2, 2), act), (2,))
    assert not stackable(torch.nn.Sequential(Odd(2, 2)), (2,))
    convolution, pool = partial(torch.nn.Conv2d, 1, 2), torch.nn.MaxPool2d(2)
    for odd in (convolution(3, stride=2), convolution(3, dilation=2), convolution((3, 2)), convolution(3, padding=3),
                convolution(3, padding="same"), convolution(3, padding=1, padding_mode="reflect"),
                torch.nn.MaxPool2d(2, 1), torch.nn.MaxPool2d(2, ceil_mode=True), torch.nn.MaxPool2d(2, padding=1),
                torch.nn.BatchNorm2d(1), torch.nn.Conv2d(2, 2, 1), torch.nn.AvgPool2d(2)):  # fmt: skip
        assert not stackable(torch.nn.Sequential(odd, pool, torch.nn.Flatten(), torch.nn.LazyLinear(2)), (1, 9, 9))
    assert not stackable(torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(1, 2)), (1, 1, 1))  # too small
    assert not stackable(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()), (1, 3, 3))  # no dense layer
    norm = torch.nn.BatchNorm1d(2, track_running_stats=False)
    assert not stackable(torch.nn.Sequential(norm), (2,))
    assert stackable(torch.nn.Sequential(norm, torch.nn.Linear(2, 2)), (2,))
    norm.bias = None  # type: ignore[assignment]
    assert not stackable(torch.nn.Sequential(norm, torch.nn.Linear(2, 2)), (2,))
    more = torch.nn.Sequential(torch.nn.Linear(2, 2))
    more.scale = torch.nn.Parameter(torch.ones(1))
    assert not stackable(more, (2,))
    hooked = torch.nn.Sequential(torch.nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    assert not stackable(hooked, (2,))
    linear, flatten = torch.nn.Linear, torch.nn.Flatten
    same = linear(2, 2)
    assert not stackable(torch.nn.Sequential(same, act, same), (2,))
    assert not stackable(torch.nn.Sequential(linear(8, 4), flatten(), linear(32, 4)), (8, 8))  # of each row of an image
    assert not stackable(torch.nn.Sequential(linear(8, 4), flatten(), linear(4, 4)), (1, 8))
    assert not stackable(torch.nn.Sequential(flatten(), act), (4,))


def test_a_layer_that_stands_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(torch.nn.Sequential):
        class Options(mlp.Mlp.Options):
            pass

        def __init__(self, shape: tuple[int, ...], classes: int, options: Any) -> None:
            act, linear = torch.nn.ReLU(), torch.nn.Linear
            super().__init__(torch.nn.Flatten(), linear(64, 8), act, linear(8, 8), act, linear(8, classes))

    monkeypatch.setitem(MODELS, "twice", Twice)
    blueprint = Blueprint("twice", Twice.Options(), (1, 8, 8), 10, 0)
    weights = blueprint.initial_weights()
    one, many = Network(blueprint, weights, list(weights)), Stacked(blueprint, weights, list(weights))
    w, x = one.flatten(weights).repeat(3, 1), torch.randn(3, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(3, 4, dtype=torch.int64)
    torch.testing.assert_close(many.gradient(w, x, y)[0][1], one.gradient(w[1:2], x[1:2], y[1:2])[0][0])


def final(simulation: Simulation) -> dict[str, np.ndarray]:
    record = list(simulation.rounds(simulation.initial, 1, 3))[-1]
    return {n: x.copy() for n, x in records.to_arrays(record.arrays).items()}


def alone(config: Any) -> Simulation:
    simulation = build(config)
    simulation.clients.cohort = 1
    return simulation


@pytest.mark.parametrize("client", ["sgd", "fedprox", "latent"])
def test_a_round_of_cohorts(client: str) -> None:
    """The bits of the clients one by one, after three rounds; with augmentation too."""
    strategy = "fedvote" if client == "latent" else "fedavg"
    for more in ({}, {"data.augment": "crop", "per_round": 9}):
        config = make_config(**SETTINGS, **more, strategy=strategy, client={"name": client, "optimizer": "sgd"})
        together, each = final(build(config)), final(alone(config))
        assert together.keys() == each.keys()
        for name in together:
            np.testing.assert_array_equal(together[name], each[name])


def test_one_gradient_a_client() -> None:
    config = make_config(**SETTINGS, strategy="fedavg", client={"name": "sgd", "local_steps": 1})
    together, each = final(build(config)), final(alone(config))
    for name in together:
        np.testing.assert_array_equal(together[name], each[name])


def test_cohorts_do_not_depend_on_workers() -> None:
    config = make_config(**SETTINGS, strategy="fedvote", client="latent")
    one, three = final(build(config)), final(build(config.with_(workers=3, engine="local")))
    assert all((one[n] == three[n]).all() for n in one)


@pytest.mark.parametrize("codec", ["float32", "binary", "ternary_base3", "qsgd4", "topk10"])
def test_packing_together_changes_no_bit(codec: str) -> None:
    config = make_config({**SETTINGS, "codec": codec}, strategy="fedavg", client="sgd")
    together, each = build(config), build(config)
    crew = each.clients._crew
    each.clients._crew = replace(crew, ahead=train_ahead(each.trainer, None, config.top.seed))
    one, other = final(together), final(each)
    assert all((one[n] == other[n]).all() for n in one)


def test_a_run_has_the_bits_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever core trains."""
    for more in ({}, {"model.name": "fedlaw_lenet5", "clients": 3, "model.hidden": None}):
        settings = {k: v for k, v in {**SETTINGS, **more}.items() if v is not None}
        config = make_config(**{**settings, "codec": "binary"}, strategy="fedvote", client="latent")
        one = final(build(config))
        with monkeypatch.context() as patch:
            patch.setattr(active, "chain_descent_", _reference_steps.chain_descent_, raising=False)
            other = final(build(config))
        assert all((one[n] == other[n]).all() for n in one)


def test_clients_of_unequal_steps_train_alone() -> None:
    """Epochs of unequal shards: the same bits as one by one."""
    few = {k: v for k, v in SETTINGS.items() if k != "client.local_steps"}
    config = make_config(**{**few, "clients": 6}, strategy="fedavg", client={"name": "sgd", "local_epochs": 1.0})
    together, each = final(build(config)), final(alone(config))
    assert all((together[n] == each[n]).all() for n in together)


def test_a_client_that_diverges_in_a_cohort_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that client's; the others' replies are used."""
    config = make_config(**SETTINGS, strategy="fedavg", tolerate=0.5)
    simulation = build(config)
    descend_ = active.chain_descent_

    def poisoned(chain: Any, w_KD: Any, *given: Any, **more: Any) -> Any:
        if len(w_KD) > 1:
            w_KD[2] = np.nan
        return descend_(chain, w_KD, *given, **more)

    monkeypatch.setattr(active, "chain_descent_", poisoned, raising=False)
    record = next(iter(simulation.rounds(simulation.initial, 1, 1)))
    assert (record.clients, record.failed) == (19, 1)
