"""Sums of votes straight from packed bytes: the codec law, however the stream is cut."""

import subprocess
import sys

import numpy as np
import pytest
from flwr.app import Array

from fedq.errors import FedqError
from fedq.kernels import CODECS
from fedq.kernels.votes import VoteAccumulator
from fedq.rng import key

PACKED = ["binary", "sign", "ternary", "ternary_base3", "ternary_entropy", "topk10", "qsgd2", "qsgd4", "qsgd8"]


def payloads(name, shape, n):
    codec = CODECS[name]
    r = np.random.default_rng(n)
    return [codec.encode(r.uniform(-1, 1, shape).astype(np.float32), key=key(0, "test", k)) for k in range(n)]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("n", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("kind", ["ones", "equal", "unequal", "mixed"])
def test_aggregate_is_the_weighted_sum_of_decoded_payloads(name, n, kind):
    codec, sent = CODECS[name], payloads(name, (7, 83), n)
    r = np.random.default_rng(0)
    weights = {"ones": np.ones(n), "equal": np.full(n, 0.3), "unequal": r.uniform(0.1, 2, n),
               "mixed": r.choice([1.0, 0.5], n)}[kind]  # fmt: skip
    decoded = np.stack([codec.decode(p) for p in sent]).astype(np.float64)
    expected = np.einsum("k,kij->ij", weights, decoded)
    total = codec.aggregate(sent, weights)
    assert total.shape == (7, 83)
    assert total.dtype == np.float32
    np.testing.assert_allclose(total, expected, rtol=0, atol=4e-7 * np.abs(weights).sum())
    if kind == "ones" and name in PACKED[:5]:
        assert (total == expected).all()  # counts are exact


@pytest.mark.parametrize("symbols", [2, 3])
def test_a_sum_in_the_middle_changes_nothing(symbols):
    d, r = 1001, np.random.default_rng(3)
    rows = r.integers(0, 256, (45, 126), dtype=np.uint8) & np.uint8([255] * 125 + [1])
    minus = rows[::-1] & ~rows
    weights = r.choice([1.0, 0.25, 3.7], 45)
    quiet, asked = VoteAccumulator(d, symbols), VoteAccumulator(d, symbols)
    for k in range(45):
        sides = (rows[k], minus[k])[: symbols - 1]
        quiet.add(*sides, weight=weights[k])
        asked.add(*sides, weight=weights[k])
        asked.sum()
    assert quiet.sum().tobytes() == asked.sum().tobytes()
    assert (VoteAccumulator(d, symbols).sum() == 0).all()


def test_memory_grows_with_the_logarithm_of_the_clients():
    votes, row = VoteAccumulator(512_000), np.full(64_000, 0x55, np.uint8)
    for _ in range(1000):
        votes.add(row)
    assert (votes.sum().reshape(-1, 2) == [1000, -1000]).all()
    assert votes._planes[0].nbytes == 10 * 64_000
    assert votes._total is None


@pytest.mark.parametrize("name", PACKED)
def test_malformed_payloads_are_refused_before_they_are_added(name):
    codec = CODECS[name]
    (good,) = payloads(name, (83,), 1)
    total = codec.accumulator((83,))
    total.add(good, 1.0)
    broken = [
        Array(good.dtype, good.shape, good.stype, good.data[:-1]),
        Array(good.dtype, good.shape, good.stype, good.data + b"\0"),
        Array(good.dtype, good.shape, "fedq.other", good.data),
        Array(good.dtype, good.shape, good.stype, b"\xff" * len(good.data)),
        Array(good.dtype, (1, 83), good.stype, good.data),
    ]
    for payload in broken:
        with pytest.raises(FedqError):
            total.add(payload, 1.0)
    for payload in broken[:-1]:
        with pytest.raises(FedqError):
            codec.open(payload)
    assert (total.sum() == codec.decode(good)).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_of_a_vote_of_a_thousand_clients() -> None:
    """The peak over that after the imports stays within the packed bytes and 64 MB; in a process of its own."""
    code = """
import numpy as np
from fedq.kernels import active as kernels
from fedq.kernels.votes import VoteAccumulator
def peak(): return next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmHWM"))
before = peak()
n, d = 1000, 1_000_000
rows = np.random.default_rng(0).integers(0, 256, (n, d // 8), np.uint8)
votes = VoteAccumulator(d)
for row in rows:
    votes.add(row)
total = votes.sum()
assert (kernels.vote_majority(list(rows), d, None) == np.packbits(total > 0, bitorder="little")).all()
print(before, peak())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (int(n) * 1024 for n in done.stdout.split())
    assert 125e6 < after - before < 125e6 + 64e6
