"""How far `ternary_entropy` is from the entropy of what it sends: python benchmarks/entropy.py prints a table.

Percent of the payload, form byte and all heads included, above the entropy of the symbols that were drawn; last line:
milliseconds, best of five, to code and decode the plane of nonzeros. FEDQ_KERNELS=avx2 or portable times another core.
"""

from collections.abc import Callable
from time import process_time
from typing import Any

import numpy as np

from fedq.kernels import CODECS, active
from fedq.rng import Key, rng

ZEROS = (0.34, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SIZES = (10_000, 100_000, 1_000_000, 25_000_000)


def above(d: int, zero: float) -> float:
    """Percent above the entropy of `d` symbols, zero with probability `zero`, else a fair sign."""
    random = rng(0, "entropy", d, str(zero))
    x = np.where(random.random(d, np.float32) < zero, 0, random.integers(0, 2, d, np.int8) * 2 - 1).astype(np.float32)
    share = np.array([np.mean(x == value) for value in (-1, 0, 1)])
    bits = -d * float(np.sum(share * np.log2(share)))
    return 100 * (8 * len(CODECS["ternary_entropy"].encode(x, key=Key(0, 0)).data) / bits - 1)


def milliseconds(job: Callable[..., Any], *given: Any) -> float:
    """The least processor time of five."""
    times = []
    for _ in range(5):
        started = process_time()
        job(*given)
        times.append(1e3 * (process_time() - started))
    return min(times)


if __name__ == "__main__":
    print("weights     " + "".join(f"{zero:>7}" for zero in ZEROS))
    for d in SIZES:
        print(f"{d:>12,}" + "".join(f"{above(d, zero):7.2f}" for zero in ZEROS), flush=True)
    for zero in (0.5, 0.99):
        plane = np.packbits(rng(0, "plane").random(SIZES[-1], np.float32) >= zero)
        coded = active.rans_encode(plane)
        there = milliseconds(active.rans_encode, plane)
        back = milliseconds(active.rans_decode, coded, len(plane))
        print(f"{active.isa()}: the plane of {SIZES[-1]:,}, {zero:.0%} zeros: {there:.1f} ms there, {back:.1f} ms back")
