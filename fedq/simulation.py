"""From a config to a finished run: parts are built, rounds are played, every one is saved before it is shown."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from fedq.build import Simulation, build
from fedq.config import RunConfig, make_config, resolve
from fedq.errors import FedqError, reason
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.rounds import RoundRecord
from fedq.runs import Run, open_run, provenance
from fedq.settings import read_toml
from fedq.until import Until

log = logging.getLogger("fedq")


def begin(config: RunConfig, out: str | Path) -> tuple[Run, Simulation]:
    """A new run directory and the parts to play it; the initial model is its first checkpoint."""
    simulation = build(config)
    asked, config = config.hash, simulation.config
    top = config.top
    name = f"{config.strategy.name}-{top.data.name.replace('/', '--')}-s{top.seed}-{config.hash[:6]}"
    about = {"config_hash": config.hash, "data_sha256": simulation.data.checksum}
    if asked != config.hash:  # some data say themselves how many clients there are
        about["asked_hash"] = asked
    if simulation.promise:
        about["privacy"] = simulation.promise
    run = Run.create(out, name, config.to_toml(), about)
    run.checkpoint(0, simulation.initial, simulation.state())
    return run, simulation


def reopen(
    path: str | Path, *, rounds: int | None = None, deployed: bool = False, **where: Any
) -> tuple[Run, Simulation]:
    """A run that did not finish, or that shall have more `rounds`, and the parts to play it on.

    `where` are the keys `engine`, `workers` and `ray_address`, if it shall go on elsewhere; `deployed` whether it goes
    on at its sites.

    FedqError FQ203 or FQ204 if there is none or it is in use, FQ205 if it is finished, its data have changed, or what
    its clients train on and remember is at the sites of a deployment, or in a simulation's checkpoint.
    """
    run = open_run(path, lock=True)
    try:
        return run, _rebuilt(run, rounds, deployed, where)
    except BaseException:
        run.release()
        raise


def _rebuilt(run: Run, rounds: int | None, deployed: bool, where: dict[str, Any]) -> Simulation:
    config, done, path = resolve(read_toml(run.path / "run.toml")), len(run.records()), run.path
    before, now = run.about.get("versions", {}), provenance()["versions"]
    same = before.get("fedq") == now["fedq"]  # another version may have other settings
    edited = same and run.about.get("config_hash", config.hash) != config.hash
    if run.about.get("deployed") and not deployed:
        raise FedqError(
            "FQ205",
            "the run was deployed: what its clients train on and remember is at their sites",
            where=str(path),
            hint=f"fedq deploy run {path}",
        )
    if rounds is not None and rounds < done:
        raise FedqError(
            "FQ205", f"{done} rounds are played already", where=f"--rounds {rounds}", hint="give more rounds"
        )
    if rounds is not None:
        config = config.with_(rounds=rounds)
    if where:
        config = config.with_(**where)
    if run.about.get("status") == "done" and config.top.rounds <= done:
        raise FedqError(
            "FQ205",
            f"the run is done: {done} rounds",
            where=str(path),
            hint="" if run.about.get("deployed") else f"go on with more: fedq resume {path} --rounds {2 * done}",
        )
    saved = run.latest() if deployed and not run.about.get("deployed") else None
    if saved and saved[2]["clients"]:
        raise FedqError(
            "FQ205",
            "the run was simulated: what its clients remember is in its checkpoint, and sites would begin without it",
            where=str(path),
            hint=f"go on with it: fedq resume {path}; or begin it anew: fedq deploy run {path / 'run.toml'}",
        )
    if edited:
        raise FedqError(
            "FQ205",
            "run.toml was changed since the run began",
            where=str(path / "run.toml"),
            hint=f"give it back as it was (--rounds N plays more), or start anew: fedq simulate {path / 'run.toml'}",
        )
    simulation = build(config)
    if run.about.get("data_sha256", simulation.data.checksum) != simulation.data.checksum:
        raise FedqError(
            "FQ205",
            "the data have changed since the run began",
            where=str(path),
            hint=f"give back the old data, or start a new run: fedq simulate {path / 'run.toml'}",
        )
    others = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if others:
        said = f"the run was begun with {'; '.join(others)}: the rest may differ from that of an uninterrupted run"
        simulation = replace(simulation, warnings=(*simulation.warnings, said))
    run.configure(simulation.config.to_toml(), config_hash=simulation.config.hash, versions=before | now)
    return simulation


def goal_of(run: Run, until: str) -> Until | None:
    """The goal that ends a run early: `until`, or else what it was begun with; noted in run.json."""
    until = until or run.about.get("until") or ""
    run.update(until=until or None)
    return Until.parse(until) if until else None


def play(run: Run, simulation: Simulation, *, until: Until | None = None) -> Iterator[RoundRecord]:
    """The rounds that `run` still lacks; each one's line is saved before it is yielded, its model when it is time.

    Ends early when `until` is met. However it ends, the directory says so and its lock is given back: stopped by an
    error it can be resumed, and `weights_sha256` of a resumed run equals that of an uninterrupted one.
    """
    with closing(simulation), logging_to(run.path / "log.txt"), _ending(run):
        done, arrays, state = run.latest()
        simulation.restore(state)
        simulation.open()
        with _saving(run):
            run.rewind(done)
        if done:
            run.update(status="running", resumed_at=[*run.about.get("resumed_at", []), done])
        lines = run.records()
        last, saver = simulation.config.top.rounds, _Saver(run, simulation, done)
        reached = until is not None and until.met(lines)
        for record in () if reached else simulation.rounds(arrays, done + 1, last):
            arrays = records.to_arrays(record.arrays)
            lines.append(record.metrics())
            with _saving(run):
                run.append(lines[-1])
            reached = until is not None and until.met(lines)
            saver.after(record.round, arrays, now=reached or record.round == last)
            try:
                yield record
            except GeneratorExit:
                saver.after(record.round, arrays, now=True)
                raise
            if reached:
                break
        with _saving(run):
            run.update(weights_sha256=run.save_model({**simulation.drawn, **arrays}))


class _Saver:
    """Checkpoints that take at most one part in twenty of the time; what a killed process loses is computed again.

    Each round has one where that will not do: in a deployment, whose sites remember a few rounds only, and where the
    server promises something to whole clients, which a round that is played twice would cost again.
    """

    def __init__(self, run: Run, simulation: Simulation, done: int) -> None:
        self._run, self._simulation, self._done = run, simulation, done
        self._always = bool(run.about.get("deployed") or simulation.strategy.promise())
        self._saved, self._cost = perf_counter(), 0.0

    def after(self, round_: int, arrays: Arrays, *, now: bool) -> None:
        """Save the round's model and state, if it is time or asked for."""
        started = perf_counter()
        if self._done < round_ and (now or self._always or started - self._saved > 20 * self._cost):
            with _saving(self._run):
                self._run.checkpoint(round_, arrays, self._simulation.state())
            self._done, self._saved = round_, perf_counter()
            self._cost = self._saved - started


