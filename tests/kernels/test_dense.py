"""Gradients of stacked dense networks: every core has the specification's bits, and each client its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.kernels import _native, _native_training
from fedq.kernels._reference_dense import (
    ABSENT,
    LINEAR,
    NORM,
    RELU,
    Chain,
    Layer,
    dense_gradient,
    exponential,
    logarithm,
)
from tests.kernels.cores import FOUND, ISAS, alike, each_core, same, unaligned

native = pytest.mark.skipif(not ISAS, reason="no native kernels are installed")
WIDTHS = st.integers(1, 9) | st.sampled_from([15, 16, 17, 31, 32, 33, 64, 70, 130])


@st.composite
def chains(draw):
    """Any layers, each part trained or fixed; one part is trained."""
    layers, fixed, d, width, first = [], 0, 0, draw(WIDTHS), True
    for kind in (*draw(st.lists(st.sampled_from([LINEAR, RELU, NORM]), min_size=1, max_size=6)), LINEAR):
        gives = draw(WIDTHS) if kind == LINEAR else width
        parts, places = [width * gives if kind == LINEAR else gives, gives], [ABSENT, ABSENT]
        some = draw(st.booleans())
        for i in range(2) if some and kind != RELU else range(1) if kind == LINEAR else ():
            if draw(st.booleans()) or (first and kind == LINEAR):
                places[i], d, first = d, d + parts[i], False
            else:
                places[i], fixed = -1 - fixed, fixed + parts[i]
        epsilon = -1 - fixed if kind == NORM else ABSENT
        fixed += kind == NORM
        layers.append(Layer(kind, width, gives, *places, epsilon))
        width = gives
    values = np.random.default_rng(d).uniform(0.01, 0.5, fixed).astype(np.float32)
    return Chain(layers, values, d)


def cohort(chain, K, B, seed=0):
    r = np.random.default_rng((K, B, seed))
    w = r.standard_normal((K, chain.d)).astype(np.float32) / 4
    x = r.standard_normal((K, B, chain.layers[0].inputs)).astype(np.float32)
    return w, x, r.integers(0, chain.layers[-1].outputs, (K, B))


def by_every_core(chain, w, x, labels):
    expected = dense_gradient(chain, w, x, labels)
    for isa in each_core():
        assert alike(_native_training.dense_gradient(chain, w, x, labels), expected), isa
    return expected


@native
@settings(max_examples=60, deadline=None)
@given(chains(), st.integers(0, 4), st.integers(1, 9) | st.sampled_from([15, 16, 17, 33]), st.integers(0, 9))
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


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38, 1e-42, -0.0])
@pytest.mark.parametrize("at", [0, 40, 48, 71])
def test_what_diverges_says_so(poison, at):
    """NaN in, NaN out; other clients have their bits. Logits far apart lose nothing but what float32 cannot hold."""
    w, x, labels = cohort(CHAIN, 3, 8)
    before = dense_gradient(CHAIN, w, x, labels)
    w[1, at] = poison
    loss, g = by_every_core(CHAIN, w, x, labels)
    assert same((loss[::2], g[::2]), (before[0][::2], before[1][::2]))
    assert not np.isnan(poison) or (np.isnan(loss[1]) and np.isnan(g[1]).any())
    w[1] = 1e4 * before[1][1]
    by_every_core(CHAIN, w, x, labels)


def test_a_gradient_is_the_slope_of_the_loss():
    """By central differences of the specification, in all its parts."""
    layers = [Layer(LINEAR, 4, 6, 0, 24), Layer(NORM, 6, 6, 30, 36, -1), Layer(RELU, 6, 6), Layer(LINEAR, 6, 3, 42)]
    chain = Chain(layers, np.full(1, 0.1, np.float32), 60)
    w, x, labels = cohort(chain, 1, 9)
    step = np.float32(2**-8) * np.eye(60, dtype=np.float32)
    all_x, all_labels = (np.repeat(a, 60, 0) for a in (x, labels))
    up, down = (dense_gradient(chain, w + s, all_x, all_labels)[0] for s in (step, -step))
    np.testing.assert_allclose((up - down) * 2**7, dense_gradient(chain, w, x, labels)[1][0], atol=2e-4)


def test_exponential_and_logarithm_are_right_to_two_units_in_the_last_place():
    x = np.linspace(-87, 0, 1_000_001, dtype=np.float32)
    true = np.exp(x.astype(np.float64))
    assert (np.abs(exponential(x) - true) <= 2 * np.spacing(true.astype(np.float32))).all()
    assert same(exponential(np.float32([-np.inf, -88, 0, -0.0])), np.float32([0, 0, 1, 1]))
    x = np.exp(np.linspace(0, 40, 1_000_001)).astype(np.float32)
    true = np.log(x.astype(np.float64))
    assert (np.abs(logarithm(x) - true) <= 2 * np.spacing(true.astype(np.float32))).all()


@pytest.mark.parametrize("kernel", [dense_gradient, pytest.param(_native_training.dense_gradient, marks=native)])
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
        [Layer(3, 3, 4, 0)],
    ],
)
def test_layers_that_are_no_chain_are_refused(layers):
    with pytest.raises(ValueError, match=r"no chain|a part at|trained values"):
        Chain(layers, np.zeros(0, np.float32), 12)
