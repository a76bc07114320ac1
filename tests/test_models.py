"""Networks: sizes of the papers, the flat view, and initial weights."""

import numpy as np
import pytest
import torch

from fedq.clients.optimizers import Adam, Sgd
from fedq.models import MODELS, model
from fedq.models.network import Blueprint, Network


def blueprint(name: str, shape: tuple[int, ...] = (1, 28, 28), **options: object) -> Blueprint:
    return Blueprint(name, model(name).Options(**options), shape, 10, 0)


@pytest.mark.parametrize(
    ("name", "weights", "voted"),
    [
        ("lenet5", 61_706, 150 + 2_400 + 48_000 + 10_080),
        ("fedvote_lenet5", 1_657_632 + 5_130, 1_657_632),
        ("mlp", 784 * 128 + 128 * 64 + 650, 784 * 128 + 128 * 64),
    ],
)
def test_sizes(name: str, weights: int, voted: int) -> None:
    drawn = blueprint(name).initial_weights()
    assert sum(x.size for x in drawn.values()) == weights
    assert sum(drawn[n].size for n in blueprint(name).hidden()) == voted


def test_mlp_without_norm_has_biases() -> None:
    """64-32-10 has 2,410 weights."""
    drawn = blueprint("mlp", (1, 8, 8), hidden=(32,), norm="none").initial_weights()
    assert sum(x.size for x in drawn.values()) == 2_410


@pytest.mark.parametrize("name", MODELS)
def test_network_equals_the_module(name: str) -> None:
    """Loss and gradient through the flat vector equal torch's own; an evaluation leaves the weights alone."""
    plan = blueprint(name)
    drawn = plan.initial_weights()
    net = Network(plan, drawn, list(drawn))
    w = net.flatten(drawn)
    x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
    loss, g = net.gradient(w[None], x[None], y[None])
    module = plan.module()
    module.load_state_dict({n: torch.tensor(v) for n, v in drawn.items()})
    expected = torch.nn.functional.cross_entropy(module(x), y)
    expected.backward()
    torch.testing.assert_close(loss[0], expected.detach())
    torch.testing.assert_close(g[0], torch.cat([p.grad.reshape(-1) for p in module.parameters()]))  # type: ignore[union-attr]
    assert all((net.unflatten(w)[n] == v).all() for n, v in drawn.items())


def test_frozen_weights_get_no_gradient() -> None:
    plan = blueprint("fedvote_lenet5", (1, 8, 8))
    net = Network(plan, plan.initial_weights(), plan.hidden())
    assert sum(int(np.prod(s)) for s in net.shapes.values()) == 800 + 51_200 + 64 * 4 * 512
    _, g = net.gradient(
        net.flatten({n: plan.initial_weights()[n] for n in plan.hidden()})[None],
        torch.randn(1, 4, 1, 8, 8),
        torch.zeros(1, 4, dtype=torch.int64),
    )
    assert g.shape[1] == sum(int(np.prod(s)) for s in net.shapes.values())


def test_initial_weights_are_keyed_he_normal() -> None:
    drawn = blueprint("lenet5").initial_weights()
    assert all((drawn[n] == x).all() for n, x in blueprint("lenet5").initial_weights().items())
    for x in drawn.values():
        if x.ndim == 1:
            assert not x.any()
        else:
            assert abs(x.std() / np.sqrt(2 / np.prod(x.shape[1:])) - 1) < 0.15


def test_evaluation_joins_a_last_batch_of_one() -> None:
    """Batch norm needs two examples; 2 * 4 + 1 become 4 + 5."""
    plan = blueprint("mlp", (1, 8, 8))
    drawn = plan.initial_weights()
    net = Network(plan, drawn, list(drawn))
    loss, accuracy = net.evaluate(net.flatten(drawn), torch.randn(9, 1, 8, 8), torch.zeros(9, dtype=torch.int64), 4)
    assert np.isfinite(loss)
    assert 0 <= accuracy <= 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: Sgd(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (lambda: Sgd(0.1, 0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        (lambda: Adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05)),
    ],
)
def test_optimizers_equal_torch(ours, theirs) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    w = torch.randn(50)
    p = w.clone().requires_grad_()
    mine, other = ours(), theirs([p])
    for _ in range(20):
        g = torch.randn(50)
        mine.step_(w, g)
        p.grad = g.clone()
        other.step()
    torch.testing.assert_close(w, p.detach(), rtol=2e-5, atol=2e-6)