@contextmanager
def _saving(run: Run) -> Iterator[None]:
    """FedqError FQ206 where the run directory cannot be written to."""
    try:
        yield
    except OSError as error:
        hint = f"make room, then: fedq resume {run.path}; the rounds before are saved"
        raise FedqError(
            "FQ206", f"cannot write to the run directory: {reason(error)}", where=str(run.path), hint=hint
        ) from error


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    """However the rounds end, say so in the run directory and give its lock back."""
    status = "interrupted"
    try:
        yield
        status = "done"
    except FedqError as error:
        status = "failed"
        error.where = error.where or str(run.path / "log.txt")
        error.hint = error.hint.replace("simulate RUN", f"simulate {run.path}")
        run.update(error=str(error))
        raise
    except Exception as error:
        status = "failed"
        round_ = len(run.records()) + 1
        log.exception("round %d failed", round_)
        raise FedqError(
            "FQ305",
            f"round {round_} failed on the server: {type(error).__name__}: {error}",
            where=str(run.path / "log.txt"),
            hint="the traceback is there",
        ) from error
    finally:
        with suppress(OSError):  # on a full disk the first error is the one to tell
            run.update(status=status, totals={k: v for k, v in run.totals().items() if k not in ("status", "run_dir")})
        run.release()


def simulate(config: RunConfig | None = None, *, out: str | Path = "runs", until: str = "", **changes: Any) -> Run:
    """Run a simulation in this process, from Python or a notebook, and return its run.

    `changes` are config keys, with dots written as double underscores: `simulate(strategy="fedavg", client__lr=0.1)`.
    Ctrl-C returns the rounds that are finished; `resume` goes on from there.
    """
    config = (config or make_config()).with_(**changes)
    if until:
        Until.parse(until)
    return _watched(*begin(config, out), until)


def resume(path: str | Path, *, rounds: int | None = None, until: str = "") -> Run:
    """Go on with a run that did not finish, or play more rounds; the same bits as if it had never stopped.

    A goal that the run was begun with still holds, unless another is given. Ctrl-C as in `simulate`.
    """
    if until:
        Until.parse(until)
    return _watched(*reopen(path, rounds=rounds), until)


def _watched(run: Run, simulation: Simulation, until: str) -> Run:
    """The rounds that the run lacks, with a bar."""
    from fedq.report.screen import Screen

    goal = goal_of(run, until)
    with Screen(simulation) as screen:
        try:
            for record in play(run, simulation, until=goal):
                screen.show(record)
        except KeyboardInterrupt:
            screen.say(f"stopped after round {len(run.records())}; fedq.resume({str(run.path)!r}) goes on")
    return run


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Everything that fedq and Flower log, timestamped, in a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign] # a full disk is told once, elsewhere
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
