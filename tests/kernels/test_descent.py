"""Many local steps of many clients in one call: the specification's bits, which are those of the steps one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.kernels import _native, _native_training, _reference_steps
from fedq.kernels._reference_gradient import chain_gradient
from fedq.kernels._reference_steps import Rates, step_, tanh_half
from tests.kernels.cores import FOUND, ISAS, alike, each_core, same, unaligned
from tests.kernels.test_chain import CHAIN, chains

native = pytest.mark.skipif(not ISAS, reason="no native kernels are installed")
RULES = st.fixed_dictionaries(
    {"adam": st.booleans(), "latent": st.booleans()}
    | {"momentum": st.sampled_from([0.0, 0.9]), "decay": st.sampled_from([0.0, 0.1])}
)


def clients(chain, K, S, B, seed=0):
    """Weights, examples, labels, and places that meet some examples often and others never."""
    r = np.random.default_rng((K, S, B, seed))
    w = r.standard_normal((K, chain.d)).astype(np.float32) / 4
    x, n = r.standard_normal((11, chain.layers[0].inputs)).astype(np.float32), chain.layers[-1].outputs
    return w, x, r.integers(0, n, 11), r.integers(0, 11, (K, S, B))


def rates(S, adam):
    each = (Rates.at(t + 1, 0.1, 0.9, 0.999, 1e-8) if adam else Rates(0, 0, 0, 0.1) for t in range(S))
    return np.array(list(each), np.float32)


def descended(module, chain, given, rule, move=lambda x: x, calls=1):
    """All that is written to, and the losses; the steps in `calls` calls."""
    (w, x, labels, places), (K, S, _) = given, given[3].shape
    w = w.copy()
    s = w.copy() if rule["latent"] else None
    w = tanh_half(w) if rule["latent"] else w
    m = np.zeros_like(w) if rule["adam"] else None
    v = np.zeros_like(w) if rule["adam"] or rule["momentum"] else None
    total = np.zeros(K)
    for some in np.array_split(np.arange(S), calls):
        module.chain_descent_(
            chain, w, move(x), move(labels), move(places[:, some]), rates(S, rule["adam"])[some], total,
            s=s, m=m, v=v, slope=1.5, momentum=rule["momentum"], decay=rule["decay"],
        )  # fmt: skip
    return total, w, *(a for a in (s, m, v) if a is not None)


@native
@settings(max_examples=60, deadline=None)
@given(chains(), RULES, st.integers(0, 3), st.integers(1, 4), st.integers(1, 9), st.integers(0, 9))
def test_every_core_has_the_specifications_bits(chain, rule, K, S, B, seed):
    given = clients(chain, K, S, B, seed)
    expected = descended(_reference_steps, chain, given, rule)
    for isa in each_core():
        assert alike(descended(_native_training, chain, given, rule), expected), isa
        assert alike(descended(_native_training, chain, given, rule, unaligned), expected), isa
        assert S < 2 or alike(descended(_native_training, chain, given, rule, calls=2), expected), isa


@settings(max_examples=20, deadline=None)
@given(chains(), RULES, st.integers(1, 3))
def test_it_is_the_steps_one_by_one(chain, rule, K):
    """A gradient, what decays, a step: the same bits; and each client has its own whoever is there."""
    w, x, labels, places = clients(chain, K, 3, 5)
    found = descended(_reference_steps, chain, (w, x, labels, places), rule)
    for k in range(K):
        alone = descended(_reference_steps, chain, (w[k : k + 1], x, labels, places[k : k + 1]), rule)
        assert same(alone, tuple(a[k : k + 1] for a in found))
    s = w.copy() if rule["latent"] else None
    w = tanh_half(w) if rule["latent"] else w
    m = np.zeros_like(w) if rule["adam"] else None
    v = np.zeros_like(w) if rule["adam"] or rule["momentum"] else None
    for t, to in enumerate(rates(3, rule["adam"]).tolist()):
        at = places[:, t]
        g = chain_gradient(chain, w, x[at], labels[at])[1]
        g = g + np.float32(rule["decay"]) * w if rule["decay"] else g
        step_(w, g, Rates(*to), s=s, m=m, v=v, slope=1.5, momentum=rule["momentum"])
    assert same(found[1], w)


@pytest.mark.parametrize("module", [_reference_steps, pytest.param(_native_training, marks=native)])
def test_what_does_not_belong_together_is_refused_and_nothing_written(module, monkeypatch):
    monkeypatch.setattr(_native, "library", lambda: FOUND)
    w, x, labels, places = clients(CHAIN, 2, 3, 4)
    before, by, total = w.copy(), rates(3, adam=False), np.zeros(2)
    for wrong in (11, -1, 2**40, np.iinfo(np.int64).min):
        bad = places.copy()
        bad[1, 2, 3] = wrong
        with pytest.raises(ValueError, match="places are 0 to 10"):
            module.chain_descent_(CHAIN, w, x, labels, bad, by, total)
    bad = labels.copy()
    bad[places[1, 2, 3]] = 3
    with pytest.raises(ValueError, match="labels are 0 to 2"):
        module.chain_descent_(CHAIN, w, x, bad, places, by, total)
    few = (w[:1], x, labels, places, by), (w, x, labels, places[:, :0], by[:0]), (w, x, labels, places, by[1:])
    other = (w, x, labels, places[0], by), (w, x, labels, places.astype(np.int32), by)
    for wrong in (*few, *other, (w[:, 1:], x, labels, places, by), (w, x[:, 1:], labels, places, by)):
        with pytest.raises(ValueError, match="do not belong together"):
            module.chain_descent_(CHAIN, *wrong, total)
    for kept in ({"s": w[:1]}, {"v": w.astype(np.float64)}, {"m": w.copy()}):
        with pytest.raises(ValueError, match="do not belong together"):
            module.chain_descent_(CHAIN, w, x, labels, places, by, total, **kept)
    with pytest.raises(ValueError, match="do not belong together"):
        module.chain_descent_(CHAIN, w, x, labels, places, by, total[1:])
    assert same(w, before)
    assert not total.any()
