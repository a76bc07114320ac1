"""A Flower Grid in this process: clients are played by threads, one torch thread each, when their reply is wanted.

Replies stream in the order of the messages, so sums do not depend on the number of threads and a server that folds
them never holds more than a few. A client that is not sampled costs nothing.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event
from time import monotonic, sleep
from typing import final

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedq.grids.crew import Ahead, Crew, Failure, delivered, late
from fedq.grids.simulated import SimulatedGrid

AHEAD = 2  # cohorts a thread may be ahead of the server

GRACE = 1.0  # seconds for clients to give up after a time-out


@final
class LocalGrid(SimulatedGrid):
    """Plays `clients` clients of `app` in this process; node `k + 1` is partition `k`.

    `workers` threads train at once; results do not depend on their number. Messages are handed on in cohorts of
    `cohort`; `ahead` and `stop` are those of `Crew`. An exception in a client becomes an error reply; its traceback is
    logged.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        *,
        workers: int = 1,
        cohort: int = 1,
        ahead: Ahead | None = None,
        stop: Event | None = None,
    ) -> None:
        super().__init__(clients, cohort if ahead else 1)
        self._crew, self._workers = Crew(app, clients, ahead, stop or Event()), workers

    def __str__(self) -> str:
        return f"{self._workers} thread{'s' if self._workers > 1 else ''} of this process"

    def _replies(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        cohorts = [messages[i : i + self.cohort] for i in range(0, len(messages), self.cohort)]
        if self._workers == 1 and timeout is None:
            for cohort in cohorts:
                with self._crew.prepared(cohort):
                    yield from (delivered(message, self._play(message)) for message in cohort)
            return
        waiting, hung, end = iter(cohorts), False, monotonic() + (timeout or 0)
        pool = ThreadPoolExecutor(self._workers, "client", initializer=_alone)
        running: deque[tuple[list[Message], Future[list[Message | Failure]]]] = deque()
        try:
            running.extend((c, pool.submit(self._played_together, c)) for c in islice(waiting, AHEAD * self._workers))
            while running:
                cohort, future = running.popleft()
                wait([future], None if timeout is None else max(0.0, end - monotonic()))
                hung = hung or not future.done()
                found = future.result() if future.done() else [late(m, timeout) for m in cohort]
                yield from (delivered(m, reply) for m, reply in zip(cohort, found, strict=True))
                running.extend((c, pool.submit(self._played_together, c)) for c in islice(waiting, 1))
        finally:
            self._crew.stop.set()
            pool.shutdown(wait=not hung, cancel_futures=True)
            if hung:  # clients that train give up at their next step; one that hangs elsewhere is left behind
                sleep(GRACE)
            self._crew.stop.clear()

    def _played_together(self, cohort: list[Message]) -> list[Message | Failure]:
        with self._crew.prepared(cohort):
            return [self._play(message) for message in cohort]

    def _play(self, message: Message) -> Message | Failure:
        """The client's reply; what it keeps is kept only if it replies."""
        node = message.metadata.dst_node_id
        reply, state = self._crew.play(message, self.memory.of(node))
        if isinstance(reply, Message):
            self.memory.keep(node, state)
        return reply


def _alone() -> None:
    """One torch thread in this thread: a new one has as many as there are cores, until torch itself looks."""
    import torch

    torch.set_num_threads(1)
