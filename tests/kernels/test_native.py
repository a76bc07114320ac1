"""Every native kernel gives the bits of the NumPy specification: any length, alignment, instruction set, threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.errors import FedqError
from fedq.kernels import _library, _native, _reference, _reference_votes, active
from fedq.rng import Key
from tests.kernels.cores import ISAS, agree, each_core, same, unaligned

LENGTHS = [0, 1, 7, 63, 64, 65, 127, 128, 129, 319, 320, 321, 511, 512, 513, 4095, 4096, 4097, 12301]
VOTERS = [1, 2, 4, 5, 7, 8, 9, 15, 16, 17, 255, 256, 1000]
KEY = Key(0x0123456789ABCDEF, 0x7EDCBA9876543210)

pytestmark = pytest.mark.skipif(not ISAS, reason="no native kernels are installed")


def values(d, seed=0, scale=0.6):
    r = np.random.default_rng((d, seed))
    x = (r.standard_normal(d) * scale).astype(np.float32)
    special = np.float32([0, -0.0, 1, -1, 2**-17, -(2**-17), 0.5, -0.5, 1e-40, -1e-40, 2**-24, 1 - 2**-24])
    at = r.random(d) < 0.1
    x[at] = r.choice(special, at.sum())
    return x


def packed(shape_d, rows, seed=0):
    r = np.random.default_rng((shape_d, rows, seed))
    return np.stack([_reference.pack_bits(r.random(shape_d) < r.random()) for _ in range(rows)])


def trits(d, rows, seed=0):
    r = np.random.default_rng((d, rows, seed, 3))
    t = r.choice(np.int8([-1, 0, 1]), (rows, d), p=(0.35, 0.3, 0.35))
    bits = [np.stack([_reference.pack_bits(row == sign) for row in t]) for sign in (1, -1)]
    return bits[0], bits[1]


def encodes(d, seed=0, key=KEY):
    x = values(d, seed)
    unit = np.clip(x, -1, 1)
    agree("encode_bernoulli", np.abs(unit), key)
    agree("encode_binary", unit, key)
    agree("encode_sign", x)
    for scale in (1, 0.7, 3.1):
        agree("encode_ternary", x, np.float32(scale), key)
    agree("encode_ternary_threshold", x, np.float32(0.5))
    agree("largest", x, threads=False)
    agree("moments", x, threads=False)
    for bits in (2, 4, 8):
        codes, scale = agree("qsgd_encode", x * np.float32(1 + seed), bits, key)
        agree("qsgd_decode", codes, scale, d, bits)
        agree("qsgd_valid", codes, bits, threads=False)
        totals = [values(d, 1) for _ in range(3)]
        _reference.qsgd_add_(totals[0], codes, scale, bits, np.float32(0.3))
        _native.qsgd_add_(totals[1], codes, scale, bits, np.float32(0.3))
        _native.qsgd_add_(totals[2], unaligned(codes), unaligned(scale), bits, np.float32(0.3), threads=2)
        assert same(totals[0], totals[1])
        assert same(totals[0], totals[2])


def decodes(d, seed=0):
    bits = packed(d, 1, seed)[0]
    agree("decode_binary", bits, d)
    agree("decode_binary_i8", bits, d)
    planes = np.stack([p[0] for p in trits(d, 1, seed)])
    agree("decode_ternary", planes, d)
    agree("decode_ternary_i8", planes, d)
    agree("disjoint", planes, threads=False)
    five = agree("pack_base3", planes, d)
    assert same(agree("pack_base3_i8", _reference.decode_ternary_i8(planes, d)), five)
    assert same(agree("unpack_base3", five, d), (planes, True))
    agree("count_ones", planes[0], threads=False)
    masked = agree("pack_mask_sign", planes, d, threads=False)
    assert same(agree("unpack_mask_sign", masked, d, threads=False), (planes, True))


def tops(d, seed=0):
    x = values(d, seed)
    for k in {0, 1, d // 100, d // 3, d}:
        agree("topk", x, k, threads=False)
        agree("topk", np.round(x * 2), k, threads=False)  # mostly ties


def votes(d, n, seed=0):
    rows = packed(d, n, seed)
    r = np.random.default_rng((d, n, 1))
    spec = _reference_votes
    agree("vote_counts", rows, d, spec=spec)
    agree("vote_majority", rows, d, spec=spec)
    agree("vote_majority", rows, d, packed(d, 1, 9)[0], spec=spec)
    pos, neg = trits(d, n, seed)
    agree("vote_plurality", pos, neg, d, spec=spec)
    for w in (r.standard_normal(n).astype(np.float32), r.integers(-900, 900, n).astype(np.int32)):
        agree("vote_weighted", rows, w, d, spec=spec)
        assert same(_native.vote_weighted(rows, w, d, signed=True), spec.vote_weighted(rows, w, d, signed=True))
        agree("vote_weighted_ternary", pos, neg, w, d, spec=spec)
    assert same(_native.vote_counts(list(rows), d), spec.vote_counts(rows, d))


def streams(d, n, seed=0):
    """Counting planes and continued float votes, as the streaming accumulator uses them."""
    rows, (pos, neg) = packed(d, n, seed), trits(d, n, seed)
    spec, width = _reference_votes, -(-d // 512) * 64
    depth = int(n).bit_length()
    planes = [np.zeros((depth, width), np.uint8) for _ in range(5)]
    spec.planes_add_(planes[0], rows)
    _native.planes_add_(planes[1], rows)
    for first in range(0, n, 5):
        _native.planes_add_(planes[2], [unaligned(row) for row in rows[first : first + 5]], threads=2)
    assert same(planes[0], planes[1])
    assert same(planes[0], planes[2])
    _native.planes_add_(planes[3], pos)
    _native.planes_add_(planes[4], neg)
    agree("planes_sum", planes[0], n, d, np.float32(0.7), threads=False, spec=spec)
    agree("planes_sum", planes[3], planes[4], d, np.float32(0.7), threads=False, spec=spec)
    w = values(n, 5)
    totals = [np.zeros(d, np.float32) for _ in range(2)]
    for first in range(0, n, 8):
        for total, module in zip(totals, (spec, _native), strict=True):
            module.vote_weighted_add_(total, rows[first : first + 8], w[first : first + 8], signed=True)
    assert same(*totals)
    assert same(totals[0], spec.vote_weighted(rows, w, d, signed=True))
    totals = [np.zeros(d, np.float32) for _ in range(2)]
    for first in range(0, n, 4):
        for total, module in zip(totals, (spec, _native), strict=True):
            four = slice(first, first + 4)
            module.vote_weighted_ternary_add_(total, pos[four], neg[four], w[four])
    assert same(*totals)
    assert same(totals[0], spec.vote_weighted_ternary(pos, neg, w, d))


@pytest.mark.parametrize("d", LENGTHS)
def test_encode(isa, d):
    encodes(d)


@pytest.mark.parametrize("d", LENGTHS)
def test_decode_and_formats(isa, d):
    decodes(d)


@pytest.mark.parametrize("d", [*LENGTHS, 300_001])
def test_topk(isa, d):
    tops(d)


@pytest.mark.parametrize("n", VOTERS)
def test_votes(isa, n):
    votes(577, n)
    streams(577, n)


@pytest.mark.parametrize("d", LENGTHS)
def test_votes_of_every_length(isa, d):
    votes(d, 9)
    streams(d, 9)


def test_votes_across_slabs(isa):
    votes(8 * 4096 * 2 + 4096 + 37, 17)
    streams(8 * 4096 + 4096 + 37, 17)


@settings(max_examples=15, deadline=None)
@given(d=st.integers(0, 9000), seed=st.integers(0, 2**64 - 1), stream=st.integers(0, 2**63 - 1), n=st.integers(1, 40))
def test_anything(d, seed, stream, n):
    for _ in each_core():
        encodes(d, seed % 1000, Key(seed, stream))
        decodes(d, seed % 1000)
        votes(d, n, seed % 1000)


def test_cohorts(isa):
    x, keys = values(7 * 1001).reshape(7, 1001).clip(-1, 1), [Key(5 * k, 2**40 + k) for k in range(7)]
    agree("encode_bernoulli_rows", np.abs(x), keys)
    agree("encode_binary_rows", x, keys)
    agree("encode_ternary_rows", x, keys)


def test_large_outputs_past_the_cache(isa, large):
    """Outputs above 16 MB take non-temporal stores: at any alignment of `out`, and with a tail."""
    d = large["d"]
    room = np.full(d + 32, 7, np.float32)
    for shift in (0, 1, 5, 16):
        out = room[8 + shift : 8 + shift + d]
        for name, (arguments, expected) in large["floats"].items():
            room[:] = 7
            getattr(_native, name)(*arguments, out=out)
            assert out.tobytes() == expected, name
            assert (room[: 8 + shift] == 7).all()
            assert (room[8 + shift + d :] == 7).all()
    assert _native.vote_counts(large["many"], 2 * d).tobytes() == large["counts"]
    bits, wide = large["wide"]
    assert same(_native.decode_binary_i8(bits, wide), _reference.decode_binary_i8(bits, wide))


@pytest.fixture(scope="module")
def large():
    d = 4_200_003
    bits, rows = packed(d, 1)[0], packed(d, 3)
    planes = np.stack([bits & ~rows[1], rows[1] & ~bits])
    coded = _reference.qsgd_encode(values(d), 4, KEY)
    votes = _reference_votes
    calls = {
        "decode_binary": (_reference, (bits, d)),
        "decode_ternary": (_reference, (planes, d)),
        "qsgd_decode": (_reference, (*coded, d, 4)),
        "vote_weighted": (votes, (rows, values(3, 2), d)),
    }
    floats = {name: (a, getattr(module, name)(*a).tobytes()) for name, (module, a) in calls.items()}
    row = packed(2 * d, 1)[0]
    many = [row] * 260
    counts = np.unpackbits(row, count=2 * d, bitorder="little").astype(np.uint16) * np.uint16(260)
    wide = (packed(17_000_001, 1)[0], 17_000_001)
    return {"d": d, "floats": floats, "many": many, "counts": counts.tobytes(), "wide": wide}


def test_ties_of_the_sixteen_bits(isa):
    """Probabilities that equal the drawn 16 bits are decided by the next 24: exactly the specification's way."""
    d = 300_003
    r = _reference.random16(0, d, KEY).astype(np.float32)
    assert min((r == 0).sum(), (r == 65535).sum()) > 1  # where rounding may lead to the next step
    fraction = np.random.default_rng(1).choice(np.float32([0, 0.25, 0.5, 0.75]), d)
    p = (r + fraction) / np.float32(65536)
    coins = _reference.bernoulli(p, KEY)
    assert 0 < coins.sum() < d // 2  # every coordinate is a tie: about 3/8 of them are 1
    agree("encode_bernoulli", p, KEY)
    signed = p * np.random.default_rng(2).choice(np.float32([-1, 1]), d)
    agree("encode_ternary", signed, np.float32(1), KEY)
    signed[::4096] = 1  # a bucket's scale of 1 leaves the values as they are
    for bits in (2, 4, 8):
        levels = 2 ** (bits - 1) - 1
        steps = np.random.default_rng(bits).integers(0, levels, d).astype(np.float32)
        x = np.copysign(np.abs(signed) + steps, signed) / np.float32(levels)
        x[::8192], x[4096::8192] = 1, -1
        agree("qsgd_encode", x, bits, KEY)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_largest_magnitudes_meet_any_coin(isa, bits):
    """A bucket's scale, of either sign, may come out a little above all levels; its neighbours have their own codes."""
    d, rng, levels = 300_003, np.random.default_rng(bits), np.float32(2 ** (bits - 1) - 1)
    r = _reference.random16(0, d, KEY)
    (rare,) = np.nonzero((r < 3) | (r > 65532))
    above = rng.uniform(1, 2, 10_000).astype(np.float32)
    above = above[np.argsort(above * (levels / above))[-1000:]]
    for sign in (1, -1):
        scale = np.repeat(rng.choice(above, d // 4096 + 1), 4096)[:d]
        x = scale * rng.uniform(-1, 1, d).astype(np.float32)
        x[rare] = sign * scale[rare]
        x[::4096] = scale[::4096]
        agree("qsgd_encode", x, bits, KEY)


def test_bytes_that_no_encoder_writes(isa):
    d = 321
    planes = np.stack([p[0] for p in trits(d, 1)])
    five = _reference.pack_base3(planes, d)
    for at, value in ((0, 243), (63, 255), (len(five) - 1, 5)):
        wrong = five.copy()
        wrong[at] = value
        assert _native.unpack_base3(wrong, d)[1] == _reference.unpack_base3(wrong, d)[1] is False
    both = planes.copy()
    both[1] |= both[0]
    assert _native.disjoint(both) is _reference.disjoint(both) is False
    masked = _reference.pack_mask_sign(planes, d)
    padding = masked.copy()
    padding[d // 8] |= 0x80
    for wrong in (masked[:-1], np.append(masked, np.uint8(0)), padding, masked[:3]):
        assert _native.unpack_mask_sign(wrong, d)[1] is False
    for bits in (2, 4, 8):
        codes = np.zeros(9, np.uint8)
        codes[8] = (2**bits - 1) << (8 - bits)
        assert _native.qsgd_valid(codes, bits) is _reference.qsgd_valid(codes, bits) is False


def test_wrong_arrays_never_reach_c(isa):
    x, bits = np.zeros(100, np.float32), np.zeros(13, np.uint8)
    wrong = [
        lambda: _native.encode_sign(x.astype(np.float64)),
        lambda: _native.encode_sign(x[::2]),
        lambda: _native.encode_sign(x.reshape(10, 10)),
        lambda: _native.encode_sign(x, out=np.zeros(12, np.uint8)),
        lambda: _native.decode_binary(bits, 105),
        lambda: _native.decode_binary(bits, 100, out=np.zeros(99, np.float32)),
        lambda: _native.decode_binary(bits, 100, out=unaligned(x)),
        lambda: _native.decode_ternary(np.zeros((2, 12), np.uint8), 100),
        lambda: _native.unpack_base3(bits, 100),
        lambda: _native.qsgd_decode(bits, np.zeros(1, np.float32), 100, 2),
        lambda: _native.qsgd_decode(np.zeros(25, np.uint8), np.zeros(2, np.float32), 100, 2),
        lambda: _native.qsgd_encode(x, 3, KEY),
        lambda: _native.vote_counts(bits.reshape(1, 13), 105),
        lambda: _native.vote_counts([bits, bits[:12]], 100),
        lambda: _native.vote_weighted(bits.reshape(1, 13), np.zeros(2, np.float32), 100),
        lambda: _native.vote_weighted(bits.reshape(1, 13), np.zeros(1, np.float64), 100),
        lambda: _native.vote_weighted(np.stack([bits, bits]), np.int32([2**30, 2**30]), 100),
        lambda: _native.vote_plurality(bits.reshape(1, 13), np.stack([bits, bits]), 100),
        lambda: _native.planes_add_(np.zeros((3, 13), np.uint8), bits.reshape(1, 13)),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match=r"expected|at most|must|codes|rows|planes"):
            call()


def chosen(kernels):
    code = "from fedq.kernels import active; print(active.isa(), active.encode_sign.__module__)"
    environment = {**os.environ, "FEDQ_KERNELS": kernels}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kernels", ["numpy", *ISAS])
def test_the_environment_chooses(kernels):
    module = "_reference" if kernels == "numpy" else "_native"
    assert chosen(kernels).stdout.split() == [kernels, f"fedq.kernels.{module}"]


def test_unknown_kernels_are_an_error():
    assert "did you mean `avx2`" in chosen("avx3").stderr


def test_a_library_that_cannot_be_loaded_is_an_error(monkeypatch, tmp_path):
    broken = tmp_path / "libfedq_kernels.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(_library, "installed", lambda: broken)
    monkeypatch.delenv("FEDQ_KERNELS", raising=False)
    with pytest.raises(FedqError, match="cannot be loaded"):
        _library.library.__wrapped__()
    monkeypatch.setattr(_library, "installed", lambda: None)
    assert _library.library.__wrapped__() is None
    monkeypatch.setenv("FEDQ_KERNELS", "portable")
    with pytest.raises(FedqError, match="no native kernels are installed"):
        _library.library.__wrapped__()


def test_active_is_the_installed_core():
    assert active.isa() in (*ISAS, "numpy")
