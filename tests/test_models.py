"""Networks: sizes of the papers, the flat view, and initial weights."""

import numpy as np
import pytest
import torch

from fedq.clients.optimizers import Adam, Sgd, Through, _times_slope, tanh_half
from fedq.errors import FedqError
from fedq.models import MODELS, model
from fedq.models.dropout import Dropout, rekey_
from fedq.models.network import Blueprint, Network

IMAGES = [n for n in MODELS if not n.endswith("_lora")]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def blueprint(name: str, shape: tuple[int, ...] = GREY, classes: int = 10, **options: object) -> Blueprint:
    return Blueprint(name, model(name).Options(**options), shape, classes, 0)


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


@pytest.mark.parametrize(
    ("name", "shape", "classes", "weights"),
    [
        ("vgg7", COLOUR, 10, 12_963_200 + 10_250),
        ("terngrad_lenet", GREY, 10, 1_256_080),
        ("terngrad_cifarnet", (3, 24, 24), 10, 1_068_298),
        ("fedau_cnn_svhn", COLOUR, 10, 273_706),
        ("fedau_cnn_cifar10", COLOUR, 10, 551_786),
        ("fedau_cnn_cifar100", COLOUR, 100, 1_216_260),
        ("fedau_cnn_cinic10", COLOUR, 10, 1_193_130),
        ("fedau_cnn_fmnist", GREY, 10, 211_690),
        ("fedlaw_cnn", COLOUR, 10, 122_570),
        ("fedlaw_cnn", COLOUR, 100, 128_420),
        ("fedlaw_lenet5", GREY, 10, 28_938),
        ("fedlaw_mlp", GREY, 10, 199_210),
        ("resnet20", COLOUR, 10, 272_474),
        ("resnet20", COLOUR, 100, 278_324),
    ],
)
def test_sizes_of_the_papers(name: str, shape: tuple[int, ...], classes: int, weights: int) -> None:
    plan = blueprint(name, shape, classes)
    drawn = plan.initial_weights()
    assert sum(x.size for x in drawn.values()) == weights
    assert plan.module().eval()(torch.zeros(2, *shape)).shape == (2, classes)


def test_vgg7_votes_on_all_but_the_last_layer() -> None:
    plan = blueprint("vgg7", COLOUR)
    shapes = {n: tuple(p.shape) for n, p in plan.module().named_parameters()}
    assert sum(int(np.prod(shapes[n])) for n in plan.hidden()) == 12_963_200
    assert sum(int(np.prod(s)) for n, s in shapes.items() if n not in plan.hidden()) == 10_250
    assert plan.normalised()


def test_resnet20_norms() -> None:
    """21 norms; group norm has the same weights, needs no batch, and one image is then like any other batch."""
    norms = (torch.nn.BatchNorm2d, torch.nn.GroupNorm)
    for norm in ("batch", "group"):
        module = blueprint("resnet20", COLOUR, norm=norm).module()
        assert sum(isinstance(m, norms) for m in module.modules()) == 21
        assert not list(module.buffers())
    plan = blueprint("resnet20", COLOUR, norm="group")
    assert not plan.normalised()
    module.load_state_dict({n: torch.tensor(x) for n, x in plan.initial_weights().items()})
    x = torch.randn(4, *COLOUR)
    torch.testing.assert_close(module(x)[:1], module(x[:1]))


@pytest.mark.parametrize("name", [n for n in IMAGES if n not in ("mlp", "fedlaw_mlp", "resnet20")])
def test_images_that_are_too_small(name: str) -> None:
    with pytest.raises(FedqError, match="images must be at least") as error:
        blueprint(name, (1, 3, 3)).initial_weights()
    assert error.value.code == "FQ105"


def test_mlp_without_norm_has_biases() -> None:
    """64-32-10 has 2,410 weights."""
    drawn = blueprint("mlp", (1, 8, 8), hidden=(32,), norm="none").initial_weights()
    assert sum(x.size for x in drawn.values()) == 2_410


