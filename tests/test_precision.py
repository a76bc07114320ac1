"""Where and how precisely clients train: bf16 differs a little and learns as well; what cannot be is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from fedq.build import build
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.models import model
from fedq.models.network import Blueprint, Network
from fedq.models.stacked import Stacked

SMALL: dict[str, Any] = {"clients": 4, "rounds": 6, "client.local_steps": 10, "evaluate.every": 6, "engine": "local"}


def played(**more: str) -> list[Any]:
    simulation = build(make_config(SMALL, **more))
    return list(simulation.rounds(simulation.initial, 1, 6))


def test_defaults_change_no_hash() -> None:
    assert make_config(device="cpu", precision="fp32") == make_config()
    assert make_config(device="cpu", precision="fp32").hash == make_config().hash
    assert make_config(precision="bf16").hash != make_config().hash


def test_gradients_in_bf16() -> None:
    """Within bfloat16's 8 bits of those in float32, and not the same."""
    blueprints = [Blueprint("lenet5", model("lenet5").Options(), (1, 28, 28), 10, 0, bf16=b) for b in (False, True)]
    weights = blueprints[0].initial_weights()
    x = torch.randn(1, 16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    y = torch.arange(16)[None] % 10
    networks = [Network(b, weights, list(weights)) for b in blueprints]
    exact, found = (n.gradient(n.flatten(weights)[None], x, y)[1] for n in networks)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_a_run_in_bf16_learns_as_well() -> None:
    exact, found = (
        list((s := build(make_config(SMALL, precision=p))).rounds(s.initial, 1, 6)) for p in ("fp32", "bf16")
    )
    assert found[-1].accuracy == pytest.approx(exact[-1].accuracy, abs=0.05)
    assert {n: x.data for n, x in found[-1].arrays.items()} != {n: x.data for n, x in exact[-1].arrays.items()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu() -> None:
    with pytest.raises(FedqError, match="finds no CUDA GPU here") as error:
        build(make_config(SMALL, device="cuda"))
    assert (error.value.exit_code, error.value.where) == (4, "device = 'cuda'")


def test_refusals() -> None:
    with pytest.raises(FedqError, match="learns on the server's CPU"):
        build(make_config({**SMALL, "strategy": "fedlaw"}, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", [Network, Stacked])
def test_gradients_on_a_gpu(kind: Any) -> None:
    options = model("mlp").Options(hidden=(16,))
    here, there = (Blueprint("mlp", options, (1, 8, 8), 10, 0, device) for device in ("cpu", "cuda"))
    weights = here.initial_weights()
    x, y = torch.randn(1, 7, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(7)[None]
    one, two = (kind(b, weights, list(weights)) for b in (here, there))
    a, b = (n.unflatten(n.gradient(n.flatten(weights)[None], x, y)[1][0]) for n in (one, two))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_run_on_a_gpu() -> None:
    here, there = (played(device=d) for d in ("cpu", "cuda"))
    assert there[-1].accuracy == pytest.approx(here[-1].accuracy, abs=0.05)
