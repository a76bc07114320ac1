"""How long the first minutes with fedq take: python benchmarks/journey.py prints a line for each step."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

STEPS = (
    ("help", "--help", 0),
    ("a misspelt strategy is told", "simulate --strategy fedvot", 2),
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
            started = perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "fedq", *words.split()], cwd=folder, capture_output=True, check=False
            )
            assert done.returncode == status, done.stderr.decode()
            print(f"{name:<30} {perf_counter() - started:6.2f} s   fedq {words}", flush=True)
        print(f"{'size of the report':<30} {Path(folder, 'report.html').stat().st_size / 1000:6.0f} kB")


if __name__ == "__main__":
    main()
