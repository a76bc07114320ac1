"""The entropy coder: every core writes and reads the bytes of the NumPy specification, and refuses the same ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedq.kernels import _native, _reference_rans
from tests.kernels.cores import ISAS, agree, each_core, same, unaligned

pytestmark = pytest.mark.skipif(not ISAS, reason="no native kernels are installed")


def plane(n, share, seed=0):
    """Bytes whose bits are set at random, a quarter of them at another share."""
    r = np.random.default_rng((n, seed))
    shares = np.where(np.arange(n)[:, None] < n // 4, 0.4, share)
    return np.packbits(r.random((n, 8)) < shares, axis=1, bitorder="little").reshape(-1)


@pytest.mark.parametrize("n", [0, 1, 13, 63, 64, 65, 8191, 8192, 8193, 16385, 65535, 65536, 65537, 73728, 90_001])
def test_entropy_coder(isa, n):
    """All numbers of lanes, at the ends of steps and blocks, from no ones to ones only."""
    for share in (0.0, 0.003, 0.05, 0.3, 0.5, 0.9, 1.0):
        data = plane(n, share)
        coded = agree("rans_encode", data, threads=False, spec=_reference_rans)
        assert same(agree("rans_decode", coded, n, threads=False, spec=_reference_rans), (data, len(coded)))
        assert same(_native.rans_decode(np.append(coded, data[:3]), n), (data, len(coded)))
    constant = np.full(n, 255, np.uint8)
    assert same(_native.rans_decode(_reference_rans.rans_encode(constant), n)[0], constant)


CODED = [(n, plane(n, 0.1), _reference_rans.rans_encode(plane(n, 0.1))) for n in (40, 9000, 66_000)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), some=st.sampled_from(CODED))
def test_codes_that_no_encoder_writes(data, some):
    """Mutated and cut codes: every core decodes the same bytes, or refuses them."""
    n, plain, coded = some
    wrong = coded[: data.draw(st.integers(0, len(coded)) | st.just(len(coded)))].copy()
    at = st.integers(0, len(coded) - 1) | st.integers(0, 300)
    for place, value in data.draw(st.lists(st.tuples(at, st.integers(0, 255)), max_size=3)):
        if place < len(wrong):
            wrong[place] = value
    found, used = _reference_rans.rans_decode(wrong, n)
    assert used == 0 or used <= len(wrong)
    for _ in each_core():
        native = _native.rans_decode(unaligned(wrong), n)
        assert native[1] == used
        assert not used or same(native[0], found)
    assert len(wrong) < len(coded) or not (wrong == coded).all() or same(found, plain)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 700))
def test_noise_is_no_code(noise, n):
    """Anything at all behind a head that passes."""
    blocks, lanes = -(-n // _reference_rans.RANS_BLOCK), _reference_rans.rans_lanes(n)
    head = np.concatenate([np.full(blocks, n * 3, "<u2").view(np.uint8), np.full(lanes, 1 << 20, "<u4").view(np.uint8)])
    wrong = np.concatenate([head, np.frombuffer(noise, np.uint8)])
    used = _reference_rans.rans_decode(wrong, n)[1]
    for _ in each_core():
        assert _native.rans_decode(wrong, n)[1] == used