@pytest.mark.parametrize("name", IMAGES)
def test_network_equals_the_module(name: str) -> None:
    """Loss and gradient through the flat vector equal torch's own in the same layout; evaluating moves no weight."""
    plan = blueprint(name)
    drawn = plan.initial_weights()
    net = Network(plan, drawn, list(drawn))
    w = net.flatten(drawn)
    x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
    net.rekey_(0, 1, 2)
    loss, g = net.gradient(w[None], x[None], y[None])
    module = plan.module()
    rekey_(module, 0, 1, 2)
    module.load_state_dict({n: torch.tensor(v) for n, v in drawn.items()})
    module.to(memory_format=torch.channels_last)
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


@pytest.mark.parametrize("name", IMAGES)
def test_initial_weights_leave_torch_alone(name: str) -> None:
    """Twice the same, another seed another draw, and torch's global generator is not touched."""
    plan, before = blueprint(name), torch.get_rng_state()
    drawn, again = plan.initial_weights(), plan.initial_weights()
    assert torch.equal(torch.get_rng_state(), before)
    assert all((drawn[n] == again[n]).all() for n in drawn)
    other = Blueprint(name, plan.options, plan.shape, plan.classes, 1).initial_weights()
    first = plan.hidden()[0]
    assert (drawn[first] != other[first]).any()
    assert all(x.dtype == np.float32 for x in drawn.values())


@pytest.mark.parametrize(
    ("name", "stds", "biases"),
    [
        ("terngrad_lenet", (0.05, 0.05, 0.048, 0.0767), (0, 0, 0, 0)),
        ("terngrad_cifarnet", (0.05, 0.05, 0.04, 0.04, 1 / 192), (0, 0.1, 0.1, 0.1, 0)),
    ],
)
def test_terngrad_draws_truncated_normals(name: str, stds: tuple[float, ...], biases: tuple[float, ...]) -> None:
    """Cut at 2 std, a normal deviates by sqrt(1 - 2 * 2 phi(2) / (2 Phi(2) - 1)) = 0.8796 std."""
    drawn = list(blueprint(name, COLOUR).initial_weights().values())
    for std, bias, w, b in zip(stds, biases, drawn[::2], drawn[1::2], strict=True):
        assert np.abs(w).max() <= 2 * std * (1 + 1e-6)
        assert abs(w.std() / (0.8796 * std) - 1) < 4 / np.sqrt(w.size)
        assert abs(w.mean()) < 4 * std / np.sqrt(w.size)
        assert (b == np.float32(bias)).all()


def uniform(drawn: dict[str, np.ndarray], layer: str) -> bool:
    """Whether weights and biases look uniform in +-1 / sqrt(fan in): inside, and the weights with its deviation."""
    w, b = drawn[f"{layer}.weight"], drawn.get(f"{layer}.bias", np.zeros(1))
    bound = 1 / np.sqrt(np.prod(w.shape[1:]))
    inside = max(np.abs(w).max(), np.abs(b).max()) <= bound * (1 + 1e-6)
    return bool(inside and abs(w.std() / (bound / np.sqrt(3)) - 1) < 4 / np.sqrt(w.size))


def test_fedau_draws_he_normals_but_for_the_last_layer() -> None:
    plan = blueprint("fedau_cnn_cifar10", COLOUR)
    drawn = plan.initial_weights()
    assert uniform(drawn, "11")
    assert drawn["11.bias"].any()
    for name in plan.hidden():
        w = drawn[name]
        assert abs(w.std() / np.sqrt(2 / np.prod(w.shape[1:])) - 1) < 4 / np.sqrt(w.size)
        assert not drawn[name.replace("weight", "bias")].any()


