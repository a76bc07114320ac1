"""Runs as processes of their own, some at a time: a failure stops no other, Ctrl-C lets each finish its round."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from shutil import get_terminal_size
from tempfile import TemporaryFile
from time import sleep
from typing import IO, Any, TextIO

from fedq.cli.signals import heard
from fedq.errors import EXIT_INTERRUPTED
from fedq.report.units import duration, share, size
from fedq.runs import Run
from fedq.sweep import Point

POLL = 0.05  # seconds


@dataclass
class Job:
    """A point of a sweep and how far it is: to do, done, failed, interrupted or in use."""

    point: Point
    words: tuple[str, ...]
    state: str = "to do"
    totals: dict[str, Any] = field(default_factory=dict)
    said: str = ""

    @classmethod
    def of(cls, point: Point, run: Run | None, jobs: int) -> "Job":
        """What is left to do for a point, of which `run` is begun already if there is one, where `jobs` share cores."""
        if run is None:
            return cls(point, (*point.words, *_threads(point, jobs)))
        state = {"done": "done", "running": "in use"}.get(run.status, "to do")
        return cls(point, ("resume", str(run.path)), state, run.totals())

    @property
    def command(self) -> str:
        """The command, to paste into a shell."""
        return shlex.join(("fedq", *self.words))

    def line(self) -> str:
        """How it ended, in one line."""
        name = self.point.name or "the config as it is"
        if self.state != "done":
            return f"{self.state:<11} {name}" + (f"   {self.said}" if self.said else "")
        t = self.totals
        sums = f"{size(t['up_bytes'] or 0)} up   {duration(t['seconds'] or 0)}"
        return f"{self.state:<11} {name}   accuracy {share(t['accuracy'])}   {sums}   {t['run_dir']}"

    def as_dict(self) -> dict[str, Any]:
        """The job as JSON values."""
        kept = {k: self.totals.get(k) for k in ("run_dir", "accuracy", "up_bytes", "down_bytes", "rounds", "seconds")}
        error = {"error": self.said} if self.said else {}
        return {"varied": self.point.varied, "state": self.state, "command": self.command, **kept, **error}


def play_jobs(todo: Sequence[Job], jobs: int, lines: TextIO) -> bool:
    """Play `todo`, `jobs` at a time, a line each as it ends; returns whether somebody stopped it."""
    waiting, running, ended = list(todo), list[_Process](), 0
    status = _Status()
    with _forwarding(running) as asked, _stopping(running):
        while running or (waiting and not asked):
            while waiting and len(running) < jobs and not asked:
                running.append(_Process(waiting.pop(0)))
                status.show(running)
            for process in [p for p in running if p.ended()]:
                running.remove(process)
                ended += 1
                width = len(str(len(todo)))
                status.show([])
                print(f"[{ended:>{width}}/{len(todo)}]  {process.job.line()}", file=lines, flush=True)
                status.show(running)
            sleep(POLL)
    return bool(asked)


class _Status:
    """What runs now, on the last line of a terminal; nothing elsewhere."""

    def show(self, running: "Sequence[_Process]") -> None:
        """Say what runs, in place of what was said before; nothing if nothing does."""
        if sys.stderr.isatty():
            names = ", ".join(process.job.point.name or "the config as it is" for process in running)
            width = get_terminal_size().columns - 1
            text = f"running: {names}" if names else ""
            print(f"\r{text[:width]:<{width}}", end="\r", file=sys.stderr, flush=True)


class _Process:
    """A job's process, in a group of its own: a terminal's Ctrl-C reaches it through us only, and once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._out, self._err = TemporaryFile(), TemporaryFile()  # noqa: SIM115
        words = [sys.executable, "-m", "fedq", *job.words, "--json", "--quiet"]
        self.popen = subprocess.Popen(words, stdout=self._out, stderr=self._err, process_group=0)

    def ended(self) -> bool:
        status = self.popen.poll()
        if status is None:
            return False
        out, err = _read(self._out), _read(self._err)
        if status == 0:
            self.job.state, self.job.totals = "done", json.loads(out)
        else:
            self.job.state = "interrupted" if status == EXIT_INTERRUPTED else "failed"
            first = err.strip().splitlines()
            self.job.said = first[0] if first else f"ended by signal {-status}" if status < 0 else ""
        return True


def _read(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")


def _threads(point: Point, jobs: int) -> tuple[str, ...]:
    """Flags so that all jobs together have a thread a core, which never changes a result; none on Ray."""
    if jobs == 1 or point.config.top.workers is not None or point.config.engine == "ray":
        return ()
    return "--engine", "local", "--workers", str(max(1, (os.cpu_count() or 1) // jobs))


@contextmanager
def _stopping(running: Sequence[_Process]) -> Iterator[None]:
    """Nothing runs on when an error ends the sweep: every run finishes its round first."""
    try:
        yield
    finally:
        for process in running:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGINT)
        for process in running:
            process.popen.wait()


@contextmanager
def _forwarding(running: Sequence[_Process]) -> Iterator[list[int]]:
    """A list that fills with the signals that came to end us; each is passed on to all that run."""
    asked: list[int] = []

    def handle(number: int, _: object) -> None:
        asked.append(number)
        if len(asked) == 1:
            print("every run finishes its round; once more stops now", file=sys.stderr)
        for process in running:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGINT)

    with heard(handle):
        yield asked
