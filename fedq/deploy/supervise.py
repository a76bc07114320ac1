"""Follow a deployed run: submit it, show its lines, and submit it again where the server died under it.

A killed SuperLink ends its Flower run, even with a database. The run directory outlives both: it holds every round that
was accepted, so a new Flower run goes on from its last checkpoint.
"""

import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from fedq.deploy import lines
from fedq.deploy.layout import Deployment
from fedq.errors import FedqError
from fedq.runs import Run, open_run

POLL = 0.5  # seconds between looks at the run directory
LOOK = 15.0  # seconds after which Flower is asked what became of a run that does not begin
MOST_FRUITLESS = 3  # Flower runs in a row that end without a round


def submit(of: Deployment, run: Run, *, timeout: float, wait: float) -> int:
    """Start a Flower run that plays `run` from its last checkpoint; returns Flower's number of it."""
    import tomli_w

    with _held(run.path) as held:
        identity = held.about.get("deploy_id") or secrets.token_hex(8)
        held.update(status="submitted", deployed=True, deploy_id=identity)
    told = {
        "fedq-config": (run.path / "run.toml").read_text(encoding="utf-8"),
        "fedq-run": str(run.path.resolve()),
        "fedq-id": f"{run.path.name}-{identity}",
        "fedq-sites": " ".join(of.sites),
        "fedq-timeout": timeout,
        "fedq-wait": wait,
    }
    settings = of.home / f"{run.path.name}.toml"
    settings.write_text(tomli_w.dumps(told), encoding="utf-8")
    return int(lines.asked(lines.run(of, settings), of)["run-id"])


@contextmanager
def _held(path: Path) -> Iterator[Run]:
    """The run under its lock. FedqError FQ204 where a server process keeps it that is not ending."""
    end = monotonic() + LOOK
    while True:
        try:
            run = open_run(path, lock=True)
            break
        except FedqError:
            if monotonic() > end:
                raise
            sleep(POLL)
    try:
        yield run
    finally:
        run.release()


def follow(
    of: Deployment, path: Path, *, timeout: float, wait: float, patience: float, say: Any
) -> Generator[dict[str, Any]]:
    """Play a run on the deployment; yields the lines of its metrics.jsonl as they come.

    FedqError as the server's round loop raised it, FQ208 when `patience` seconds pass without a server, FQ207 when it
    says no or Flower runs end without a round. KeyboardInterrupt where somebody stopped the Flower run. Whoever leaves
    before the end, or closes this, stops it.
    """
    run, fruitless = open_run(path), 0
    shown = len(run.records())
    while True:
        before = shown
        run_id = _submitted(of, run, timeout=timeout, wait=wait, patience=patience, say=say)
        say(f"Flower run {run_id}")
        ended, since = "", monotonic()
        with _stopping(of, run_id):
            while not ended:
                ended = _ended(of, run, run_id, since)
                for line in run.records()[shown:]:
                    shown += 1
                    yield line
                sleep(0 if ended else POLL)
        if ended == "done":
            return
        if ended == "failed":
            raise _told(run)
        if ended == "stopped":
            raise KeyboardInterrupt
        fruitless = fruitless + 1 if shown == before else 0
        if fruitless >= MOST_FRUITLESS:
            raise FedqError("FQ207", f"{fruitless} Flower runs ended without a round: {ended}", where=str(path),
                            hint=f"{lines.HINT}; then: fedq deploy run {path}")  # fmt: skip
        say(f"the server lost the run after round {shown} ({ended}); going on from the last checkpoint")


def _submitted(of: Deployment, run: Run, *, timeout: float, wait: float, patience: float, say: Any) -> int:
    """Submit, and wait for a server that does not answer; whatever else is wrong is told at once."""
    end, told = monotonic() + patience, False
    while True:
        try:
            return submit(of, run, timeout=timeout, wait=wait)
        except FedqError as error:
            if error.code == "FQ204":  # not ours to write to
                raise
            if error.code != "FQ208" or monotonic() > end:
                with _held(run.path) as held:
                    held.update(status="failed", error=str(error))
                error.hint = f"{error.hint}; then: fedq deploy run {run.path} --dir {of.folder}"
                raise
            if not told:
                say(f"waiting for the server: {error.message}")
            told = True
            sleep(2)


def left(of: Deployment, path: Path) -> str:
    """Enter in the run directory that somebody stopped the run; returns what to tell them."""
    try:
        with _held(path) as run:
            if run.status != "done":
                run.update(status="interrupted")
    except FedqError:
        return f"the server was not told, and plays on; stop it: fedq deploy stop --dir {of.folder}"
    return f"stopped; the rounds before are saved\ngo on: fedq deploy run {path} --dir {of.folder}"


@contextmanager
def _stopping(of: Deployment, run_id: int) -> Iterator[None]:
    """Within it, an interrupt stops the Flower run, also one that has not begun."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        with suppress(FedqError):
            lines.asked(lines.stop(run_id), of)
        raise


def _ended(of: Deployment, run: Run, run_id: int, since: float) -> str:
    """How a Flower run ended: done, failed (by the round loop), stopped, or else; nothing while it goes on."""
    status = run.status
    if status in ("done", "failed"):
        return status
    if status == "running" or (status == "submitted" and monotonic() - since < LOOK):
        return ""
    try:
        found = lines.asked(lines.runs(run_id), of)["runs"][0]
    except FedqError as error:
        return error.message
    said = str(found["status"])
    if said == "finished:stopped":
        return "stopped"
    if status == "submitted":
        return f"{said}: {found.get('status-details', '')}" if said.startswith("finished") else ""
    return "its process is gone"


def _told(run: Run) -> FedqError:
    """The error that the round loop left in run.json."""
    said = str(run.about.get("error", "no reason given"))
    code = said[6:11] if said.startswith("error[FQ") else "FQ305"
    first = said.split("\n", maxsplit=1)[0].split(": ", 1)[-1]
    hint = f"more is in {run.path / 'log.txt'}; go on with: fedq deploy run {run.path}"
    return FedqError(code, first, where=str(run.path), hint=hint)
