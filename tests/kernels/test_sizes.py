"""Codecs whose payloads depend on the values: sizes, losslessness, and bytes that must be refused."""

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st

from fedq.errors import FedqError
from fedq.kernels import CODECS
from fedq.rng import Key

KEY = Key(1, 2)


def trits(p0, d):
    return np.random.default_rng(0).choice(np.float32([-1, 0, 1]), d, p=((1 - p0) / 2, p0, (1 - p0) / 2))


@pytest.mark.parametrize("d", [10_000, 60_001, 200_000, 1_000_000])
@pytest.mark.parametrize("p0", [0.34, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_ternary_entropy_is_near_the_entropy_and_lossless(p0, d):
    codec, x = CODECS["ternary_entropy"], trits(p0, d)
    payload = codec.encode(x, key=KEY)
    assert (codec.decode(payload) == x).all()
    assert len(payload.data) <= 1 + -(-d // 5)
    p = np.array([(x == value).mean() for value in (-1, 0, 1)])
    assert 8 * len(payload.data) / d < 1.025 * -(p * np.log2(p)).sum()


@pytest.mark.parametrize("d", [0, 1, 5, 8, 100, 320, 1000])
@pytest.mark.parametrize("p0", [0.0, 0.3, 0.9, 1.0])
def test_ternary_entropy_is_never_longer_than_base_3_and_a_byte(p0, d):
    codec, x = CODECS["ternary_entropy"], trits(p0, d)
    payload = codec.encode(x, key=KEY)
    assert (codec.decode(payload) == x).all()
    assert len(payload.data) <= 1 + -(-d // 5)


def test_ternary_entropy_sees_skewed_signs_and_uneven_layers():
    codec, r = CODECS["ternary_entropy"], np.random.default_rng(1)
    skewed = r.choice(np.float32([-1, 0, 1]), 200_000, p=(0.02, 0.5, 0.48))
    uneven = np.concatenate([trits(0.02, 196_608), trits(0.98, 196_608)])
    entropies = []
    for x in (skewed, uneven):
        payload = codec.encode(x, key=KEY)
        assert (codec.decode(payload) == x).all()
        p = np.array([(x == value).mean() for value in (-1, 0, 1)])
        entropies.append(8 * len(payload.data) / len(x) / -(p * np.log2(p)).sum())
    assert entropies[0] < 1.01
    assert entropies[1] < 0.5  # each block of the coder has a density of its own


def test_a_coded_plane_cannot_claim_more_than_the_shape():
    codec, d = CODECS["ternary_entropy"], 80_000
    honest = codec.encode(trits(0.97, d), key=KEY)
    assert honest.data[0] == 2
    for data in (honest.data[:-1], honest.data + b"\0", honest.data[:50], b"\2", b"\4", b"\5" + honest.data[1:]):
        with pytest.raises(FedqError):
            codec.decode(Array("float32", (d,), codec.stype, data))
    for other in (8, d - 8, d + 8):
        with pytest.raises(FedqError):
            codec.decode(Array("float32", (other,), codec.stype, honest.data))


@given(at=st.integers(0, 1500), value=st.integers(0, 255), cut=st.integers(0, 1500))
def test_mutated_bytes_decode_or_are_refused(at, value, cut):
    for name, x in (("ternary_entropy", trits(0.97, 8000)), ("counts", np.float32([-1, 0.2, 1] * 300)),
                    ("topk", trits(0.5, 9000)), ("ternary_entropy", trits(0.5, 5000)),
                    ("ternary_entropy", np.abs(trits(0.5, 6000)))):  # fmt: skip
        codec = CODECS[name]
        payload = codec.encode(x, key=KEY)
        data = bytearray(payload.data)
        data[at % len(data)] = value
        for changed in (bytes(data), payload.data[: cut % len(data)]):
            try:
                found = codec.decode(Array("float32", payload.shape, payload.stype, changed))
            except FedqError:
                continue
            assert found.shape == x.shape
            assert np.isfinite(found).all()


@pytest.mark.parametrize(("voters", "bits"), [(1, 1), (3, 2), (31, 5), (32, 6), (100, 7), (1000, 10)])
def test_counts_take_the_bits_of_the_voters(voters, bits):
    d, codec = 4001, CODECS["counts"]
    c = np.random.default_rng(0).integers(0, voters + 1, d)
    means = (2 * c - voters).astype(np.float32) / np.float32(voters)
    for limit in (1.0, 1 - 1e-4):
        x = means.clip(-np.float32(limit), np.float32(limit))
        payload = codec.encode(x, key=KEY)
        assert len(payload.data) == 8 + bits * -(-d // 8)
        assert (codec.decode(payload) == x).all()


def test_counts_of_anything_else_are_floats():
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    payload = CODECS["counts"].encode(x, key=KEY)
    assert len(payload.data) == 8 + x.nbytes
    assert CODECS["counts"].decode(payload).tobytes() == x.tobytes()


def test_topk_keeps_the_largest():
    x = np.random.default_rng(0).standard_normal((30, 40)).astype(np.float32)
    payload = CODECS["topk"].encode(x, key=KEY)
    kept = CODECS["topk"].decode(payload)
    assert len(payload.data) == 8 * 12
    assert (np.sort(np.abs(kept[kept != 0])) == np.sort(np.abs(x).ravel())[-12:]).all()
