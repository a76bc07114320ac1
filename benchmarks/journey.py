"""How long the first minutes with fedq take: python benchmarks/journey.py prints a line for each step.

Seconds on the clock, then of the processor: the machine may be busy.
"""

import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
from time import perf_counter

BROKEN = """
from fedq.cli import main
from fedq.clients.trainer import Trainer
def fail(*_): raise ValueError("a mistake of mine")
Trainer._trained = fail
main()
"""
STEPS = (
    ("help", "--help", 0),
    ("a misspelt strategy is told", "simulate --strategy fedvot", 2),
    ("a client that raises", "simulate --strategy fedavg", 5),
    ("show strategies", "show strategies", 0),
    ("doctor", "doctor", 0),
    ("a first picture", "demo", 0),
    ("a run of ten rounds", "simulate --strategy fedvote --rounds 10 --quiet", 0),
    ("compare", "compare runs/demo", 0),
    ("report", "report runs/demo", 0),
)


def main() -> None:
    """Each step in a process of its own, in an empty folder."""
    with TemporaryDirectory() as folder:
        for name, words, status in STEPS:
            started, before = perf_counter(), cpu()
            how = ["-c", BROKEN] if status == 5 else ["-m", "fedq"]
            done = subprocess.run([sys.executable, *how, *words.split()], cwd=folder, capture_output=True, check=False)
            assert done.returncode == status, done.stderr.decode()
            print(f"{name:<30} {perf_counter() - started:6.2f} s {cpu() - before:6.2f} s   fedq {words}", flush=True)
        print(f"{'size of the report':<30} {Path(folder, 'report.html').stat().st_size / 1000:6.0f} kB")


def cpu() -> float:
    """Processor seconds of the processes that have ended."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
