"""Codecs whose payloads depend on the values: sizes, losslessness, and bytes that must be refused."""

import numpy as np
import pytest
import zstandard
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st

from fedq.errors import FedqError
from fedq.kernels import CODECS
from fedq.rng import Key

KEY = Key(1, 2)


def trits(p0, d):
    return np.random.default_rng(0).choice(np.float32([-1, 0, 1]), d, p=((1 - p0) / 2, p0, (1 - p0) / 2))


@pytest.mark.parametrize("p0", [0.0, 0.34, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_ternary_entropy_is_short_and_lossless(p0):
    d, codec = 200_000, CODECS["ternary_entropy"]
    x = trits(p0, d)
    payload = codec.encode(x, key=KEY)
    assert (codec.decode(payload) == x).all()
    assert len(payload.data) <= 1 + d // 5
    if 0.34 <= p0 <= 0.8:
        p = np.array([p0, (1 - p0) / 2, (1 - p0) / 2])
        assert 8 * len(payload.data) / d < 1.025 * -(p * np.log2(p)).sum()


def test_a_compressed_plane_cannot_claim_more_than_the_shape():
    codec, d = CODECS["ternary_entropy"], 80_000
    honest = codec.encode(trits(0.97, d), key=KEY)
    assert honest.data[0] == 2
    bomb = zstandard.ZstdCompressor().compress(bytes(10**8))
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10**8))
    for frame in (bomb, streamed, b"", b"\0" * 9, bomb[:-3]):
        data = b"\2" + len(frame).to_bytes(4, "little") + frame
        with pytest.raises(FedqError):
            codec.decode(Array("float32", (d,), codec.stype, data))


@given(at=st.integers(0, 1500), value=st.integers(0, 255), cut=st.integers(0, 1500))
def test_mutated_bytes_decode_or_are_refused(at, value, cut):
    for name, x in (("ternary_entropy", trits(0.97, 8000)), ("counts", np.float32([-1, 0.2, 1] * 300)),
                    ("topk", trits(0.5, 9000)), ("ternary_entropy", trits(0.5, 5000))):  # fmt: skip
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
