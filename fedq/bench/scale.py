"""What a client's update costs as the population and a round's share of it grow. `fedq bench scale`.

Digits, an MLP of 2,410 weights, two steps of 8 a client, sent by one codec; whole rounds, evaluated at the end only.
Where there are more clients than examples, each draws 50 of its own. Every line is a process of its own:
`python -m fedq.bench.scale POPULATION PER_ROUND ROUNDS [KEY=VALUE ...]`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any

from fedq.errors import FedqError

POPULATIONS = (1_000, 10_000, 100_000, 1_000_000)
PER_ROUND = (10, 100, 1_000, 10_000)
FIXED = 100  # clients of a round while the population grows
_WARM = 2  # rounds before the first that counts


def rows(
    populations: Sequence[int], per_round: Sequence[int], settings: Mapping[str, str], rounds: int | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each population with `FIXED` clients a round, then one for each of `per_round` of the largest."""
    largest = max(populations)
    places = [(n, min(n, FIXED)) for n in populations] + [(largest, k) for k in per_round if k <= largest]
    for population, chosen in dict.fromkeys(places):
        yield _row(population, chosen, rounds or max(5, min(30, 20_000 // chosen)), settings)


def _row(population: int, per_round: int, rounds: int, settings: Mapping[str, str]) -> dict[str, Any]:
    words = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "fedq.bench.scale", str(population), str(per_round), str(rounds), *words]
    began = time.time()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()
        why = said[said.rindex("error[") :] if "error[" in said else (said.splitlines() or ["no word"])[-1]
        raise FedqError("FQ206", f"a run of {per_round:,} of {population:,} clients failed: {why}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    ms, cpu_ms = (1e3 * median(found[k]) for k in ("seconds", "cpu"))
    return {
        "population": population, "per_round": per_round,
        "ms_a_round": round(ms, 1), "us_an_update": round(1e3 * ms / per_round),
        "cpu_us_an_update": round(1e3 * cpu_ms / per_round), "startup_s": round(found["first"] - began, 1),
        "mb_warm": found["mb"][0], "mb_end": found["mb"][1], "mb_peak": found["mb"][2],
        "mb_workers": found["mb"][3] or None,
    }  # fmt: skip


def played(population: int, per_round: int, rounds: int, settings: Mapping[str, str]) -> dict[str, Any]:
    """Seconds and processor seconds of each warm round, when the first ended, and resident megabytes."""
    import resource

    from fedq.build import build
    from fedq.config import make_config
    from fedq.settings import parse_set

    last = rounds + _WARM
    base = {
        "strategy": "fedavg", "codec": "binary", "clients": population, "per_round": per_round, "rounds": last,
        "evaluate.every": last, "client.local_steps": 2, "client.batch_size": 8, "model.hidden": [32],
        "model.norm": "none", "data.partition": "iid",
    }  # fmt: skip
    given = {key: s.value for key, s in parse_set([f"{k}={v}" for k, v in settings.items()]).items()}
    simulation = build(make_config(base | given))
    simulation.open()
    seconds, cpu, megabytes, first, before = list[float](), list[float](), 0, 0.0, time.process_time()
    for record in simulation.rounds(simulation.initial, 1, last):
        first = first or time.time()
        now = time.process_time()
        if _WARM < record.round < last:  # the last one is evaluated
            seconds.append(record.seconds)
            cpu.append(now - before)
        elif record.round == _WARM:
            megabytes = _resident()
        before = now
    workers = _children()
    simulation.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"seconds": seconds, "cpu": cpu, "first": first, "mb": [megabytes, _resident(), peak, workers]}


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss / 2**20)


def _children() -> int:
    """What the processes that were started for the run hold, what they share counted once: Ray's."""
    import psutil

    held = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # some end meanwhile
            held += process.memory_full_info().pss
    return int(held / 2**20)


if __name__ == "__main__":
    clients, each, many, *more = sys.argv[1:]
    print(json.dumps(played(int(clients), int(each), int(many), dict(word.split("=", 1) for word in more))))
