"""A Flower Grid on Ray: actors play the clients, on this machine or on a cluster's nodes.

The data are put once into the object store, records that many messages share (the global weights) once an exchange.
Replies stream in the order of the messages with a bounded look-ahead, and cohorts are those of the config: results do
not depend on the number of workers, nor on which of them played whom. What clients keep stays with the driver and
travels with their messages, so a worker that dies takes nothing along: its clients are played again by another.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from time import monotonic
from typing import Any, final

from flwr.app import ArrayRecord, Message, RecordDict

from fedq.errors import FedqError
from fedq.grids.cluster import Cluster
from fedq.grids.crew import Crew, Failure, delivered, late
from fedq.grids.simulated import SimulatedGrid
from fedq.grids.worker import PACKAGES, Asked, Reply, Worker

log = logging.getLogger("fedq.aloud")  # also shown on the screen

AHEAD = 2  # tasks a worker may be ahead of the server
TASKS = 8  # tasks a worker is given in an exchange, at least, where there are as many cohorts
DEATHS = 3  # of workers that play the same clients, before the run is given up
PING = 5.0  # seconds for a live worker to answer while it plays
CONTROL = "control"  # what a worker answers meanwhile
STARTING = 180.0  # seconds for a first worker to be ready


@dataclass(eq=False)
class _Actor:
    """A worker; `ready` is its answer once it can play."""

    handle: Any = None
    ready: Any = None
    name: str = ""


NOBODY = _Actor()


@dataclass(eq=False)
class _Task:
    """Cohorts that are handed to a worker together."""

    cohorts: list[list[Message]]
    actor: _Actor = NOBODY
    result: Any = None
    deaths: int = 0

    @property
    def messages(self) -> list[Message]:
        return [message for cohort in self.cohorts for message in cohort]


@final
class RayGrid(SimulatedGrid):
    """Plays `clients` clients on the workers of `cluster`, each made by `make(shared)` in an actor of its own."""

    def __init__(
        self, cluster: Cluster, make: Callable[[Any], Crew], shared: Any, clients: int, *, cohort: int = 1
    ) -> None:
        super().__init__(clients, cohort)
        self.cluster, self._make, self._shared = cluster, make, shared
        self._actors: list[_Actor] = []
        self._stillborn = 0  # workers in a row that died as they started
        self._ray: Any = None

    def __str__(self) -> str:
        return str(self.cluster)

    def open(self) -> None:
        """Join the cluster, put the data into its object store, and wait for a first worker."""
        if self._ray is None:
            self._ray = self.cluster.open()
            self._stored = self._ray.put(self._shared)
            self._ready()

    def close(self) -> None:
        """Let the workers go, and leave the cluster."""
        if self._ray is not None:
            self._dismiss()
            self._stored = self._ray = None
            self.cluster.close()

    def _replies(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        self.open()
        exchange = _Exchange(self._ray, messages)
        waiting, running = deque(self._tasks(messages)), deque[_Task]()
        end = None if timeout is None else monotonic() + timeout
        try:
            while waiting or running:
                self._hand_out(waiting, running, exchange)
                replies = self._taken(running, exchange, end)
                for message, reply in zip(running.popleft().messages, replies, strict=True):
                    yield self._received(message, reply, exchange) if reply else late(message, timeout)
        finally:
            if running or (end is not None and monotonic() > end):  # nobody waits for what they do
                self._dismiss()

    def _tasks(self, messages: list[Message]) -> Iterator[_Task]:
        cohorts = [messages[i : i + self.cohort] for i in range(0, len(messages), self.cohort)]
        many = max(1, len(cohorts) // (TASKS * self.cluster.workers))
        return (_Task(cohorts[i : i + many]) for i in range(0, len(cohorts), many))

    def _received(self, message: Message, reply: Reply, exchange: "_Exchange") -> Message:
        """The reply; what its client keeps is kept only if it replied."""
        if isinstance(reply.made, Failure):
            return delivered(message, reply.made)
        assert reply.state is not None
        self.memory.keep(message.metadata.dst_node_id, exchange.interned(reply.state))
        return Message(reply.made, reply_to=message)

    # --------------------------------------------------------------------------------------------- workers

    def _started(self) -> _Actor:
        options = {"num_cpus": 1, "num_gpus": self.cluster.gpu_share}
        kind = self._ray.remote(concurrency_groups={CONTROL: 1}, **options)(Worker)
        actor = _Actor(kind.remote(self._make, self._stored))
        actor.ready = self._asked_about(actor)
        return actor

    def _asked_about(self, actor: _Actor) -> Any:
        return actor.handle.about.options(concurrency_group=CONTROL).remote()

    def _dismiss(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._actors = []

    def _hand_out(self, waiting: deque[_Task], running: deque[_Task], exchange: "_Exchange") -> None:
        """Tasks to the ready workers that have least to do; each has at most `AHEAD`."""
        ready = self._ready()
        at_work = Counter(dict.fromkeys(ready, 0))
        at_work.update(t.actor for t in running if t.actor in ready and not self._done(t.result))
        while waiting and len(running) < AHEAD * len(ready):
            task = waiting.popleft()
            self._hand(task, min(ready, key=at_work.__getitem__), exchange)
            at_work[task.actor] += 1
            running.append(task)

    def _hand(self, task: _Task, actor: _Actor, exchange: "_Exchange") -> None:
        asked = [[exchange.asked(message) for message in cohort] for cohort in task.cohorts]
        nodes = {message.metadata.dst_node_id for message in task.messages}
        kept = {node: state for node in nodes if (state := self.memory.of(node))}
        task.actor, task.result = actor, actor.handle.play.remote(asked, kept, exchange.shared)

    def _done(self, result: Any) -> bool:
        done, _ = self._ray.wait([result], timeout=0, fetch_local=False)
        return bool(done)

    def _ready(self) -> list[_Actor]:
        """The workers that can play; waits for the first."""
        while len(self._actors) < self.cluster.workers:
            self._actors.append(self._started())
        starting = {actor.ready: actor for actor in self._actors}
        done, _ = self._ray.wait(list(starting), num_returns=len(starting), timeout=0)
        done = done or self._ray.wait(list(starting), num_returns=1, timeout=STARTING)[0]
        ready = [actor for actor in map(starting.__getitem__, done) if self._checked(actor)]
        if done:
            return ready or self._ready()
        raise FedqError(
            "FQ206",
            f"no worker could start within {STARTING:.0f} s: the cluster's processors are in use",
            key="workers",
            hint="fewer --workers, or wait for the others; `ray status` shows them",
        )

    def _checked(self, actor: _Actor) -> bool:
        """Whether a worker that has said that it is ready still is. FedqError FQ206 if it is not as the driver is."""
        if actor.name:
            return True
        try:
            process, node, versions = self._ray.get(actor.ready)
        except self._ray.exceptions.RayActorError as error:
            said = str(error).strip().split("\n")[-1]
            if error.actor_init_failed:
                hint = "every node needs the same Python packages as the driver"
                raise FedqError("FQ206", f"a worker could not start: {said}", key="engine", hint=hint) from error
            self._bury(actor, "died as it started")
            self._stillborn += 1
            if self._stillborn == DEATHS:
                hint = "if memory is short: fewer --workers, or a smaller model"
                raise FedqError("FQ206", f"{DEATHS} workers died as they started: {said}", hint=hint) from error
            return False
        own = {name: version(name) for name in PACKAGES}
        if versions != own:
            raise FedqError("FQ206", f"node {node} has {versions}, and the driver {own}", key="engine")
        actor.name, self._stillborn = f"worker {process} on {node}", 0
        return True

    # --------------------------------------------------------------------------------------------- deaths

    def _taken(self, running: deque[_Task], exchange: "_Exchange", end: float | None) -> list[Reply] | list[None]:
        """The replies of the first task, by another worker if its own dies."""
        task, lost = running[0], self._ray.exceptions
        while True:
            try:
                left = None if end is None else max(0.0, end - monotonic())
                replies: list[Reply] = self._ray.get(task.result, timeout=left)
            except lost.GetTimeoutError:
                return [None] * len(task.messages)
            except lost.RayTaskError:  # a mistake of ours
                raise
            except lost.RayError as error:
                self._lost(task, error)
                ready = self._ready()
                at_work = Counter(t.actor for t in running)
                self._hand(task, min(ready, key=at_work.__getitem__), exchange)
            else:
                return replies

    def _lost(self, task: _Task, error: Exception) -> None:
        """Take leave of the dead. FedqError FQ206 where every worker dies of the same clients."""
        task.deaths += 1
        partitions = [m.metadata.dst_node_id - 1 for m in task.messages]
        said = f"{len(partitions)} client{'s' if len(partitions) > 1 else ''}, {partitions[0]} the first"
        if task.actor in self._actors:
            self._bury(task.actor, f"died with {said}; its clients are played again")
        if task.deaths == DEATHS:
            raise FedqError(
                "FQ206",
                f"{DEATHS} workers died with {said}: {str(error).strip().splitlines()[0]}",
                hint="if memory is short: fewer --workers, or a smaller model or batch",
            )
        answers = {actor: self._asked_about(actor) for actor in self._actors if actor.name}  # a node takes many along
        done, _ = (
            self._ray.wait(list(answers.values()), num_returns=len(answers), timeout=PING) if answers else ([], [])
        )
        for actor, answer in answers.items():
            if answer in done:
                try:
                    self._ray.get(answer)
                except self._ray.exceptions.RayActorError:
                    self._bury(actor, "died, too")

    def _bury(self, actor: _Actor, how: str) -> None:
        log.warning("%s %s", actor.name or "a worker", how)
        self._actors.remove(actor)


@final
class _Exchange:
    """The records that messages of one exchange share, put once into the object store."""

    def __init__(self, ray: Any, messages: Sequence[Message]) -> None:
        records = [record for message in messages for record in message.content.values()]
        users = Counter(map(id, records))
        shared = {id(record): record for record in records if users[id(record)] > 1}
        self.shared = [ray.put(record) for record in shared.values()]
        self._places = {known: place for place, known in enumerate(shared)}
        self._same: dict[bytes, bytes] = {}

    def asked(self, message: Message) -> Asked:
        """A message as workers are handed it."""
        content = message.content
        return Asked(message.metadata, {name: self._places.get(id(r), r) for name, r in content.items()})

    def interned(self, state: RecordDict) -> RecordDict:
        """A state that shares the bytes it has in common with others of this exchange: one copy of a replica."""
        for record in state.values():
            if isinstance(record, ArrayRecord):
                for array in record.values():
                    array.data = self._same.setdefault(array.data, array.data)
        return state
