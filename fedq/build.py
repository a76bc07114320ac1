"""A config's parts: data, partitions, strategy, trainer and grid, checked to fit before the first round."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil
from os import cpu_count
from typing import Any, final

import numpy as np
import torch
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedq import _flower
from fedq.attacks import Attackers, attackers, check_fit
from fedq.attacks.base import Wire
from fedq.attacks.placed import attacked, mods, poison
from fedq.clients import client
from fedq.clients.app import client_app, encode_mod, train_ahead
from fedq.clients.feedback import feedback_mod
from fedq.clients.local import LocalAlgorithm
from fedq.clients.private import Private, check_promise
from fedq.clients.proxy import ProxySet
from fedq.clients.shards import Shards
from fedq.clients.trainer import Trainer
from fedq.config import RunConfig, blaming, make_config
from fedq.data import Dataset, Examples, Inputs, load
from fedq.data.partition import by_group, column, label_shares
from fedq.data.population import Drawn, shares
from fedq.data.proxy import hold_proxy
from fedq.data.text import TextInputs
from fedq.errors import FedqError
from fedq.fit import (
    check_added,
    check_client,
    check_disjoint,
    check_ledgers,
    check_norms,
    check_proxy,
    check_shared,
    device,
)
from fedq.grids import Crew, LocalGrid, SimulatedGrid
from fedq.kernels import codec, records
from fedq.kernels.records import Arrays
from fedq.ledger import Ledger, MeteredGrid
from fedq.models import model
from fedq.models.network import Blueprint
from fedq.models.pretrained import Pretrained
from fedq.participation import Population, participation
from fedq.rounds import Evaluation, RoundRecord, rounds
from fedq.strategies import PackedStrategy, Setup, strategy
from fedq.strategies.proxy import ProxyOptions

SMALL = 8_000  # trained weights below which threads only wait for each other (benchmarks/threads.py)


@dataclass(frozen=True)
class Simulation:
    """The parts of a run, built from its config."""

    config: RunConfig
    data: Dataset
    strategy: PackedStrategy
    initial: Arrays
    drawn: Arrays
    trainer: Trainer
    clients: Any  # LocalGrid or RayGrid, or what a deployment has in its place
    grid: MeteredGrid
    warnings: tuple[str, ...]
    crew: Crew

    @property
    def app(self) -> ClientApp:
        """What every client runs."""
        return self.crew.app

    def score(self, weights: Arrays) -> tuple[float, float]:
        """Loss and accuracy on the test examples."""
        return self.trainer.score(weights, self.data.test)

    @property
    def promise(self) -> str:
        """What privacy the run promises, of what and to whom; empty where none."""
        records_ = self.trainer.private.promise() if self.trainer.private else ""
        clients = self.strategy.promise()
        return f"whole clients: {clients}; records: {records_}" if clients else records_

    def state(self) -> dict[str, Any]:
        """What must survive a checkpoint besides the model: the strategy's state, and what clients keep."""
        return {"strategy": self.strategy.state(), "clients": self.clients.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.strategy.restore(state["strategy"])
        self.clients.restore(state["clients"])
        if self.strategy.private and isinstance(self.clients, SimulatedGrid):
            check_ledgers(state["strategy"]["spent"], self.clients.memory.of)

    def open(self) -> None:
        """Take what the run needs besides memory: workers in other processes. FedqError FQ206 where there are none."""
        if isinstance(self.clients, SimulatedGrid):
            with blaming(self.config.origins):
                self.clients.open()

    def close(self) -> None:
        """Give back what `open` took."""
        if isinstance(self.clients, SimulatedGrid):
            self.clients.close()

    def rounds(self, arrays: Arrays, first: int, last: int) -> Iterator[RoundRecord]:
        """Play rounds `first ... last` from named global weights."""
        top = self.config.top
        evaluation = Evaluation(self.score, top.evaluate.every, top.evaluate.clients)
        start = records.to_record(arrays)
        with one_torch_thread():
            yield from rounds(
                self.strategy, self.grid, start, first=first, last=last, evaluation=evaluation, tolerate=top.tolerate
            )


def build(config: RunConfig, site: tuple[int, Dataset] | None = None) -> Simulation:
    """Load the data, share it among clients, and make strategy, trainer and grid. FedqError if they do not fit.

    With `site`, a partition and its data, the parts are for that client alone.
    """
    _flower.quiet()
    with blaming(config.origins):
        config, ground = _settled(config, site)
        parts = _parts(config, ground)
        top, server = config.top, parts.strategy
        drawn = ground.blueprint.initial_weights(merged=server.merges)
        if site is None:
            server.setup.participation.expected()  # rates above 1 are told now
        initial = server.initial(drawn, ground.blueprint.hidden(), top.seed)
        (data, own), trained = ground.data, sum(x.size for x in initial.values())
        shared = check_shared(config, ground.held, len(data.train))
        warned = (*check_norms(config, ground.blueprint), *check_proxy(config, own), *shared, *parts.warnings)
        if parts.trainer.private:
            check_disjoint(config, ground.held)
            sizes = {parts.trainer.examples(k) for k in range(top.clients)}
            check_promise(parts.trainer.private, config.model.name, ground.blueprint, sizes, top.rounds)
        together = parts.trainer.together and server.together
        cohort = _cohort(trained, config.client.options.batch_size) if together else 1
        clients = _engine(config, ground, parts.crew, cohort, trained)
    grid = MeteredGrid(attacked(clients, parts.attackers, parts.wire), Ledger())
    return Simulation(config, data, server, initial, drawn, parts.trainer, clients, grid, warned, parts.crew)


def share(config: RunConfig, partition: int) -> Examples:
    """The examples of the run's data that are a partition's, where the data are on this machine."""
    ground = _Ground(config)
    return ground.data[0].train.take(ground.held[partition])


@dataclass(frozen=True)
class _Parts:
    """What plays clients, and what it follows from."""

    strategy: PackedStrategy
    trainer: Trainer
    crew: Crew
    attackers: Attackers | None
    wire: Wire
    warnings: tuple[str, ...]


def _parts(config: RunConfig, ground: "_Ground") -> _Parts:
    top, o = config.top, config.client.options
    population = Population(top.seed, top.clients, top.per_round, ground.labels)
    coming = participation(config.participation.name)(population, config.participation.options)
    who = attackers(top.attack, top.clients, top.seed) if top.attack else None
    bad = who.partitions if who else frozenset[int]()
    both, scaling = (codec(top.codec), codec(top.downlink)), getattr(config.model.options, "scaling", 1.0)
    beside = {key: getattr(o, key) for key in ("delta", "tell_loss") if hasattr(o, key)}  # private clients have them
    setup = Setup(coming, *both, o.lr, top.rounds, bad, lambda: ground.proxy, scaling, **beside)
    server: PackedStrategy = strategy(config.strategy.name)(setup, config.strategy.options)
    algorithm: LocalAlgorithm | Private = client(config.client.name)(o)
    check_client(config, server, algorithm)
    wire = Wire(server.codec, server.sends, top.seed)
    if who:
        check_fit(who, wire, config.strategy.name)
    feedback = check_added(config, server) if top.error_feedback else ()
    held, (data, _) = ground.held, ground.data
    kept = top.evaluate.kept if top.evaluate.clients else 0.0
    shards = Shards(ground.inputs, held, kept, top.seed, poison(who, data.classes))
    batch = top.evaluate.batch_size
    trainer = Trainer(ground.blueprint, shards, algorithm, o, sends=server.sends, evaluation_batch=batch)
    pack, between = feedback_mod if top.error_feedback else encode_mod, [*mods(who, wire), *server.mods()]
    app = client_app(trainer, server.codec, top.seed, between, pack)
    ahead = train_ahead(trainer, None if between or top.error_feedback else server.codec, top.seed)
    return _Parts(server, trainer, Crew(app, top.clients, ahead, trainer.stop), who, wire, feedback)


def _engine(config: RunConfig, ground: "_Ground", crew: Crew, cohort: int, trained: int) -> SimulatedGrid:
    top = config.top
    if config.engine == "local":
        workers = top.workers or (1 if trained < SMALL else min(cpu_count() or 1, config.per_round))
        turns = ceil(config.per_round / (workers * cohort))  # of each thread; that all have as much to do:
        cohort = ceil(config.per_round / (workers * turns))
        return LocalGrid(crew.app, top.clients, workers=workers, cohort=cohort, ahead=crew.ahead, stop=crew.stop)
    from fedq.grids.cluster import Cluster
    from fedq.grids.ray import RayGrid

    cluster = Cluster(top.ray_address, top.workers, most=config.per_round, gpus=top.device == "cuda")
    return RayGrid(cluster, partial(_crew, config.as_dict()), (ground.data, ground.held), top.clients, cohort=cohort)


def _crew(values: dict[str, Any], shared: Any) -> Crew:
    """What plays clients in another process, from a resolved config and the data that its driver has loaded."""
    _flower.quiet()
    torch.set_num_threads(1)
    config = make_config(values)
    return _parts(config, _Ground(config, shared=shared)).crew


def _cohort(weights: int, batch: int) -> int:
    """Clients that train at once in a network that can be stacked, as measured (benchmarks/cohort.py).

    Bits do not depend on it. Large products gain nothing, small ones want to fit a cache.
    """
    return max(8, min(32, 2**17 // weights)) if weights * batch <= 4_000_000 else 1


def _settled(config: RunConfig, site: tuple[int, Dataset] | None) -> tuple[RunConfig, "_Ground"]:
    """The config with as many clients as its data have groups, where they are shared by a column."""
    ground = _Ground(config, site)
    if site or not column(config.top.data.partition):
        return config, ground
    found, given = len(ground.held), config.origins.get("clients")
    if given is not None and given.value != found:
        raise FedqError(
            "FQ105",
            f"{given.value} clients, but partition `{config.top.data.partition}` makes {found}",
            key="clients",
            hint="leave --clients out",
        )
    top = config.top.model_copy(update={"clients": found})
    if top.per_round and top.per_round > found:
        raise FedqError("FQ105", f"{top.per_round} clients per round, but there are {found} clients", key="per_round")
    ground._config = config = replace(config, top=top)
    return config, ground


@final
class _Ground:
    """What a config's parts stand on, each made when it is first wanted: wrong settings are told before data load."""

    def __init__(self, config: RunConfig, site: tuple[int, Dataset] | None = None, *, shared: Any = None) -> None:
        self._config, self._site = config, site
        self._shared = shared  # data and held, where they are loaded already

    @cached_property
    def data(self) -> tuple[Dataset, Examples | None]:
        """The data without what the server holds of them, and that, if the strategy wants a proxy set."""
        if self._shared:
            return self._shared[0]  # type: ignore[no-any-return]
        top, o = self._config.top, self._config.strategy.options
        if self._site:
            return self._site[1], None
        columns = (top.data.text_column or "", top.data.label_column or "")
        by = column(top.data.partition)
        data = load(top.data.name, top.data.dir, holdout=top.data.holdout, seed=top.seed, columns=columns, by=by)
        held = isinstance(o, ProxyOptions)
        return hold_proxy(data, o.proxy, o.proxy_per_class, top.seed) if held else (data, None)

    @cached_property
    def held(self) -> Sequence[NDArray[np.int64]]:
        """Each client's examples, as indices."""
        if self._shared:
            return self._shared[1]  # type: ignore[no-any-return]
        top, train = self._config.top, self.data[0].train
        if self._site:
            own = np.arange(len(train))
            return [own if k == self._site[0] else own[:0] for k in range(top.clients)]
        if column(top.data.partition):
            assert train.group is not None, "it is loaded with the data"
            return by_group(train.group)
        return shares(train.y, top.data.partition, top.clients, top.seed, top.data.per_client)

    def labels(self) -> NDArray[np.float64]:
        """The share of each label in each client's data."""
        if isinstance(self.held, Drawn):
            raise FedqError(
                "FQ105",
                f"`{self._config.participation.name}` follows every client's labels, and clients draw theirs on demand",
                key="participation.name",
                hint="--set participation.correlated=false",
            )
        return label_shares(self.data[0].train.y, self.held)

    @cached_property
    def inputs(self) -> Inputs | TextInputs:
        """The data as networks are fed them."""
        top, chosen = self._config.top, self._config.model
        if not self.data[0].texts:
            return Inputs(self.data[0], top.data.scale, top.data.augment)
        kind = model(chosen.name)
        if not (isinstance(kind, type) and issubclass(kind, Pretrained)):
            raise FedqError(
                "FQ105",
                f"`{chosen.name}` takes images, and these data are texts",
                key="model.name",
                hint="--model minilm_lora",
            )
        return TextInputs(self.data[0], kind.reader(chosen.options))

    @cached_property
    def blueprint(self) -> Blueprint:
        """The network."""
        model, seed = self._config.model, self._config.top.seed
        shape, top = (self.inputs.shape, self.data[0].classes), self._config.top
        return Blueprint(model.name, model.options, *shape, seed, device(self._config), top.precision == "bf16")

    @cached_property
    def proxy(self) -> ProxySet:
        """The server's own examples."""
        own = self.data[1]
        assert own is not None, "only strategies whose options are `ProxyOptions` have a proxy set"
        return ProxySet(self.blueprint, self.inputs, own)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread in every thread: bits depend on the number, and workers are the better use of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
