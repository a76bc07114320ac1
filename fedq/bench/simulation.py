"""Whole simulators on the same job: client updates a second, seconds to start, memory. `fedq bench simulation`.

Each contender is a process of its own; they take turns, and medians of their runs are compared.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import psutil

from fedq.bench.work import JOBS, Job
from fedq.errors import FedqError

OWN = ("fedq", "fedq ray", "fedq binary", "fedq fedvote", "flower", "loop", "two loops")
REFERENCE = "loop"
_LATER = 3  # rounds until everything is warm
_LIMIT = 600.0  # seconds a contender may take


def rows(jobs: Sequence[str], contenders: Mapping[str, Sequence[str]], repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each contender and job; `contenders` are command lines that take a file and a number of rounds."""
    with TemporaryDirectory() as room:
        for job in (JOBS[name] for name in jobs):
            job.save(file := Path(room) / f"{job.name}.npz")
            runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
            for _ in range(repeats):
                for name, command in contenders.items():
                    runs[name].append(_run([*command, str(file), str(job.rounds)], job))
            found = {name: tuple(median(values) for values in zip(*some, strict=True)) for name, some in runs.items()}
            for name, (rate, startup, peak) in found.items():
                of_loop = round(rate / found[REFERENCE][0], 2) if REFERENCE in found else None
                yield {
                    "contender": name, "work": job.name, "updates_per_s": round(rate, 1),
                    "startup_s": round(startup, 2), "peak_mb": round(peak), "ratio_to_loop": of_loop,
                }  # fmt: skip


def own(names: Sequence[str]) -> dict[str, list[str]]:
    """The command lines of contenders that fedq brings."""
    return {name: [sys.executable, "-m", "fedq.bench.contenders", name] for name in names}


def _run(command: Sequence[str], job: Job) -> tuple[float, float, float]:
    """Client updates a second once warm, seconds until the first round's end less one round, peak megabytes."""
    spawned, over, peak = time.time(), Event(), [0.0]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = Thread(target=_watch, args=(process.pid, over, peak), daemon=True)
    watch.start()
    try:
        out, errors = process.communicate(timeout=_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise FedqError("FQ206", f"a contender took more than {_LIMIT:.0f} s: {' '.join(command)}") from error
    finally:
        over.set()
        process.kill()
        process.wait()
        watch.join()
    if process.returncode:
        last = (errors.strip().splitlines() or ["no word"])[-1]
        raise FedqError("FQ206", f"a contender failed: {last}", hint=f"try it alone: {' '.join(command)}")
    ends = json.loads(out.strip().splitlines()[-1])["ends"]
    each = median(b - a for a, b in zip(ends[_LATER - 1 :], ends[_LATER:], strict=False))
    return job.per_round / each, ends[0] - spawned - each, peak[0]


def _watch(pid: int, over: Event, peak: list[float]) -> None:
    """Keep the largest resident memory of a process and all it started, shared pages counted once for each."""
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        while not over.wait(0.25):
            total = 0
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
            peak[0] = max(peak[0], total / 1e6)
