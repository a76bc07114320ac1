"""The kernels against the physical limit of this machine: `fedq bench kernels`.

One thread, and its CPU time. Every round runs each contender once, native kernels and their floors beside each other,
and medians are compared, so that a busy machine spoils all of them alike. The floor of a kernel is the time to read its
input and to write its output with non-temporal stores (ordinary ones up to 16 MB, where those are faster), on as many
bytes.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedq.bench.jobs import Job, client, server
from fedq.errors import FedqError
from fedq.kernels import _library

_CACHED = 16 << 20  # bytes that a cache may hold; beyond them filling with one value beats what any data can do
_ROUNDS, _BUDGET = 9, 1.0  # of a contender: rounds, and seconds after which it is not run again


def rows(d: int, n: int, *, others: bool = True) -> Iterator[dict[str, Any]]:
    """The floors, then a row for each kernel, for d weights and n clients; `others` times NumPy and torch too."""
    found = _library.library()
    if found is None:
        raise FedqError("FQ206", "there are no native kernels to measure", hint="install fedq where a C++ compiler is")
    x, room = _aligned(4 * d).view(np.float32), _aligned(4 * d)
    x[:] = np.random.default_rng(0).uniform(-1, 1, d)
    for job in (*client(d, x, room), *server(d, n, room)):
        yield from _measured(job, d, found, room, others=others)


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
    """Median seconds of a call of each, interleaved; calls of microseconds are repeated within a sample.

    Floors are called as often as the kernel: else they would more often find in a cache what they moved before.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    repeat = {name: max(1, round(1e-3 / max(_seconds(run, 1), 1e-9))) for name, run in contenders.items()}
    repeat |= dict.fromkeys(("read", "stream", "fill"), repeat["kernel"])
    for _ in range(_ROUNDS):
        for name, run in contenders.items():
            if sum(samples[name]) * repeat[name] < _BUDGET:
                samples[name].append(_seconds(run, repeat[name]))
    return {name: float(np.median(some)) for name, some in samples.items()}


def _seconds(run: Callable[[], object], repeat: int) -> float:
    start = time.thread_time()
    for _ in range(repeat):
        run()
    return (time.thread_time() - start) / repeat


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Bytes that begin at a cache line, and whose pages exist. Not zeros, which some machines move faster."""
    room = np.empty(nbytes + 64, np.uint8)
    room.fill(7)
    start = -room.ctypes.data % 64
    return room[start : start + nbytes]
