"""What plays clients, in whatever thread or process: their app, and the training of a cohort ahead of it."""

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple, final

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from fedq._flower import SIMULATED_RUN, isolated
from fedq.errors import FedqError

log = logging.getLogger("fedq")

CLIENT_RAISED, TIMED_OUT = 3, 4  # Flower's codes are 0 to 2 and its own

Ahead = Callable[[Sequence[Message], Sequence[int]], AbstractContextManager[None]]


class Failure(NamedTuple):
    """What a client raised: in short, and where."""

    said: str
    trace: str = ""


@final
@dataclass(frozen=True)
class Crew:
    """Plays `clients` clients of `app`; node `k + 1` is partition `k`.

    `ahead` is told of each cohort, and its partitions, before it is played, so that it may train those clients
    together. `stop` is set while running clients are to give up.
    """

    app: ClientApp
    clients: int
    ahead: Ahead | None = None
    stop: Event = field(default_factory=Event)

    @contextmanager
    def prepared(self, cohort: Sequence[Message]) -> Iterator[None]:
        """The clients of a cohort trained together, if they can be."""
        with ExitStack() as stack:
            if self.ahead and len(cohort) > 1:
                try:
                    stack.enter_context(self.ahead(cohort, [m.metadata.dst_node_id - 1 for m in cohort]))
                except Exception as error:  # each then fails or succeeds by itself
                    if not self.stop.is_set():
                        log.warning("a cohort could not be trained together: %s: %s", type(error).__name__, error)
            yield

    def play(self, message: Message, state: RecordDict) -> tuple[Message | Failure, RecordDict]:
        """The client's reply to `message`, or what it raised; and what it wants to keep, `state` before."""
        if self.stop.is_set():
            return Failure("nobody waits for it"), state
        try:
            return self.alone(message, state)
        except (Exception, SystemExit) as error:
            said = error.message if isinstance(error, FedqError) else f"{type(error).__name__}: {error}"
            return Failure(said, traceback.format_exc()), state

    def alone(self, message: Message, state: RecordDict) -> tuple[Message, RecordDict]:
        """The client's reply and what it wants to keep; what it raises passes through."""
        node = message.metadata.dst_node_id
        config: UserConfig = {"partition-id": node - 1, "num-partitions": self.clients}
        context = Context(SIMULATED_RUN, node, config, state, {})
        return self.app(isolated(message), context), context.state


def delivered(message: Message, reply: Message | Failure) -> Message:
    """The reply, or an error in its place; a traceback is logged here, so only where somebody waits for the reply."""
    if isinstance(reply, Message):
        return reply
    log.error("client %d raised\n%s", message.metadata.dst_node_id - 1, reply.trace)
    return Message(Error(CLIENT_RAISED, reply.said), reply_to=message)


def late(message: Message, timeout: float | None) -> Message:
    """The error reply of a client that took too long."""
    return Message(Error(TIMED_OUT, f"no reply within {timeout} s"), reply_to=message)
