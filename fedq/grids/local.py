"""A Flower Grid in this process: clients are played by threads, one torch thread each, when their reply is wanted.

Replies stream in the order of the messages, so sums do not depend on the number of threads and a server that folds
them never holds more than a few. A client that is not sampled costs nothing.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count, islice
from threading import Event
from time import monotonic, sleep
from typing import Any, final

import numpy as np
from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedq._flower import SIMULATED_RUN, Run, from_bytes, isolated, set_message_id, simulated_run, to_bytes
from fedq.errors import FedqError

log = logging.getLogger("fedq")

CLIENT_RAISED, TIMED_OUT = 3, 4  # Flower's codes are 0 to 2 and its own
AHEAD = 2  # cohorts a thread may be ahead of the server

GRACE = 1.0  # seconds for clients to give up after a time-out

Ahead = Callable[[Sequence[Message], Sequence[int]], AbstractContextManager[None]]


@final
class LocalGrid(Grid):
    """Plays `clients` clients of `app` in this process; node `k + 1` is partition `k`.

    `workers` threads train at once; results do not depend on their number. `ahead` is told of each cohort of `cohort`
    messages, and their partitions, before they are played, so that it may train those clients together. `stop` is set
    while running clients are to give up. An exception in a client becomes an error reply; its traceback is logged.
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
        self._app, self._clients, self._workers, self._stop = app, clients, workers, stop or Event()
        self.cohort, self._ahead = cohort if ahead else 1, ahead
        self._run = simulated_run()
        self._ids = count(1)
        self._pending: dict[str, Message] = {}
        self._contexts: dict[int, Context] = {}

    @property
    def run(self) -> Run:
        """Run information; nothing in it is used here."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Replace the run information."""
        self._run = run

    def get_node_ids(self) -> Sequence[int]:
        """Node ids in the order of partitions."""
        return range(1, self._clients + 1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message of this run."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages; their clients run when the replies are pulled."""
        ids = []
        for message in messages:
            ids.append(str(next(self._ids)))
            set_message_id(message, ids[-1])
            self._pending[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies in the order of `message_ids`, each as soon as it and all before it are there."""
        messages = [self._pending.pop(message_id) for message_id in message_ids]
        return self._replies(messages, None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of `messages`, streamed; those not there after `timeout` seconds are errors."""
        return self._replies([self._pending.pop(i) for i in self.push_messages(messages)], timeout)

    def state(self) -> dict[str, Any]:
        """What clients keep between rounds (`Context.state`), by node; those that keep nothing are absent."""
        kept: dict[bytes, NDArray[np.uint8]] = {}  # clients that hold the same records share one copy
        packed = ((str(node), to_bytes(c.state)) for node, c in self._contexts.items() if c.state)
        return {node: kept.setdefault(b, np.frombuffer(b, np.uint8)) for node, b in packed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        kept = {id(packed): from_bytes(packed.tobytes()) for packed in {id(p): p for p in state.values()}.values()}
        own = {int(n): RecordDict({k: r.copy() for k, r in kept[id(p)].items()}) for n, p in state.items()}
        self._contexts = {node: self._context(node, records) for node, records in own.items()}

    def _replies(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        cohorts = [messages[i : i + self.cohort] for i in range(0, len(messages), self.cohort)]
        if self._workers == 1 and timeout is None:
            for cohort in cohorts:
                with self._prepared(cohort):
                    yield from (_delivered(message, self._played(message)) for message in cohort)
            return
        waiting, hung, end = iter(cohorts), False, monotonic() + (timeout or 0)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="client")
        running: deque[tuple[list[Message], Future[list[Message | BaseException]]]] = deque()
        try:
            running.extend((c, pool.submit(self._played_together, c)) for c in islice(waiting, AHEAD * self._workers))
            while running:
                cohort, future = running.popleft()
                wait([future], None if timeout is None else max(0.0, end - monotonic()))
                hung = hung or not future.done()
                late = Error(TIMED_OUT, f"no reply within {timeout} s")
                found = future.result() if future.done() else [Message(late, reply_to=m) for m in cohort]
                yield from (_delivered(m, reply) for m, reply in zip(cohort, found, strict=True))
                running.extend((c, pool.submit(self._played_together, c)) for c in islice(waiting, 1))
        finally:
            self._stop.set()
            pool.shutdown(wait=not hung, cancel_futures=True)
            if hung:  # clients that train give up at their next step; one that hangs elsewhere is left behind
                sleep(GRACE)
            self._stop.clear()

    @contextmanager
    def _prepared(self, cohort: list[Message]) -> Iterator[None]:
        """The clients of a cohort trained together, if they can be."""
        with ExitStack() as stack:
            if self._ahead and len(cohort) > 1:
                try:
                    stack.enter_context(self._ahead(cohort, [m.metadata.dst_node_id - 1 for m in cohort]))
                except Exception as error:  # each then fails or succeeds by itself
                    if not self._stop.is_set():
                        log.warning("a cohort could not be trained together: %s: %s", type(error).__name__, error)
            yield

    def _played_together(self, cohort: list[Message]) -> list[Message | BaseException]:
        with self._prepared(cohort):
            return [self._played(message) for message in cohort]

    def _played(self, message: Message) -> Message | BaseException:
        try:
            return InterruptedError("nobody waits for it") if self._stop.is_set() else self._play(message)
        except (Exception, SystemExit) as error:
            return error

    def _play(self, message: Message) -> Message:
        """The client's reply; what it keeps is kept only if it replies."""
        node = message.metadata.dst_node_id
        kept = self._contexts[node].state if node in self._contexts else RecordDict()
        context = self._context(node, RecordDict({name: record.copy() for name, record in kept.items()}))
        reply = self._app(isolated(message), context)
        if context.state or kept:
            self._contexts[node] = context
        return reply

    def _context(self, node: int, state: RecordDict) -> Context:
        config: UserConfig = {"partition-id": node - 1, "num-partitions": self._clients}
        return Context(SIMULATED_RUN, node, config, state, {})


def _delivered(message: Message, reply: Message | BaseException) -> Message:
    """The reply, or an error in its place; a traceback is logged here, so only where somebody waits for the reply."""
    if isinstance(reply, Message):
        return reply
    log.error("client %d raised", message.metadata.dst_node_id - 1, exc_info=reply)
    said = reply.message if isinstance(reply, FedqError) else f"{type(reply).__name__}: {reply}"
    return Message(Error(CLIENT_RAISED, said), reply_to=message)
