"""fedq in processes of their own, and what can be seen of them from outside."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedq.runs import Run

FEDQ = [sys.executable, "-c", "from fedq.cli import main; main()"]


def start(folder: Path, *words: str, **more: Any) -> "subprocess.Popen[str]":
    """A command that runs in `folder`, its stdout and stderr in pipes."""
    pipe = subprocess.PIPE
    return subprocess.Popen([*FEDQ, *words], cwd=folder, stdout=pipe, stderr=pipe, text=True, **more)


def until(true: Callable[[], bool], process: "subprocess.Popen[Any]", seconds: float = 600) -> None:
    """Wait until it is `true`, while the process runs."""
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None:
            assert true(), process.communicate()
            return
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(f"it was not true within {seconds:g} s: {process.communicate()}")
        time.sleep(0.02)


def begun(folder: Path, round_: int, process: "subprocess.Popen[Any]", seconds: float = 600) -> Path:
    """The directory in `folder` of a run that the process plays, when its first `round_` rounds are in it."""

    def found() -> list[Path]:
        runs = [file.parent for file in folder.glob("*/run.json") if any(file.parent.glob("checkpoints/round_*.npz"))]
        return sorted((run for run in runs if len(lines(run)) >= round_), key=lambda run: run.stat().st_ctime)

    until(lambda: bool(found()), process, seconds)
    return found()[-1]


def lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without what depends on the machine's other work."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in Run(run, lock=False).records()]
