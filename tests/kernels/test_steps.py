"""Steps of local training: every core has the specification's bits, and they are those of the textbook."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.kernels import _native, _native_training, _reference_steps
from fedq.kernels._reference import random_words
from fedq.kernels._reference_steps import Rates, step_, tanh_half
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


def two_steps(module, shape, seed, strange, latent, rule, move=lambda x: x):
    """All that is written to: weights, latent ones, and what is kept of gradients."""
    w = drawn(shape, seed, strange)
    s = w.copy() if latent else None
    w = module.tanh_half(move(w)) if latent else w
    m, v = (np.zeros_like(w) if kept in rule else None for kept in "mv")
    for t in (1, 2):
        rates, g = Rates.at(t, 0.1, 0.9, 0.999, 1e-8), move(drawn(shape, (seed, t), strange))
        module.step_(w, g, rates, s=s, m=m, v=v, slope=1.5, momentum=0.9)
    return w, *(a for a in (s, m, v) if a is not None)


@native
@settings(max_examples=100, deadline=None)
@given(SHAPES, st.integers(0, 99), st.booleans(), st.booleans(), st.sampled_from(["mv", "v", ""]))
def test_every_core_has_the_specifications_bits(shape, seed, strange, latent, rule):
    expected = two_steps(_reference_steps, shape, seed, strange, latent, rule)
    for isa in each_core():
        assert alike(two_steps(_native_training, shape, seed, strange, latent, rule), expected), isa
        assert alike(two_steps(_native_training, shape, seed, strange, latent, rule, unaligned), expected), isa


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
@pytest.mark.parametrize("rule", ["mv", "v", ""])
def test_a_step_is_torchs(latent, rule):
    """Adam, and SGD with and without momentum: torch.optim's, on weights or through tanh by autograd."""
    x = drawn((50,), 1, False)
    p, w, s = torch.from_numpy(x.copy()).requires_grad_(), tanh_half(x) if latent else x, x if latent else None
    m, v = (np.zeros_like(x) if kept in rule else None for kept in "mv")
    sgd = torch.optim.SGD([p], lr=0.05, momentum=0.9 if "v" in rule else 0.0)
    theirs = torch.optim.Adam([p], lr=0.05) if "m" in rule else sgd
    for t in range(1, 21):
        g = drawn((50,), (1, t), False)
        rates = Rates.at(t, 0.05, 0.9, 0.999, 1e-8) if "m" in rule else Rates(0, 0, 0, 0.05)
        step_(w, g, rates, s=s, m=m, v=v, slope=0.5, momentum=0.9)
        theirs.zero_grad()
        (torch.from_numpy(g) * (torch.tanh(p / 2) if latent else p)).sum().backward()
        theirs.step()
    np.testing.assert_allclose(x, p.detach().numpy(), rtol=2e-5, atol=2e-6)
    assert same(w, tanh_half(x) if latent else x)


def test_tanh_half_is_right_to_two_ten_millionths():
    x = np.linspace(-40, 40, 1_000_001, dtype=np.float32)
    assert np.abs(tanh_half(x) - np.tanh(x.astype(np.float64) / 2)).max() < 2e-7
    assert same(tanh_half(np.float32([np.inf, -np.inf, 0, -0.0])), np.float32([1, -1, 0, -0.0]))
    assert np.isnan(tanh_half(np.float32([np.nan])))[0]


@pytest.mark.parametrize("kernel", [step_, pytest.param(_native_training.step_, marks=native)])
def test_what_does_not_belong_together_is_refused(kernel, monkeypatch):
    monkeypatch.setattr(_native, "library", lambda: FOUND)
    rates = Rates.at(1, 0.1, 0.9, 0.999, 1e-8)
    for i in range(4):
        w, s, m, v = (np.zeros((2, 4 if i == k else 3), np.float32) for k in range(4))
        with pytest.raises(ValueError, match="shape"):
            kernel(w, np.zeros((2, 3), np.float32), rates, s=s, m=m, v=v)
