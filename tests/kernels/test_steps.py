"""Steps of local training: every core has the specification's bits, and they are those of the textbook."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.kernels import _native, _native_training, _reference_steps
from fedq.kernels._reference import random_words
from fedq.kernels._reference_steps import Rates, adam_, sgd_, tanh_half
from fedq.rng import Key
from tests.kernels.cores import FOUND, ISAS, alike, each_core, same, unaligned

native = pytest.mark.skipif(not ISAS, reason="no native kernels are installed")
SHAPES = st.sampled_from([(0,), (1,), (15,), (16,), (17,), (3, 33), (2, 257)])
STRANGE = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42, -0.0, 0.0])


def drawn(shape, seed, strange):
    r = np.random.default_rng(seed)
    x = r.standard_normal(shape).astype(np.float32)
    if strange and x.size:
        np.put(x, r.integers(0, x.size, 8), STRANGE)
    return x


def two_steps(module, shape, seed, strange, latent, move=lambda x: x):
    """All that is written to: weights, moments and, if latent, what the network uses."""
    x = drawn(shape, seed, strange)
    m, v, w = np.zeros_like(x), np.zeros_like(x), module.tanh_half(move(x)) if latent else None
    for t in (1, 2):
        g = move(drawn(shape, (seed, t), strange))
        module.adam_(x, g, m, v, Rates.at(t, 0.1, 0.9, 0.999, 1e-8), w=w, slope=1.5)
    return x, m, v, *([] if w is None else [w])


@native
@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 99), st.booleans(), st.booleans())
def test_every_core_has_the_specifications_bits(shape, seed, strange, latent):
    expected = two_steps(_reference_steps, shape, seed, strange, latent)
    for isa in each_core():
        assert alike(two_steps(_native_training, shape, seed, strange, latent), expected), isa
        assert alike(two_steps(_native_training, shape, seed, strange, latent, unaligned), expected), isa


@native
def test_every_core_has_the_same_random_words():
    """A shorter row is a longer one's beginning."""
    keys = [Key(5 * k, 2**40 + k) for k in range(7)]
    longest = random_words(keys, 1001)
    for _ in each_core():
        for n in (0, 1, 3, 4, 5, 37, 1001):
            assert same(_native_training.random_words(keys, n), np.ascontiguousarray(longest[:, :n]))
        assert same(_native_training.random_words([], 5), random_words([], 5))


@pytest.mark.parametrize("latent", [False, True])
def test_a_step_is_adams(latent):
    """torch.optim's, on weights or through tanh by autograd."""
    x = drawn((50,), 1, False)
    p = torch.from_numpy(x.copy()).requires_grad_()
    theirs, m, v = torch.optim.Adam([p], lr=0.05), np.zeros_like(x), np.zeros_like(x)
    w = tanh_half(x) if latent else None
    for t in range(1, 21):
        g = drawn((50,), (1, t), False)
        adam_(x, g, m, v, Rates.at(t, 0.05, 0.9, 0.999, 1e-8), w=w, slope=0.5)
        theirs.zero_grad()
        (torch.from_numpy(g) * (torch.tanh(p / 2) if latent else p)).sum().backward()
        theirs.step()
    np.testing.assert_allclose(x, p.detach().numpy(), rtol=2e-5, atol=2e-6)
    assert w is None or same(w, tanh_half(x))


def test_tanh_half_is_right_to_two_ten_millionths():
    x = np.linspace(-40, 40, 1_000_001, dtype=np.float32)
    assert np.abs(tanh_half(x) - np.tanh(x.astype(np.float64) / 2)).max() < 2e-7
    assert same(tanh_half(np.float32([np.inf, -np.inf, 0, -0.0])), np.float32([1, -1, 0, -0.0]))
    assert np.isnan(tanh_half(np.float32([np.nan])))[0]


@pytest.mark.parametrize("kernel", [adam_, pytest.param(_native_training.adam_, marks=native)])
def test_what_does_not_belong_together_is_refused(kernel, monkeypatch):
    monkeypatch.setattr(_native, "library", lambda: FOUND)
    x, rates = np.zeros((2, 3), np.float32), Rates.at(1, 0.1, 0.9, 0.999, 1e-8)
    for i in range(4):
        arrays = [x.copy() for _ in range(4)]
        arrays[i] = np.zeros((2, 4), np.float32)
        with pytest.raises(ValueError, match="shape"):
            kernel(*arrays, rates)


def sgd_steps(module, shape, seed, strange, latent, momentum, move=lambda x: x):
    """All that two steps write to."""
    x = drawn(shape, seed, strange)
    v, w = np.zeros_like(x) if momentum else None, module.tanh_half(move(x)) if latent else None
    for t in (1, 2):
        module.sgd_(x, move(drawn(shape, (seed, t), strange)), 0.1, v=v, momentum=momentum, w=w, slope=1.5)
    return x, *(a for a in (v, w) if a is not None)


@native
@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 99), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.9]))
def test_every_core_has_the_specifications_bits_of_sgd(shape, seed, strange, latent, momentum):
    expected = sgd_steps(_reference_steps, shape, seed, strange, latent, momentum)
    for isa in each_core():
        assert alike(sgd_steps(_native_training, shape, seed, strange, latent, momentum), expected), isa
        assert alike(sgd_steps(_native_training, shape, seed, strange, latent, momentum, unaligned), expected), isa


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("latent", [False, True])
def test_a_step_of_sgd_is_torchs(latent, momentum):
    """torch.optim's, on weights or through tanh by autograd."""
    x = drawn((50,), 1, False)
    p = torch.from_numpy(x.copy()).requires_grad_()
    theirs, v = torch.optim.SGD([p], lr=0.05, momentum=momentum), np.zeros_like(x) if momentum else None
    w = tanh_half(x) if latent else None
    for t in range(1, 21):
        g = drawn((50,), (1, t), False)
        sgd_(x, g, 0.05, v=v, momentum=momentum, w=w, slope=0.5)
        theirs.zero_grad()
        (torch.from_numpy(g) * (torch.tanh(p / 2) if latent else p)).sum().backward()
        theirs.step()
    np.testing.assert_allclose(x, p.detach().numpy(), rtol=2e-5, atol=2e-6)
