"""The jobs that `fedq bench kernels` times: each kernel on d weights, or on the votes of n clients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.bench import rivals
from fedq.kernels import active
from fedq.rng import Key

KEY = Key(1, 2)


@dataclass(frozen=True)
class Job:
    """One kernel: what to run, the bytes it must read and write, how many float32 vectors it stands for."""

    kernel: str
    run: Callable[[], object]
    reads: int
    writes: int
    vectors: int = 1
    clients: int = 1
    others: tuple[Callable[[], object] | None, Callable[[], object] | None] = (None, None)  # NumPy, torch


def client(d: int, x: NDArray[np.float32], room: NDArray[np.uint8]) -> Iterator[Job]:
    """Encoding, decoding, formats."""
    k: Any = active
    nb, out, one = -(-d // 8), room.view(np.float32)[:d], np.float32(1)
    bits, planes, other = np.empty(nb, np.uint8), k.encode_ternary(x, one, KEY), np.empty((2, nb), np.uint8)
    p, they = x * np.float32(0.5) + np.float32(0.5), rivals.Others(d, x)
    yield Job("encode_bernoulli", lambda: k.encode_bernoulli(p, KEY, out=bits), 4 * d, nb, others=they.bernoulli(p))
    yield Job("encode_binary", lambda: k.encode_binary(x, KEY, out=bits), 4 * d, nb, others=they.binary)
    yield Job("encode_sign", lambda: k.encode_sign(x, out=bits), 4 * d, nb, others=they.sign)
    yield Job("decode_binary", lambda: k.decode_binary(bits, d, out=out), nb, 4 * d, others=they.decode)
    they3 = rivals.Trits(d, x, planes)
    yield Job("encode_ternary", lambda: k.encode_ternary(x, one, KEY, out=other), 4 * d, 2 * nb, others=they3.encode)
    yield Job("decode_ternary", lambda: k.decode_ternary(planes, d, out=out), 2 * nb, 4 * d, others=they3.decode)
    small = np.empty(d, np.int8)
    i8 = they3.decode_i8
    yield Job("decode_ternary_i8", lambda: k.decode_ternary_i8(planes, d, out=small), 2 * nb, d, others=i8)
    five = k.pack_base3(planes, d)
    yield Job("pack_base3", lambda: k.pack_base3(planes, d, out=five), 2 * nb, five.size, others=they3.pack)
    whole = lambda: k.pack_base3_i8(small, out=five)  # noqa: E731
    yield Job("pack_base3_i8", whole, d, five.size, others=they3.pack_i8(k.decode_ternary_i8(planes, d, out=small)))
    unpack = they3.unpack(five)
    yield Job("unpack_base3", lambda: k.unpack_base3(five, d, out=other), five.size, 2 * nb, others=unpack)
    yield Job("pack_mask_sign", lambda: k.pack_mask_sign(planes, d), 2 * nb, k.pack_mask_sign(planes, d).size)
    sparse = k.encode_bernoulli(np.full(d, 0.2, np.float32), KEY)
    coded = k.rans_encode(sparse)
    yield Job("rans_encode", lambda: k.rans_encode(sparse), nb, coded.size)
    yield Job("rans_decode", lambda: k.rans_decode(coded, nb), coded.size, nb)
    for width in (2, 4, 8):
        packed = codes, scale = k.qsgd_encode(x, width, KEY)
        size = codes.nbytes + scale.nbytes

        def encode(width: int = width, packed: Any = packed) -> object:
            return k.qsgd_encode(x, width, KEY, out=packed)

        def decode(width: int = width, packed: Any = packed) -> object:
            return k.qsgd_decode(*packed, d, width, out=out)

        yield Job(f"encode_qsgd{width}", encode, 4 * d, size, others=they.qsgd(width))
        yield Job(f"decode_qsgd{width}", decode, size, 4 * d)
    yield Job("topk_1%", lambda: k.topk(x, d // 100), 4 * d, 8 * (d // 100), others=they.topk)


def server(d: int, n: int, room: NDArray[np.uint8]) -> Iterator[Job]:
    """Votes of n clients."""
    k: Any = active
    nb, out = -(-d // 8), room.view(np.float32)[:d]
    packed = np.random.default_rng(1).integers(0, 256, (n, nb), dtype=np.uint8)
    packed[:, -1] &= 0xFF >> -d % 8
    weights = np.random.default_rng(2).uniform(0, 1, n).astype(np.float32)
    bits, planes = np.empty(nb, np.uint8), np.empty((2, nb), np.uint8)
    counts = np.empty(d, np.uint8 if n <= 255 else np.uint16)
    they = rivals.Votes(d, packed, weights)
    half = n // 2
    yield Job("vote_counts", lambda: k.vote_counts(packed, d, out=counts), n * nb, counts.nbytes, n, n, they.counts)
    yield Job("vote_majority", lambda: k.vote_majority(packed, d, out=bits), n * nb, nb, n, n, they.counts)
    yield Job("vote_weighted", lambda: k.vote_weighted(packed, weights, d, out=out), n * nb, 4 * d, n, n, they.weighted)
    pos, neg = packed[:half], packed[half : 2 * half]
    plurality = they.plurality(pos, neg)
    run = lambda: k.vote_plurality(pos, neg, d, out=planes)  # noqa: E731
    yield Job("vote_plurality", run, 2 * half * nb, 2 * nb, half, half, plurality)
