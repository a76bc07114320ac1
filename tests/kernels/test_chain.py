"""Gradients of chains of layers: every core has the specification's bits, and each client its own."""

import copy
import pickle
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.kernels import _native, _native_training, _reference_planes
from fedq.kernels._chain import ABSENT, CONVOLUTION, LINEAR, NORM, POOL, RELU, Chain, Layer
from fedq.kernels._reference_gradient import chain_gradient, exponential, logarithm
from tests.kernels.cores import FOUND, ISAS, alike, each_core, same, unaligned

native = pytest.mark.skipif(not ISAS, reason="no native kernels are installed")
WIDTHS = st.integers(1, 9) | st.sampled_from([15, 16, 17, 31, 32, 33, 64, 70, 130])


@st.composite
def without_places(draw):
    """Layers that fit each other: perhaps some of planes, then dense ones."""
    layers, width = [], draw(WIDTHS)
    kinds = draw(st.lists(st.sampled_from([CONVOLUTION, POOL, RELU, NORM]), max_size=5))
    if kinds:
        planes = draw(st.integers(1, 3)), *(draw(st.integers(1, 9)) for _ in range(2))
        for kind in kinds:
            size, padding, (channels, *sides) = 0, 0, planes
            if kind == CONVOLUTION:
                size = draw(st.integers(1, 5))
                padding = draw(st.integers(max(0, (size - min(sides) + 1) // 2), size - 1))
            size = draw(st.integers(1, min(sides))) if kind == POOL else size
            layer = Layer(kind, prod(planes), 1, 0, 0, 0, *planes, size, padding)
            channels = draw(st.integers(1, 20)) if kind == CONVOLUTION else channels
            planes = channels, *layer.gives[1:]
            layers.append(layer._replace(outputs=prod(planes)))
        width = prod(planes)
    dense = draw(st.lists(st.sampled_from([LINEAR, RELU, NORM]), max_size=6))
    for kind in (*dense, LINEAR, *draw(st.sampled_from([[], [], [RELU], [NORM], [NORM, RELU]]))):
        gives = draw(WIDTHS) if kind == LINEAR else width
        layers.append(Layer(kind, width, gives))
        width = gives
    return layers


@st.composite
def chains(draw):
    """Any layers, each part trained or fixed; one part is trained."""
    layers, fixed, d, first = [], 0, 0, True
    for layer in draw(without_places()):
        kind, places = layer.kind, [ABSENT, ABSENT]
        parts, some = [layer.wide if kind == NORM else layer.weights, layer.wide], draw(st.booleans())
        weighty = kind in (LINEAR, CONVOLUTION)
        for i in range(2) if some and (weighty or kind == NORM) else range(1) if weighty else ():
            if draw(st.booleans()) or (first and weighty):
                places[i], d, first = d, d + parts[i], False
            else:
                places[i], fixed = -1 - fixed, fixed + parts[i]
        epsilon = -1 - fixed if kind == NORM else ABSENT
        fixed += kind == NORM
        layers.append(Layer(*layer[:3], *places, epsilon, *layer[6:]))
    values = np.random.default_rng(d).uniform(0.01, 0.5, fixed).astype(np.float32)
    return Chain(layers, values, d)


def cohort(chain, K, B, seed=0):
    r = np.random.default_rng((K, B, seed))
    w = r.standard_normal((K, chain.d)).astype(np.float32) / 4
    x = r.standard_normal((K, B, chain.layers[0].inputs)).astype(np.float32)
    return w, x, r.integers(0, chain.layers[-1].outputs, (K, B))


def by_every_core(chain, w, x, labels):
    expected = chain_gradient(chain, w, x, labels)
    for isa in each_core():
        assert alike(_native_training.chain_gradient(chain, w, x, labels), expected), isa
    return expected


@native
@settings(max_examples=60, deadline=None)
@given(chains(), st.integers(0, 4), st.integers(1, 9) | st.sampled_from([15, 16, 17, 33, 70]), st.integers(0, 9))
def test_every_core_has_the_specifications_bits(chain, K, B, seed):
    """Of any chain, also from unaligned arrays, and from rows that lie apart or are one."""
    w, x, labels = cohort(chain, K, B, seed)
    loss, g = by_every_core(chain, w, x, labels)
    assert np.isfinite(loss).all()
    assert np.isfinite(g).all()
    by_every_core(chain, unaligned(w), unaligned(x), unaligned(labels))
    apart = [np.repeat(a, 2, axis=1)[:, : a.shape[1]] for a in (w, labels)]
    by_every_core(chain, apart[0], np.stack([x, x], 1)[:, 1], apart[1])
    if K:
        by_every_core(chain, np.broadcast_to(w[0], w.shape), x, labels)


@settings(max_examples=20, deadline=None)
@given(chains(), st.integers(2, 5), st.integers(1, 17))
def test_together_is_each_alone(chain, K, B):
    w, x, labels = cohort(chain, K, B)
    loss, g = by_every_core(chain, w, x, labels)
    for k in range(K):
        assert same(
            by_every_core(chain, w[k : k + 1], x[k : k + 1], labels[k : k + 1]), (loss[k : k + 1], g[k : k + 1])
        )


CHAIN = Chain([Layer(LINEAR, 5, 8, 0, 40), Layer(RELU, 8, 8), Layer(LINEAR, 8, 3, 48)], np.zeros(0, np.float32), 72)


DENSE = [Layer(LINEAR, 4, 6, 0, 24), Layer(NORM, 6, 6, 30, 36, -1), Layer(RELU, 6, 6), Layer(LINEAR, 6, 3, 42)]
PLANES = [
    Layer(CONVOLUTION, 40, 60, 0, 54, ABSENT, 2, 5, 4, 3, 1), Layer(NORM, 60, 60, 57, 60, -1, 3, 5, 4),
    Layer(RELU, 60, 60, ABSENT, ABSENT, ABSENT, 3, 5, 4), Layer(POOL, 60, 12, ABSENT, ABSENT, ABSENT, 3, 5, 4, 2),
    Layer(CONVOLUTION, 12, 2, 63, 87, ABSENT, 3, 2, 2, 2), Layer(LINEAR, 2, 3, 89),
]  # fmt: skip


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38, 1e-42, -0.0])
@pytest.mark.parametrize("at", [0, 24, 36, 59, -1, -56, -59, -88])
def test_what_diverges_says_so(poison, at):
    """NaN in, NaN out; other clients have their bits. Logits far apart lose nothing but what float32 cannot hold."""
    chain = Chain(DENSE if at >= 0 else PLANES, np.full(1, 0.1, np.float32), 60 if at >= 0 else 95)
    w, x, labels = cohort(chain, 3, 8)
    before = chain_gradient(chain, w, x, labels)
    w[1, abs(at)] = poison
    loss, g = by_every_core(chain, w, x, labels)
    assert same((loss[::2], g[::2]), (before[0][::2], before[1][::2]))
    assert not np.isnan(poison) or (np.isnan(loss[1]) and np.isnan(g[1]).any())
    w[1] = 1e4 * before[1][1]
    by_every_core(chain, w, x, labels)


def test_a_copy_has_addresses_of_its_own():
    for copied in (copy.deepcopy(CHAIN), pickle.loads(pickle.dumps(CHAIN))):
        assert copied.place[0] == copied.table.ctypes.data != CHAIN.place[0]
        assert same(copied.table, CHAIN.table)


@pytest.mark.parametrize(("layers", "d", "B"), [(DENSE, 60, 9), (PLANES, 95, 9), (PLANES, 95, 40)])
def test_a_gradient_is_the_slope_of_the_loss(layers, d, B):
    """By central differences of the specification, in all its parts."""
    chain = Chain(layers, np.full(1, 0.1, np.float32), d)
    w, x, labels = cohort(chain, 1, B)
    step = np.float32(2**-8) * np.eye(d, dtype=np.float32)
    all_x, all_labels = (np.repeat(a, d, 0) for a in (x, labels))
    up, down = (chain_gradient(chain, w + s, all_x, all_labels)[0] for s in (step, -step))
    slope, g = (up - down) * 2**7, chain_gradient(chain, w, x, labels)[1][0]
    if layers is DENSE:
        np.testing.assert_allclose(slope, g, atol=2e-4)
    assert np.median(np.abs(slope - g)) < 1e-4
    assert np.linalg.norm(slope - g) < 0.03 * np.linalg.norm(g)  # the larger net meets kinks of ReLU and pools


@native
def test_of_equals_the_first_is_the_largest_and_nan_is_larger():
    """Pools of planes that are alike everywhere, with NaN at one place."""
    planes = [Layer(CONVOLUTION, 16, 16, 0, 1, ABSENT, 1, 4, 4, 1), Layer(POOL, 16, 4, *[ABSENT] * 3, 1, 4, 4, 2)]
    chain = Chain([*planes, Layer(LINEAR, 4, 2, -1)], np.arange(8, dtype=np.float32), 2)
    w, x, labels = np.ones((1, 2), np.float32), np.ones((1, 3, 16), np.float32), np.zeros((1, 3), np.int64)
    assert np.isfinite(by_every_core(chain, w, x, labels)[0]).all()
    for at in range(16):
        x[0, 1] = 1
        x[0, 1, at] = np.nan
        assert np.isnan(by_every_core(chain, w, x, labels)[0]).all()
    assert planes_of_pool(np.ones((1, 1, 16), np.float32), planes[1]) == [0, 2, 8, 10]


def planes_of_pool(x, layer):
    """Where the gradient of a pool goes."""
    into = _reference_planes.to_largest(layer, np.ones((1, 1, layer.outputs), np.float32), x)
    return np.flatnonzero(into).tolist()


def test_exponential_and_logarithm_are_right_to_two_units_in_the_last_place():
    x = np.linspace(-87, 0, 1_000_001, dtype=np.float32)
    true = np.exp(x.astype(np.float64))
    assert (np.abs(exponential(x) - true) <= 2 * np.spacing(true.astype(np.float32))).all()
    assert same(exponential(np.float32([-np.inf, -88, 0, -0.0])), np.float32([0, 0, 1, 1]))
    x = np.exp(np.linspace(0, 40, 1_000_001)).astype(np.float32)
    true = np.log(x.astype(np.float64))
    assert (np.abs(logarithm(x) - true) <= 2 * np.spacing(true.astype(np.float32))).all()


@pytest.mark.parametrize("kernel", [chain_gradient, pytest.param(_native_training.chain_gradient, marks=native)])
def test_what_does_not_belong_together_is_refused(kernel, monkeypatch):
    monkeypatch.setattr(_native, "library", lambda: FOUND)
    w, x, labels = cohort(CHAIN, 2, 4)
    for wrong in (3, -1, 2**40, np.iinfo(np.int64).min):
        labels[1, 2] = wrong
        with pytest.raises(ValueError, match="labels are 0 to 2"):
            kernel(CHAIN, w, x, labels)
    labels[1, 2] = 0
    for changed in ((w[:, 1:], x, labels), (w, x[..., 1:], labels), (w, x, labels[:, 1:]), (w[:1], x, labels),
                    (w.astype(np.float64), x, labels), (w, x, labels.astype(np.int32)), (w, x[:, :0], labels[:, :0]),
                    (w, x, labels.reshape(-1))):  # fmt: skip
        with pytest.raises(ValueError, match="weights, examples and labels"):
            kernel(CHAIN, *changed)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [Layer(RELU, 3, 3)],
        [Layer(LINEAR, 3, 4)],
        [Layer(LINEAR, 3, 4, 1)],
        [Layer(LINEAR, 3, 4, 0, 11)],
        [Layer(LINEAR, 3, 4, 0, -1)],
        [Layer(LINEAR, 3, 4, 0, ABSENT, 0)],
        [Layer(LINEAR, 2**31, 4, 0)],
        [Layer(LINEAR, 3, 4, 0), Layer(RELU, 3, 3)],
        [Layer(LINEAR, 3, 4, 0), Layer(RELU, 4, 5)],
        [Layer(LINEAR, 3, 4, 0), Layer(NORM, 4, 4, ABSENT, ABSENT, 0)],
        [Layer(LINEAR, 3, 4, 0), Layer(NORM, 4, 4, -1, ABSENT, -1)],
        [Layer(5, 3, 4, 0)],
        [Layer(CONVOLUTION, 16, 16, 0, 9, ABSENT, 1, 4, 4, 3, 1), Layer(RELU, 16, 16, *[ABSENT] * 3, 1, 4, 4)],
        [Layer(CONVOLUTION, 4, 12, 0, ABSENT, ABSENT, 2, 1, 2, 1)],
        [Layer(CONVOLUTION, 3, 4, 0)],
        [Layer(CONVOLUTION, 12, 12, 0, ABSENT, ABSENT, 1, 4, 3), Layer(LINEAR, 12, 1, 9)],
        [Layer(CONVOLUTION, 12, 12, 0, ABSENT, ABSENT, 1, 4, 3, 3, 3), Layer(LINEAR, 12, 1, 9)],
        [Layer(CONVOLUTION, 12, 11, 0, ABSENT, ABSENT, 1, 4, 3, 3, 1), Layer(LINEAR, 11, 1, 9)],
        [Layer(CONVOLUTION, 12, 12, 0, ABSENT, ABSENT, 1, 3, 3, 3, 1), Layer(LINEAR, 12, 1, 9)],
        [Layer(CONVOLUTION, 12, 1, 0, ABSENT, ABSENT, 1, 4, 3, 5), Layer(LINEAR, 1, 1, 9)],
        [Layer(POOL, 12, 2, ABSENT, ABSENT, ABSENT, 1, 4, 3), Layer(LINEAR, 2, 6, 0)],
        [Layer(POOL, 12, 2, 0, ABSENT, ABSENT, 1, 4, 3, 2), Layer(LINEAR, 2, 6, 0)],
        [Layer(POOL, 12, 0, ABSENT, ABSENT, ABSENT, 1, 4, 3, 5), Layer(LINEAR, 0, 6, 0)],
        [Layer(LINEAR, 12, 1, 0, ABSENT, ABSENT, 1, 4, 3)],
        [Layer(LINEAR, 1, 12, 0), Layer(RELU, 12, 12, ABSENT, ABSENT, ABSENT, 1, 4, 3)],
        [
            Layer(RELU, 12, 12, ABSENT, ABSENT, ABSENT, 1, 4, 3),
            Layer(RELU, 12, 12, ABSENT, ABSENT, ABSENT, 1, 3, 4),
            Layer(LINEAR, 12, 1, 0),
        ],
    ],
)
def test_layers_that_are_no_chain_are_refused(layers):
    with pytest.raises(ValueError, match=r"no chain|a part at|trained values"):
        Chain(layers, np.zeros(0, np.float32), 12)
