"""The NumPy specification of the entropy coder: packed bits in the room that their density asks for.

Asymmetric numeral systems (Duda 2013, arXiv:1311.2540; the range variant) over bytes. Bits of one density are as likely
in any order, so bytes of k ones share one frequency, and the number of ones of each 8192 bytes is the whole model:

- `counts`: the ones of each block of 8192 bytes (uint16, 65536 is sent as 65535);
- `states`: the coder's last states (uint32), one for each lane; byte i belongs to lane i mod lanes;
- `words`: what the states shed (uint16), in the order in which a decoder of byte 0, 1, ... takes them back.

With c ones in m bits, p = floor(65536 c / m) and q = 65536 - p: t = 2^32 is multiplied by p, k times, and by q, 8 - k
times, shifted right by 16 after each; bytes of k ones have the frequency max(1, t >> 16) of 65536, and what is missing
to 65536 goes to the byte 0 (to 255 if p >= 32768). Bytes stand in order of their ones, then of their value.
"""

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._reference import U8

RANS_BLOCK = 8192  # bytes that share a density
_U64 = NDArray[np.uint64]
_LOW = 1 << 16  # states stay in [2^16, 2^32)
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.int64)  # [256]
_ORDER = np.argsort(_ONES, kind="stable").astype(np.uint8)  # rank -> byte


def rans_lanes(n: int) -> int:
    """States that code `n` bytes in turn: each costs three bytes or so, and lets a machine do more at once."""
    return 64 if n >= 1 << 16 else 8 if n >= 1 << 13 else 1


def rans_encode(data: U8) -> U8:
    """Packed bits -> their code."""
    n, lanes = len(data), rans_lanes(len(data))
    counts = np.minimum(_ones(data), 65535)
    states, words = np.full(lanes, _LOW, np.uint64), [np.zeros(0, np.uint64)]
    for block in reversed(range(len(counts))):
        start, frequency = _model(int(counts[block]), _bits(n, block))
        for i in reversed(range(block * RANS_BLOCK, min(n, (block + 1) * RANS_BLOCK), lanes)):
            some = data[i : i + lanes]
            f, x = frequency[some], states[: len(some)]
            full = x >= f << np.uint64(16)
            words.append(x[full] & np.uint64(0xFFFF))
            x[full] >>= np.uint64(16)
            x[:] = (x // f << np.uint64(16)) + x % f + start[some]
    parts = counts.astype("<u2"), states.astype("<u4"), np.concatenate(words[::-1]).astype("<u2")
    return np.concatenate([np.frombuffer(part.tobytes(), np.uint8) for part in parts])


def rans_decode(coded: U8, n: int) -> tuple[U8, int]:
    """The `n` bytes whose code stands at the beginning of `coded`, and its length; 0 if no encoder writes it."""
    data, lanes, blocks = np.zeros(n, np.uint8), rans_lanes(n), -(-n // RANS_BLOCK)
    head = 2 * blocks + 4 * lanes
    if len(coded) < head:
        return data, 0
    counts = _numbers(coded[: 2 * blocks], "<u2").astype(np.int64)
    states, words = _numbers(coded[2 * blocks : head], "<u4"), _numbers(coded[head:], "<u2")
    if (states < _LOW).any() or any(counts[block] > _bits(n, block) for block in range(blocks)):
        return data, 0
    at = 0
    for block in range(blocks):
        start, frequency = _model(int(counts[block]), _bits(n, block))
        ranked = start[_ORDER]
        for i in range(block * RANS_BLOCK, min(n, (block + 1) * RANS_BLOCK), lanes):
            x = states[: min(lanes, n - i)]
            slot = x & np.uint64(0xFFFF)
            some = data[i : i + lanes] = _ORDER[np.searchsorted(ranked, slot, side="right") - 1]
            x[:] = frequency[some] * (x >> np.uint64(16)) + slot - start[some]
            (short,) = np.nonzero(x < _LOW)
            if at + len(short) > len(words):
                return data, 0
            x[short] = x[short] << np.uint64(16) | words[at : at + len(short)]
            at += len(short)
    canonical = (states == _LOW).all() and (np.minimum(_ones(data), 65535) == counts).all()
    return data, head + 2 * at if canonical else 0


def _numbers(part: U8, kind: str) -> _U64:
    whole = len(part) // np.dtype(kind).itemsize * np.dtype(kind).itemsize
    return np.frombuffer(part[:whole].tobytes(), kind).astype(np.uint64)


def _bits(n: int, block: int) -> int:
    return 8 * min(RANS_BLOCK, n - block * RANS_BLOCK)


def _ones(data: U8) -> NDArray[np.int64]:
    """The ones of each block."""
    if not len(data):
        return np.zeros(0, np.int64)
    return np.add.reduceat(_ONES[data], np.arange(0, len(data), RANS_BLOCK))


def _model(ones: int, bits: int) -> tuple[_U64, _U64]:
    """For each byte the beginning of its part of [0, 65536), and the part's length: its frequency."""
    p, each = 65536 * ones // bits, np.zeros(9, np.int64)
    for k in range(9):
        t = 1 << 32
        for factor in [p] * k + [65536 - p] * (8 - k):
            t = t * factor >> 16
        each[k] = max(1, t >> 16)
    frequency = each[_ONES]
    frequency[0 if p < 32768 else 255] += 65536 - frequency.sum()
    start = np.zeros(256, np.int64)
    start[_ORDER[1:]] = np.cumsum(frequency[_ORDER])[:-1]
    return start.astype(np.uint64), frequency.astype(np.uint64)
