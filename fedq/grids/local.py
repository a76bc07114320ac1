"""A Flower Grid in this process: clients are played by threads, one torch thread each, when their reply is wanted.

Replies stream in the order of the messages, so sums do not depend on the number of threads and a server that folds
them never holds more than a few. A client that is not sampled costs nothing.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import count, islice
from threading import Event
from time import monotonic
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
AHEAD = 2  # messages a thread may be ahead of the server


@final
class LocalGrid(Grid):
    """Plays `clients` clients of `app` in this process; node `k + 1` is partition `k`.

    `workers` threads train at once; results do not depend on their number. `stop` is set while running clients are to
    give up. An exception in a client becomes an error reply, and its traceback goes to the log.
    """

    def __init__(self, app: ClientApp, clients: int, *, workers: int = 1, stop: Event | None = None) -> None:
        self._app, self._clients, self._workers, self._stop = app, clients, workers, stop or Event()
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
        if self._workers == 1 and timeout is None:
            yield from (_delivered(message, partial(self._play, message)) for message in messages)
            return
        waiting, hung, end = iter(messages), False, monotonic() + (timeout or 0)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="client")
        try:
            running: deque[tuple[Message, Future[Message]]] = deque(
                (m, pool.submit(self._play, m)) for m in islice(waiting, AHEAD * self._workers)
            )
            while running:
                message, future = running.popleft()
                wait([future], None if timeout is None else max(0.0, end - monotonic()))
                hung = hung or not future.done()
                if future.done():
                    yield _delivered(message, future.result)
                else:
                    yield Message(Error(TIMED_OUT, f"no reply within {timeout} s"), reply_to=message)
                running.extend((m, pool.submit(self._play, m)) for m in islice(waiting, 1))
        finally:
            self._stop.set()
            pool.shutdown(wait=not hung, cancel_futures=True)
            self._stop.clear()

    def _play(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = self._contexts.get(node) or self._context(node, RecordDict())
        reply = self._app(isolated(message), context)
        if context.state:
            self._contexts[node] = context
        return reply

    def _context(self, node: int, state: RecordDict) -> Context:
        config: UserConfig = {"partition-id": node - 1, "num-partitions": self._clients}
        return Context(SIMULATED_RUN, node, config, state, {})


def _delivered(message: Message, reply: Callable[[], Message]) -> Message:
    """The reply, or an error in its place; its traceback is logged here, so only where somebody waits for it."""
    try:
        return reply()
    except (Exception, SystemExit) as error:
        log.exception("client %d raised", message.metadata.dst_node_id - 1)
        said = error.message if isinstance(error, FedqError) else f"{type(error).__name__}: {error}"
        return Message(Error(CLIENT_RAISED, said), reply_to=message)
