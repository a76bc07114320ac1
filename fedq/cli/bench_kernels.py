"""The kernels against the physical limit of this machine: `fedq bench kernels`.

One thread. Every round runs each contender once, native kernels and their floors beside each other, and medians are
compared, so that a busy machine spoils all of them alike. The floor of a kernel is the time to read its input and to
write its output with non-temporal stores (ordinary ones up to 16 MB, where those are faster), on as many bytes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.cli import bench_rivals
from fedq.errors import FedqError
from fedq.kernels import _library, active
from fedq.rng import Key

_KEY = Key(1, 2)
_CACHED = 16 << 20  # bytes that a cache may hold; beyond them filling with one value beats what any data can do
_ROUNDS, _BUDGET = 9, 1.0  # of a contender: rounds, and seconds after which it is not run again


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


def rows(d: int, n: int, *, others: bool = True) -> Iterator[dict[str, Any]]:
    """The floors, then a row for each kernel, for d weights and n clients; `others` times NumPy and torch too."""
    found = _library.library()
    if found is None:
        raise FedqError("FQ206", "there are no native kernels to measure", hint="install fedq where a C++ compiler is")
    x = np.random.default_rng(0).uniform(-1, 1, d).astype(np.float32)
    room = _aligned(4 * d)
    for job in (*_client(d, x, room), *_server(d, n, room)):
        yield from _measured(job, d, found, room, others=others)


def _client(d: int, x: NDArray[np.float32], room: NDArray[np.uint8]) -> Iterator[Job]:
    """Encoding, decoding, formats."""
    k, nb, out = active, -(-d // 8), room.view(np.float32)[:d]
    bits, planes = np.empty(nb, np.uint8), np.empty((2, nb), np.uint8)
    p = x * np.float32(0.5) + np.float32(0.5)
    they = bench_rivals.Others(d, x)
    native: Any = k
    yield Job("encode_binary", lambda: native.encode_bernoulli(p, _KEY, out=bits), 4 * d, nb, others=they.bernoulli)
    yield Job("encode_sign", lambda: native.encode_sign(x, out=bits), 4 * d, nb, others=they.sign)
    one = np.float32(1)
    yield Job("encode_ternary", lambda: native.encode_ternary(x, one, _KEY, out=planes), 4 * d, 2 * nb)
    yield Job("decode_binary", lambda: native.decode_binary(bits, d, out=out), nb, 4 * d, others=they.decode)
    yield Job("decode_ternary", lambda: native.decode_ternary(planes, d, out=out), 2 * nb, 4 * d)
    small = np.empty(d, np.int8)
    yield Job("decode_ternary_i8", lambda: native.decode_ternary_i8(planes, d, out=small), 2 * nb, d)
    five = k.pack_base3(planes, d)
    yield Job("pack_base3", lambda: native.pack_base3(planes, d, out=five), 2 * nb, five.size)
    yield Job("unpack_base3", lambda: native.unpack_base3(five, d, out=planes), five.size, 2 * nb)
    yield Job("pack_mask_sign", lambda: k.pack_mask_sign(planes, d), 2 * nb, k.pack_mask_sign(planes, d).size)
    for width in (2, 4, 8):
        coded = codes, scale = k.qsgd_encode(x, width, _KEY)
        size = codes.nbytes + scale.nbytes

        def encode(width: int = width, coded: Any = coded) -> object:
            return native.qsgd_encode(x, width, _KEY, out=coded)

        def decode(width: int = width, coded: Any = coded) -> object:
            return native.qsgd_decode(*coded, d, width, out=out)

        yield Job(f"encode_qsgd{width}", encode, 4 * d, size, others=they.qsgd(width))
        yield Job(f"decode_qsgd{width}", decode, size, 4 * d)
    yield Job("topk_1%", lambda: k.topk(x, d // 100), 4 * d, 8 * (d // 100), others=they.topk)


def _server(d: int, n: int, room: NDArray[np.uint8]) -> Iterator[Job]:
    """Votes of n clients."""
    nb, out, native = -(-d // 8), room.view(np.float32)[:d], active
    k: Any = native
    packed = np.random.default_rng(1).integers(0, 256, (n, nb), dtype=np.uint8)
    packed[:, -1] &= 0xFF >> -d % 8
    weights = np.random.default_rng(2).uniform(0, 1, n).astype(np.float32)
    bits, planes = np.empty(nb, np.uint8), np.empty((2, nb), np.uint8)
    counts = np.empty(d, np.uint8 if n <= 255 else np.uint16)
    they = bench_rivals.Votes(d, packed, weights)
    half = n // 2
    yield Job("vote_counts", lambda: k.vote_counts(packed, d, out=counts), n * nb, counts.nbytes, n, n, they.counts)
    yield Job("vote_majority", lambda: k.vote_majority(packed, d, out=bits), n * nb, nb, n, n, they.counts)
    yield Job("vote_weighted", lambda: k.vote_weighted(packed, weights, d, out=out), n * nb, 4 * d, n, n, they.weighted)
    if half:
        pos, neg = packed[:half], packed[half : 2 * half]
        yield Job(
            "vote_plurality", lambda: k.vote_plurality(pos, neg, d, out=planes), 2 * half * nb, 2 * nb, half, half
        )


def _measured(
    job: Job, d: int, found: _library.Library, room: NDArray[np.uint8], *, others: bool
) -> Iterator[dict[str, Any]]:
    source = _aligned(max(job.reads, 4 * d))
    sink = room if room.nbytes >= job.writes else _aligned(job.writes)
    call, read, wrote = found.call, source.ctypes.data, sink.ctypes.data
    contenders: dict[str, Callable[[], object] | None] = {
        "kernel": job.run,
        "read": lambda: call["floor_read"](read, job.reads),
        "stream": lambda: call["floor_write"](wrote, job.writes),
        "fill": lambda: sink[: job.writes].fill(7),
        "memcpy": lambda: np.copyto(room[: 4 * d], source[: 4 * d]),
        "numpy": job.others[0] if others else None,
        "torch": job.others[1] if others else None,
    }
    median = _medians({name: run for name, run in contenders.items() if run is not None})
    best, write = median["kernel"], median["stream"]
    if job.writes <= _CACHED:
        write = min(write, median["fill"])
    floor, side = median["read"] + write, 4 * d * job.vectors
    common = {"d": d, "n": job.clients, "isa": found.isa}

    def row(kernel: str, seconds: float, nbytes: int) -> dict[str, Any]:
        gbps = round(nbytes / seconds / 1e9, 2)
        blank = dict.fromkeys(("floor_gbps", "of_memcpy", "of_floor", "vs_numpy", "vs_torch"))
        return {"kernel": kernel, **common, "median_us": round(seconds * 1e6, 2), "gbps": gbps, **blank}

    yield row(f"floor: read for {job.kernel}", median["read"], job.reads)
    yield row(f"floor: write for {job.kernel}", write, job.writes)
    yield row(job.kernel, best, side) | {
        "floor_gbps": round(side / floor / 1e9, 2),
        "of_memcpy": round(median["memcpy"] * job.vectors / best, 2),
        "of_floor": round(floor / best, 3),
        "vs_numpy": round(median["numpy"] / best, 1) if "numpy" in median else None,
        "vs_torch": round(median["torch"] / best, 1) if "torch" in median else None,
    }


def _medians(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of a call of each, interleaved; calls of microseconds are repeated within a sample."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    repeat = {name: max(1, round(1e-3 / max(_seconds(run, 1), 1e-9))) for name, run in contenders.items()}
    for _ in range(_ROUNDS):
        for name, run in contenders.items():
            if sum(samples[name]) * repeat[name] < _BUDGET:
                samples[name].append(_seconds(run, repeat[name]))
    return {name: float(np.median(some)) for name, some in samples.items()}


def _seconds(run: Callable[[], object], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Bytes that begin at a cache line, and whose pages exist. Not zeros, which some machines move faster."""
    room = np.empty(nbytes + 64, np.uint8)
    room.fill(7)
    start = -room.ctypes.data % 64
    return room[start : start + nbytes]
