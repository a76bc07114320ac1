"""The NumPy specification: known answers, layouts written out by hand, and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedq.errors import FedqError
from fedq.kernels import CODECS, records
from fedq.kernels import _reference as kernels
from fedq.rng import Key, key, rng

KEY = Key(0x0123456789ABCDEF, 0x1122334455667788)
unit_arrays = hnp.arrays(np.float32, st.integers(0, 700), elements=st.floats(-1, 1, width=32))


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [  # Random123's known answers for philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], seed: tuple[int, int], words: tuple[int, ...]) -> None:
    block = np.array([counter[1] << 32 | counter[0]], np.uint64)
    got = kernels.philox4x32(block, counter[3] << 32 | counter[2], seed[1] << 32 | seed[0])
    assert tuple(int(w) for w in got[0]) == words


def test_random16_layout() -> None:
    bits = kernels.random16(0, 1000, KEY)
    for i in (0, 1, 15, 16, 31, 32, 100, 127, 128, 999):
        j = i & 127
        block = 16 * (i >> 7) + (j & 15)
        word = int(kernels.philox4x32(np.array([block], np.uint64), KEY.stream, KEY.seed)[0, j >> 5])
        assert bits[i] == (word >> 16 * ((j >> 4) & 1)) & 0xFFFF
    assert (kernels.random16(256, 100, KEY) == bits[256:356]).all()


def test_bernoulli_at_the_ends_and_between() -> None:
    n = 200_000
    assert not kernels.bernoulli(np.zeros(n, np.float32), KEY).any()
    assert kernels.bernoulli(np.ones(n, np.float32), KEY).all()
    for p in (1e-4, 0.3, 0.5, 0.9999):
        share = kernels.bernoulli(np.full(n, p, np.float32), KEY).mean()
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_bernoulli_ties_are_refined() -> None:
    """With p below 2^-16 only ties can hit; their rate is p."""
    n, p = 4_000_000, np.float32(2.0**-18)
    hits = int(kernels.bernoulli(np.full(n, p, np.float32), KEY).sum())
    assert abs(hits - n * p) < 5 * np.sqrt(n * p)


def test_bits_are_lsb_first() -> None:
    assert list(kernels.encode_sign(np.array([1, -1, -1, 0, -2, 3, -1, -1, 5], np.float32))) == [0b00101001, 1]


def test_base3_layout() -> None:
    """320 trits planar: byte j holds trits j, j + 64, ..., weights 1, 3, 9, 27, 81; in the tail five neighbours."""
    trits = rng(0, "trits").integers(-1, 2, 327)
    planes = np.stack([kernels.pack_bits(trits == 1), kernels.pack_bits(trits == -1)])
    wire = kernels.pack_base3(planes, 327)
    digits = trits + 1
    assert len(wire) == 66
    assert [int(b) for b in wire[:64]] == [sum(3**k * digits[j + 64 * k] for k in range(5)) for j in range(64)]
    assert int(wire[64]) == sum(3**k * digits[320 + k] for k in range(5))
    assert int(wire[65]) == digits[325] + 3 * digits[326]
    back, canonical = kernels.unpack_base3(wire, 327)
    assert canonical
    assert (back == planes).all()


@given(unit_arrays)
def test_ternary_formats_agree(x: np.ndarray) -> None:
    planes, base3 = (CODECS[n].encode(x, key=KEY) for n in ("ternary", "ternary_base3"))
    assert (CODECS["ternary"].decode(planes) == CODECS["ternary_base3"].decode(base3)).all()


@given(unit_arrays)
def test_signs_survive_where_certain(x: np.ndarray) -> None:
    for name in ("binary", "ternary", "ternary_base3"):
        y = CODECS[name].decode(CODECS[name].encode(np.sign(x), key=KEY))
        certain = (x != 0) | (name != "binary")
        assert (y[certain] == np.sign(x)[certain]).all()


@given(
    hnp.arrays(np.float32, st.integers(1, 9000), elements=st.floats(-(2.0**60), 2.0**60, width=32)),
    st.sampled_from([2, 4, 8]),
)
@settings(max_examples=60)
def test_qsgd_rounds_to_a_neighbour(x: np.ndarray, bits: int) -> None:
    """|decoded - x| is below one level of the bucket, the largest magnitude is exact, signs never flip."""
    codec = CODECS[f"qsgd{bits}"]
    y = codec.decode(codec.encode(x, key=KEY))
    for start in range(0, len(x), kernels.BUCKET):
        a, b = (
            x[start : start + kernels.BUCKET].astype(np.float64),
            y[start : start + kernels.BUCKET].astype(np.float64),
        )
        top = np.abs(a).max()
        if top < kernels.TINY:
            assert not b.any()
            continue
        assert (np.abs(a - b) <= top / (2 ** (bits - 1) - 1) * (1 + 1e-5)).all()
        assert (a * b >= 0).all()
        np.testing.assert_allclose(np.abs(b).max(), top, rtol=1e-6)


def test_encode_depends_on_every_part_of_the_key() -> None:
    x = np.zeros(512, np.float32)
    places = [
        key(0, "up", 1, 2, "w"),
        key(1, "up", 1, 2, "w"),
        key(0, "up", 2, 2, "w"),
        key(0, "up", 1, 3, "w"),
        key(0, "up", 1, 2, "b"),
    ]
    assert len({CODECS["binary"].encode(x, key=k).data for k in places}) == len(places)


def test_streams_are_the_same_everywhere() -> None:
    """Hashes of names, pinned: a change would break the resumption of every stored run."""
    assert key(5, "up", 1, 2, "conv.weight") == Key(5, 3321810964738812781)
    assert rng(7, "batch", 1, 2).integers(2**32, size=2).tolist() == [499419514, 4023990921]


def test_padding_and_impossible_codes_are_refused() -> None:
    from flwr.app import Array

    bad = {
        "binary": bytes([0xFF]),
        "ternary": bytes([1, 1]),
        "ternary_base3": bytes([243]),
        "qsgd2": bytes([0b11]) + np.float32(1).tobytes(),
        "qsgd4": bytes([0x0F]) + np.float32(1).tobytes(),
        "qsgd8": bytes([255]) + np.float32(1).tobytes(),
        "float32": np.float32(np.nan).tobytes(),
        "float16": np.float16(np.inf).tobytes(),
    }
    for name, data in bad.items():
        with pytest.raises(FedqError) as refused:
            CODECS[name].decode(Array("float32", (1,), f"fedq.{name}", data))
        assert refused.value.code == "FQ302"
    with pytest.raises(FedqError):
        CODECS["qsgd4"].decode(Array("float32", (2,), "fedq.qsgd4", bytes([0]) + np.float32(-1).tobytes()))


@given(
    st.sampled_from(sorted(CODECS)),
    st.integers(0, 300),
    st.binary(max_size=400),
    st.sampled_from(["float32", "int8", ""]),
)
def test_any_bytes_decode_or_are_refused(name: str, d: int, data: bytes, dtype: str) -> None:
    from flwr.app import Array

    try:
        y = records.decode(Array(dtype, (d,), f"fedq.{name}", data))
    except FedqError as error:
        assert error.code == "FQ302"
    else:
        assert y.shape == (d,)
        assert np.isfinite(y).all()