@pytest.mark.parametrize("name", ["fedlaw_cnn", "fedlaw_lenet5", "fedlaw_mlp", "resnet20"])
def test_fedlaw_draws_as_torch_does(name: str) -> None:
    plan = blueprint(name, COLOUR)
    drawn, parts = plan.initial_weights(), dict(plan.module().named_modules())
    for layer in {n.rpartition(".")[0] for n in drawn}:
        if isinstance(parts[layer], torch.nn.BatchNorm2d):
            assert (drawn[f"{layer}.weight"] == 1).all()
            assert not drawn[f"{layer}.bias"].any()
        else:
            assert uniform(drawn, layer), layer


def test_terngrad_pools_and_norms_as_tensorflow_does() -> None:
    """SAME on even sizes pads behind only; the norm divides by (1 + alpha * sum over 9 channels of x^2)^0.75."""
    parts = dict(blueprint("terngrad_cifarnet", (3, 24, 24)).module().named_children())
    x = torch.randn(2, 64, 24, 24)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1), value=-torch.inf)
    expected = torch.stack([padded[:, :, i : i + 23 : 2, j : j + 23 : 2] for i in range(3) for j in range(3)]).amax(0)
    torch.testing.assert_close(parts["pool1"](x), expected)
    near = torch.stack([(x[:, max(c - 4, 0) : c + 5] ** 2).sum(1) for c in range(64)], 1)
    torch.testing.assert_close(parts["lrn1"](x), x / (1 + 0.001 / 9 * near) ** 0.75)


def test_dropout_is_keyed() -> None:
    """A share is dropped, the rest scaled up; the same place gives the same masks; evaluation has none."""
    drop, x = Dropout(0.2), torch.ones(200, 500)

    def masks(*place: int) -> torch.Tensor:
        rekey_(drop, 0, *place)
        return torch.stack([drop(x), drop(x)])

    first = masks(1, 2)
    assert first.unique().tolist() == [0.0, 1.25]
    assert abs(float(first.mean()) - 1) < 0.01
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, masks(1, 2))
    assert not torch.equal(first, masks(1, 3))
    assert torch.equal(drop.eval()(x), x)


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


def test_adam_of_other_devices_is_the_kernels() -> None:
    """What moves weights where there is no kernel, run here: the same steps but for rounding."""
    torch.manual_seed(2)
    start, there, here = torch.randn(50), Adam(0.05), Adam(0.05)
    s, t = start.clone(), start.clone()
    w, v = tanh_half(s), 2 * torch.sigmoid(t) - 1
    for _ in range(20):
        g = torch.randn(50)
        here.step_(w, g.clone(), Through(s, 1.5))
        there.by_torch_(t, _times_slope(v, g.clone(), Through(t, 1.5)), there.plan(t, 1)[0][0])
        v = 2 * torch.sigmoid(t) - 1
    torch.testing.assert_close(s, t, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(w, v, rtol=0, atol=1e-6)


def test_weights_that_clients_start_at_are_laid_out_once() -> None:
    """Arrays that could be written to, and others, are taken anew; and so are weights that were left."""
    plan = blueprint("lenet5", (1, 28, 28))
    drawn = plan.initial_weights()
    net, x, y = Network(plan, drawn, list(drawn)), torch.randn(1, 4, 1, 28, 28), torch.zeros(1, 4, dtype=torch.int64)
    frozen = {n: w.copy() for n, w in drawn.items()}
    for w in frozen.values():
        w.setflags(write=False)
    start = net.start(frozen)
    assert start is net.start(frozen)
    assert start is not net.start(drawn) is not net.start(drawn)
    start = net.start(frozen)
    before = net.gradient(start[None], x, y)
    net.gradient(start[None] + 1, x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, net.gradient(start[None], x, y), strict=True))
    for w in drawn.values():
        np.add(w, 1, out=w)
    moved = net.gradient(net.start(drawn)[None], x, y)
    assert not torch.equal(before[1], moved[1])
    assert all(torch.equal(a, b) for a, b in zip(moved, net.gradient(net.flatten(drawn)[None], x, y), strict=True))
