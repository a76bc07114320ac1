"""The NumPy specification of every packed kernel: bit order, ternary formats, random bits. Native cores must equal it.

Conventions (docs/kernels.md):

- Bits are LSB first: coordinate `i` is bit `i & 7` of byte `i >> 3`. Padding bits are zero.
- Ternary planes: `pos` and `neg`, disjoint. Base 3: digit `t + 1`; blocks of 320 trits are planar in 64 bytes (byte
  `j` holds trits `j, j + 64, ..., j + 256`, weights 1, 3, 9, 27, 81), the tail puts five neighbours in a byte.
- Random bits: Philox4x32-10 (Salmon et al. 2011), key = 64-bit seed, counter = (64-bit block, 63-bit stream).
  Coordinate `i` takes 16 bits: block `16 * (i >> 7) + (i & 15)`, word `(i & 127) >> 5`, half `(i >> 4) & 1` (0: low).
- Bernoulli(p), exact to 2^-40: `t = trunc(65536 p)`; 1 if `r < t`, or if `r == t` and the next 24 bits are below
  `trunc(2^24 (65536 p - t))`; those 24 bits are the first word `>> 8` at block `i` of the stream with bit 63 set.

All float arithmetic is float32, one rounded operation at a time (no fused multiply-add).
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedq.rng import Key

U8: TypeAlias = NDArray[np.uint8]
I8: TypeAlias = NDArray[np.int8]
U32: TypeAlias = NDArray[np.uint32]
F32: TypeAlias = NDArray[np.float32]

CHUNK = 1 << 16  # coordinates drawn at a time: keeps the temporaries in cache; a multiple of 128
BUCKET = 4096  # QSGD: weights that share one scale
TINY = np.float32(2.0**-100)  # QSGD: a bucket whose largest magnitude is below this is sent as zero
_LOW = np.uint64(0xFFFFFFFF)
_BITS = (2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") - 1.0).astype(
    np.float32
)
_POWERS = np.array([1, 3, 9, 27, 81], dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- random bits


def philox4x32(block: NDArray[np.uint64], stream: int, seed: int) -> U32:
    """Philox4x32-10 at counters `(block, stream)`: four words for each of n blocks, shape [n, 4]."""
    c0, c1 = block & _LOW, block >> np.uint64(32)
    c2, c3 = np.full_like(block, stream & 0xFFFFFFFF), np.full_like(block, stream >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
        )
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random16(start: int, n: int, key: Key) -> NDArray[np.uint32]:
    """The 16 random bits of coordinates `start ... start + n - 1`; `start` is a multiple of 128."""
    tiles = np.arange(start >> 7, (start + n + 127) >> 7, dtype=np.uint64)
    block: NDArray[np.uint64] = np.add.outer(tiles << np.uint64(4), np.arange(16, dtype=np.uint64)).reshape(-1)
    words = philox4x32(block, key.stream, key.seed).reshape(len(tiles), 16, 4).transpose(0, 2, 1)
    return np.stack([words & 0xFFFF, words >> 16], axis=2).reshape(-1)[:n]  # [tile, word, half, block]


def random_words(keys: Sequence[Key], n: int) -> U32:
    """The first n words of each key's stream, [K, n]: word i is word i mod 4 of Philox block i div 4."""
    blocks = np.arange(-(-n // 4), dtype=np.uint64)
    words = [philox4x32(blocks, key.stream, key.seed).reshape(-1)[:n] for key in keys]
    return np.stack(words) if words else np.empty((0, n), np.uint32)


def bernoulli(p: F32, key: Key) -> NDArray[np.bool_]:
    """Independent coins, P(coin i is 1) = p[i]; `p` in [0, 1], shape [d]."""
    coins = np.empty(p.shape[0], dtype=np.bool_)
    for start in range(0, p.shape[0], CHUNK):
        scaled = p[start : start + CHUNK] * np.float32(65536)
        t = scaled.astype(np.uint32)
        r = random16(start, len(scaled), key)
        chunk = r < t
        (ties,) = np.nonzero(r == t)
        if ties.size:
            fraction = ((scaled[ties] - t[ties].astype(np.float32)) * np.float32(2**24)).astype(np.uint32)
            first = philox4x32((ties + start).astype(np.uint64), key.stream | 1 << 63, key.seed)[:, 0]
            chunk[ties] = (first >> np.uint32(8)) < fraction
        coins[start : start + CHUNK] = chunk
    return coins


# ------------------------------------------------------------------------------------------------- one bit a weight


def pack_bits(bits: NDArray[np.bool_]) -> U8:
    """[d] booleans -> ceil(d / 8) bytes."""
    return np.packbits(bits, bitorder="little")


def encode_bernoulli(p: F32, key: Key) -> U8:
    """Probabilities [d] -> packed coins, ceil(d / 8) bytes."""
    return pack_bits(bernoulli(p, key))


def encode_binary(x: F32, key: Key) -> U8:
    """Values [d] in [-1, 1] -> packed coins of P(1) = x / 2 + 1 / 2, ceil(d / 8) bytes."""
    return encode_bernoulli(x * np.float32(0.5) + np.float32(0.5), key)


def encode_bernoulli_rows(p_KD: F32, keys: Sequence[Key]) -> U8:
    """Probabilities of a cohort [K, d], a key for each row -> [K, ceil(d / 8)]."""
    return np.stack([encode_bernoulli(p, key) for p, key in zip(p_KD, keys, strict=True)])


def encode_binary_rows(x_KD: F32, keys: Sequence[Key]) -> U8:
    """Values of a cohort [K, d], a key for each row -> [K, ceil(d / 8)]."""
    return np.stack([encode_binary(x, key) for x, key in zip(x_KD, keys, strict=True)])


def encode_sign(x: F32) -> U8:
    """[d] -> packed `x >= 0` (so the sign of zero is +1), ceil(d / 8) bytes."""
    return pack_bits(x >= 0)


def decode_binary(packed: U8, d: int) -> F32:
    """Packed bits -> [d] of -1 and +1."""
    return np.take(_BITS, packed, axis=0).reshape(-1)[:d]


def decode_binary_i8(packed: U8, d: int) -> I8:
    """Packed bits -> [d] of -1 and +1 as int8."""
    return decode_binary(packed, d).astype(np.int8)


def padding_is_zero(packed: U8, d: int) -> bool:
    """Whether the unused bits of the last byte are zero."""
    return d % 8 == 0 or int(packed[-1]) >> (d % 8) == 0


def count_ones(packed: U8) -> int:
    """The number of set bits."""
    return int(np.bitwise_count(packed).sum())


# ------------------------------------------------------------------------------------------------- ternary


def encode_ternary(x: F32, scale: np.float32, key: Key) -> U8:
    """[d] -> planes [2, ceil(d / 8)]: sign(x) with probability min(1, |x| / scale), else 0."""
    hit = bernoulli(np.minimum(np.abs(x) / scale, np.float32(1)), key)
    return np.stack([pack_bits(hit & (x > 0)), pack_bits(hit & (x < 0))])


def encode_ternary_rows(x_KD: F32, keys: Sequence[Key]) -> U8:
    """Values of a cohort [K, d] at scale 1, a key for each row -> planes [K, 2, ceil(d / 8)]."""
    return np.stack([encode_ternary(x, np.float32(1), key) for x, key in zip(x_KD, keys, strict=True)])


def encode_ternary_threshold(x: F32, threshold: np.float32) -> U8:
    """[d] -> planes [2, ceil(d / 8)]: sign(x) where |x| > threshold, else 0."""
    return np.stack([pack_bits(x > threshold), pack_bits(x < -threshold)])


def disjoint(planes: U8) -> bool:
    """Whether no weight is both +1 and -1."""
    return not (planes[0] & planes[1]).any()


def decode_ternary(planes: U8, d: int) -> F32:
    """Planes [2, ceil(d / 8)] -> [d] of -1, 0, +1."""
    return (decode_binary(planes[0], d) - decode_binary(planes[1], d)) * np.float32(0.5)


def decode_ternary_i8(planes: U8, d: int) -> I8:
    """Planes [2, ceil(d / 8)] -> [d] of -1, 0, +1 as int8."""
    return decode_ternary(planes, d).astype(np.int8)


def pack_base3(planes: U8, d: int) -> U8:
    """Planes -> ceil(d / 5) bytes, 1.6 bits a trit."""
    return pack_base3_i8(decode_ternary_i8(planes, d))


def pack_base3_i8(trits: I8) -> U8:
    """[d] of -1, 0, +1 as int8 -> ceil(d / 5) bytes."""
    d, digits = len(trits), (trits + np.int8(1)).view(np.uint8)
    full = d - d % 320
    blocks = np.einsum("bkj,k->bj", digits[:full].reshape(-1, 5, 64), _POWERS).reshape(-1)
    tail = np.zeros(-(-(d - full) // 5) * 5, dtype=np.uint8)
    tail[: d - full] = digits[full:]
    return np.concatenate([blocks, tail.reshape(-1, 5) @ _POWERS])


def unpack_base3(packed: U8, d: int) -> tuple[U8, bool]:
    """ceil(d / 5) bytes -> planes, and whether the bytes were canonical (all below 243, padding digits zero)."""
    full, n = d - d % 320, d // 320 * 64
    digits = packed[:, None] // _POWERS % np.uint8(3)
    tail = digits[n:].reshape(-1)
    canonical = bool((packed < 243).all()) and not tail[d - full :].any()
    trits = np.concatenate([digits[:n].reshape(-1, 64, 5).transpose(0, 2, 1).reshape(-1), tail[: d - full]])
    return np.stack([pack_bits(trits == 2), pack_bits(trits == 0)]), canonical


def pack_mask_sign(planes: U8, d: int) -> U8:
    """Planes -> the nonzero plane, then a bit for each nonzero, set for +1: ceil(d / 8) + ceil(nonzeros / 8) bytes."""
    mask = planes[0] | planes[1]
    nonzero = np.unpackbits(mask, count=d, bitorder="little").view(np.bool_)
    return np.concatenate([mask, pack_bits(np.unpackbits(planes[0], count=d, bitorder="little")[nonzero] != 0)])


def unpack_mask_sign(packed: U8, d: int) -> tuple[U8, bool]:
    """The reverse -> planes, and whether the bytes were canonical: the right number of them, padding bits zero."""
    mask, signs = packed[: -(-d // 8)], packed[-(-d // 8) :]
    nonzero = np.unpackbits(mask, count=d, bitorder="little").view(np.bool_)
    n = int(nonzero.sum())
    if not padding_is_zero(mask, d) or len(signs) != -(-n // 8) or not padding_is_zero(signs, n):
        return np.zeros((2, len(mask)), np.uint8), False
    positive = np.zeros(d, np.bool_)
    positive[nonzero] = np.unpackbits(signs, count=n, bitorder="little")
    return np.stack([pack_bits(positive), pack_bits(nonzero & ~positive)]), True


# ------------------------------------------------------------------------------------------------- QSGD


def qsgd_encode(x: F32, bits: int, key: Key) -> tuple[U8, F32]:
    """[d] -> codes of 2, 4 or 8 bits (LSB first, offset by the number of levels) and one scale a bucket of 4096.

    With L = 2^(bits - 1) - 1 levels and the bucket's largest magnitude s, x is rounded to a neighbouring multiple of
    s / L, up or down at random, unbiased (Alistarh et al. 2017, section 3.1, with the maximum for the 2-norm).
    """
    d, levels = x.shape[0], np.float32(2 ** (bits - 1) - 1)
    starts = np.arange(0, d, BUCKET)
    scale = np.maximum.reduceat(np.abs(x), starts) if d else np.zeros(0, np.float32)
    scale = np.where(scale < TINY, np.float32(0), scale)
    factor = np.divide(levels, scale, out=np.zeros_like(scale), where=scale > 0)
    y = np.minimum(np.abs(x) * np.repeat(factor, BUCKET)[:d], levels)
    floor = np.trunc(y)
    magnitude = floor + bernoulli(y - floor, key)
    codes = (np.copysign(magnitude, x) + levels).astype(np.uint8)
    return _pack_codes(codes, bits), scale


def qsgd_decode(packed: U8, scale: F32, d: int, bits: int) -> F32:
    """Codes and scales -> [d]: `(code - L) * (s / L)`."""
    levels = np.float32(2 ** (bits - 1) - 1)
    codes = unpack_codes(packed, d, bits).astype(np.float32)
    codes -= levels
    codes *= np.repeat(scale / levels, BUCKET)[:d]
    return codes


def qsgd_add_(total: F32, packed: U8, scale: F32, bits: int, weight: np.float32) -> None:
    """`total` [d] += weight * decoded values, each product rounded before it is added."""
    total += weight * qsgd_decode(packed, scale, len(total), bits)


def qsgd_valid(packed: U8, bits: int) -> bool:
    """Whether no code is 2^bits - 1, which stands for no level."""
    return not (unpack_codes(packed, len(packed) * 8 // bits, bits) == 2**bits - 1).any()


def unpack_codes(packed: U8, d: int, bits: int) -> U8:
    """ceil(d * bits / 8) bytes -> [d] codes; padding codes are dropped."""
    if bits == 8:
        return packed[:d]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (packed[:, None] >> shifts & np.uint8(2**bits - 1)).reshape(-1)[:d]


def _pack_codes(codes: U8, bits: int) -> U8:
    each = 8 // bits
    padded = np.zeros(-(-len(codes) // each) * each, dtype=np.uint8)
    padded[: len(codes)] = codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: U8 = np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1)
    return packed


# ------------------------------------------------------------------------------------------------- all of them


def largest(x: F32) -> float:
    """The largest magnitude of [d]: 0 for none, NaN if there is a NaN."""
    return float(np.abs(x).max(initial=0.0))


def moments(x: F32) -> tuple[float, float]:
    """The sum of [d] and that of its squares, in float64: of every 16th value first, then by halves."""
    rows = np.zeros((-(-x.size // 16), 16))
    rows.reshape(-1)[: x.size] = x
    lanes = np.stack([rows.sum(0), np.square(rows).sum(0)])
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return float(lanes[0, 0]), float(lanes[1, 0])


def topk(x: F32, k: int) -> tuple[U32, F32]:
    """Indices, ascending, and values of the k largest magnitudes of [d]; of equal ones those of the lowest index."""
    magnitude = np.ascontiguousarray(x).view(np.uint32) & np.uint32(0x7FFFFFFF)
    index = np.sort(np.argsort(~magnitude, kind="stable")[:k]).astype(np.uint32)
    return index, x[index]
