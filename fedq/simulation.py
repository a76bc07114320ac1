"""From a config to a finished run: parts are built, rounds are played, every one is saved before it is shown."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from fedq import _flower
from fedq.attacks import attackers, check_fit
from fedq.attacks.base import Wire
from fedq.attacks.placed import attacked, mods, poison
from fedq.clients import client
from fedq.clients.app import client_app, encode_mod
from fedq.clients.feedback import check_feedback, feedback_mod
from fedq.clients.local import LocalAlgorithm
from fedq.clients.proxy import ProxySet
from fedq.clients.trainer import Shards, Trainer
from fedq.config import RunConfig, blaming, make_config, resolve
from fedq.data import Dataset, Examples, Inputs, load
from fedq.data.partition import label_shares, partition
from fedq.data.proxy import hold_proxy
from fedq.errors import FedqError
from fedq.grids import LocalGrid
from fedq.kernels import codec, records
from fedq.kernels.records import Arrays
from fedq.ledger import Ledger, MeteredGrid
from fedq.models.network import Blueprint
from fedq.participation import Population, participation
from fedq.rounds import Evaluation, RoundRecord, rounds
from fedq.runs import Run, open_run
from fedq.settings import read_toml
from fedq.strategies import PackedStrategy, Setup, strategy
from fedq.strategies.proxy import ProxyOptions
from fedq.until import Until

log = logging.getLogger("fedq")

SMALL = 32_000  # trained weights below which threads only wait for each other (benchmarks/threads.py)


@dataclass(frozen=True)
class Simulation:
    """The parts of a run, built from its config."""

    config: RunConfig
    data: Dataset
    strategy: PackedStrategy
    initial: Arrays
    drawn: Arrays
    trainer: Trainer
    workers: int
    clients: LocalGrid
    grid: MeteredGrid
    warnings: tuple[str, ...]

    def score(self, weights: Arrays) -> tuple[float, float]:
        """Loss and accuracy on the test examples."""
        return self.trainer.score(weights, self.data.test)

    def state(self) -> dict[str, Any]:
        """What must survive a checkpoint besides the model: the strategy's state, and what clients keep."""
        return {"strategy": self.strategy.state(), "clients": self.clients.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.strategy.restore(state["strategy"])
        self.clients.restore(state["clients"])

    def rounds(self, arrays: Arrays, first: int, last: int) -> Iterator[RoundRecord]:
        """Play rounds `first ... last` from named global weights."""
        top = self.config.top
        evaluation = Evaluation(self.score, top.evaluate.every, top.evaluate.clients)
        start = records.to_record(arrays)
        with one_torch_thread():
            yield from rounds(
                self.strategy, self.grid, start, first=first, last=last, evaluation=evaluation, tolerate=top.tolerate
            )


def build(config: RunConfig) -> Simulation:
    """Load the data, share it among clients, and make strategy, trainer and grid. FedqError if they do not fit."""
    _flower.quiet()
    with blaming(config.origins):
        top, o = config.top, config.client.options
        population = Population(top.seed, top.clients, top.per_round, lambda: label_shares(data.train.y, held))
        coming = participation(config.participation.name)(population, config.participation.options)
        who = attackers(top.attack, top.clients, top.seed) if top.attack else None
        bad = who.partitions if who else frozenset[int]()
        setup = Setup(coming, codec(top.codec), codec(top.downlink), o.lr, top.rounds, bad)
        server: PackedStrategy = strategy(config.strategy.name)(setup, config.strategy.options)
        algorithm: LocalAlgorithm = client(config.client.name)(o)
        _check_client(config, server, algorithm)
        wire = Wire(server.codec, server.sends, top.seed)
        if who:
            check_fit(who, wire, config.strategy.name)
        feedback = _check_feedback(config, server) if top.error_feedback else ()
        data, own = _held(config, load(top.data.name, top.data.dir, holdout=top.data.holdout, seed=top.seed))
        held = partition(data.train.y, top.data.partition, top.clients, top.seed)
        coming.probabilities()  # rates above 1 are told now
        inputs = Inputs(data, top.data.scale, top.data.augment)
        blueprint = Blueprint(config.model.name, config.model.options, inputs.shape, data.classes, top.seed)
        server.proxy = ProxySet(blueprint, inputs, own) if own else None
        warned = (*_check_norms(config, blueprint), *_check_proxy(config, own), *feedback)
        drawn = blueprint.initial_weights()
        initial = server.initial(drawn, blueprint.hidden(), top.seed)
        kept = top.evaluate.kept if top.evaluate.clients else 0.0
        shards = Shards(inputs, held, kept, top.seed, poison(who, data.classes))
        batch = top.evaluate.batch_size
        trainer = Trainer(blueprint, shards, algorithm, o, sends=server.sends, evaluation_batch=batch)
    trained = sum(x.size for x in initial.values())
    workers = top.workers or (1 if trained < SMALL else min(cpu_count() or 1, config.per_round))
    pack = feedback_mod if top.error_feedback else encode_mod
    app = client_app(trainer, server.codec, top.seed, [*mods(who, wire), *server.mods()], pack)
    clients = LocalGrid(app, top.clients, workers=workers, stop=trainer.stop)
    grid = MeteredGrid(attacked(clients, who, wire), Ledger())
    return Simulation(config, data, server, initial, drawn, trainer, workers, clients, grid, warned)


def _held(config: RunConfig, data: Dataset) -> tuple[Dataset, Examples | None]:
    """The data without what the server holds of them, and that, if the strategy wants a proxy set."""
    o = config.strategy.options
    return (
        hold_proxy(data, o.proxy, o.proxy_per_class, config.top.seed) if isinstance(o, ProxyOptions) else (data, None)
    )


def _check_proxy(config: RunConfig, held: Examples | None) -> Iterator[str]:
    if held and config.strategy.options.proxy == "test":
        yield (
            f"the server learns on {len(held)} test images (strategy.proxy = test); "
            "accuracy is that of the others, and still flattered by them"
        )


def _check_feedback(config: RunConfig, server: PackedStrategy) -> tuple[str, ...]:
    asked_first = type(server).configure_query is not PackedStrategy.configure_query
    return check_feedback(config.strategy.name, server.sends, server.codec, asked_first=asked_first)


def _check_client(config: RunConfig, server: PackedStrategy, algorithm: LocalAlgorithm) -> None:
    if server.client and config.client.name != server.client:
        raise FedqError(
            "FQ105",
            f"`{config.strategy.name}` needs the client `{server.client}`, not `{config.client.name}`",
            key="client.name",
            hint="leave client.name out: the strategy knows its own",
        )
    if (server.sends == "gradient") != (algorithm.returns == "gradient"):
        wanted = "a gradient" if server.sends == "gradient" else "weights"
        raise FedqError(
            "FQ105",
            f"`{config.strategy.name}` needs a client that returns {wanted}, and `{config.client.name}` does not",
            key="client.name",
            hint="leave client.name out: the strategy knows its own",
        )


def _check_norms(config: RunConfig, blueprint: Blueprint) -> Iterator[str]:
    if blueprint.normalised() and config.client.options.batch_size < 2:
        raise FedqError(
            "FQ105",
            f"`{config.model.name}` has batch norm, which needs batches of at least 2 examples",
            key="client.batch_size",
            hint="raise --batch-size, or --set model.norm=none where the model has that",
        )
    if config.client.name == "latent" and not blueprint.normalised():
        yield f"`{config.model.name}` has no batch norm, so activations of +-1 weights grow with every layer"


def begin(config: RunConfig, out: str | Path) -> tuple[Run, Simulation]:
    """A new run directory and the parts to play it; the initial model is its first checkpoint."""
    simulation = build(config)
    top = config.top
    name = f"{config.strategy.name}-{top.data.name.replace('/', '--')}-s{top.seed}-{config.hash[:6]}"
    run = Run.create(out, name, config.to_toml(), {"config_hash": config.hash, "data_sha256": simulation.data.checksum})
    run.checkpoint(0, simulation.initial, simulation.state())
    return run, simulation


def reopen(path: str | Path, *, rounds: int | None = None) -> tuple[Run, Simulation]:
    """A run that did not finish, or that shall have more `rounds`, and the parts to play it on.

    FedqError FQ203 or FQ204 if there is none or it is in use, FQ205 if it is finished or its data have changed.
    """
    run = open_run(path, lock=True)
    try:
        return run, _rebuilt(run, rounds)
    except BaseException:
        run.release()
        raise


def _rebuilt(run: Run, rounds: int | None) -> Simulation:
    config, done, path = resolve(read_toml(run.path / "run.toml")), len(run.records()), run.path
    if rounds is not None and rounds < done:
        raise FedqError(
            "FQ205", f"{done} rounds are played already", where=f"--rounds {rounds}", hint="give more rounds"
        )
    if rounds is not None:
        config = config.with_(rounds=rounds)
    if run.about.get("status") == "done" and config.top.rounds <= done:
        raise FedqError(
            "FQ205",
            f"the run is done: {done} rounds",
            where=str(path),
            hint=f"go on with more: fedq resume {path} --rounds {2 * done}",
        )
    simulation = build(config)
    if run.about.get("data_sha256", simulation.data.checksum) != simulation.data.checksum:
        raise FedqError(
            "FQ205",
            "the data have changed since the run began",
            where=str(path),
            hint=f"give back the old data, or start a new run: fedq simulate {path / 'run.toml'}",
        )
    run.configure(config.to_toml(), config_hash=config.hash)
    return simulation


def play(run: Run, simulation: Simulation, *, until: Until | None = None) -> Iterator[RoundRecord]:
    """The rounds that `run` still lacks; each one's line is saved before it is yielded, its model when it is time.

    Ends early when `until` is met. However it ends, the directory says so and its lock is given back: stopped by an
    error it can be resumed, and `weights_sha256` of a resumed run equals that of an uninterrupted one.
    """
    with logging_to(run.path / "log.txt"), _ending(run):
        done, arrays, state = run.latest() or (0, dict(simulation.initial), simulation.state())
        simulation.restore(state)
        run.rewind(done)
        if done:
            run.update(status="running", resumed_at=[*run.about.get("resumed_at", []), done])
        lines = run.records()
        last, saver = simulation.config.top.rounds, _Saver(run, simulation, done)
        reached = until is not None and until.met(lines)
        for record in () if reached else simulation.rounds(arrays, done + 1, last):
            arrays = records.to_arrays(record.arrays)
            lines.append(record.metrics())
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
        run.update(weights_sha256=run.save_model({**simulation.drawn, **arrays}))


class _Saver:
    """Checkpoints that take at most one part in twenty of the time; what a killed process loses is computed again."""

    def __init__(self, run: Run, simulation: Simulation, done: int) -> None:
        self._run, self._simulation, self._done = run, simulation, done
        self._saved, self._cost = perf_counter(), 0.0

    def after(self, round_: int, arrays: Arrays, *, now: bool) -> None:
        """Save the round's model and state, if it is time or asked for."""
        started = perf_counter()
        if self._done < round_ and (now or started - self._saved > 20 * self._cost):
            self._run.checkpoint(round_, arrays, self._simulation.state())
            self._done, self._saved = round_, perf_counter()
            self._cost = self._saved - started


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    """However the rounds end, say so in the run directory and give its lock back."""
    status = "interrupted"
    try:
        yield
        status = "done"
    except FedqError as error:
        status = "failed"
        run.update(error=str(error))
        raise
    except OSError as error:
        status = "failed"
        hint = f"make room, then: fedq resume {run.path}; the rounds before are saved"
        raise FedqError(
            "FQ206", f"cannot write to the run directory: {error}", where=str(run.path), hint=hint
        ) from error
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
    from fedq.report.screen import Screen

    config = (config or make_config()).with_(**changes)
    goal = Until.parse(until) if until else None
    run, simulation = begin(config, out)
    with Screen(simulation) as screen:
        try:
            for record in play(run, simulation, until=goal):
                screen.show(record)
        except KeyboardInterrupt:
            screen.say(f"stopped after round {len(run.records())}; fedq.resume({str(run.path)!r}) goes on")
    return run


def resume(path: str | Path, *, rounds: int | None = None) -> Run:
    """Go on with a run that did not finish, or play more rounds; the same bits as if it had never stopped."""
    from fedq.report.screen import Screen

    run, simulation = reopen(path, rounds=rounds)
    with Screen(simulation) as screen:
        for record in play(run, simulation):
            screen.show(record)
    return run


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread in every thread: bits depend on the number, and workers are the better use of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
