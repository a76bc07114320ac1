"""Counts the bytes of every message, both ways: the lengths of the payloads that were really sent, nothing computed."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import final

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedq._flower import held
from fedq.passing import PassingGrid


def payload_bytes(content: RecordDict) -> int:
    """The bytes of all array payloads in a message's content."""
    n = 0
    for record in held(content).values():
        if isinstance(record, ArrayRecord):
            for array in held(record).values():
                n += len(array.data)
    return n


@final
class Ledger:
    """Payload bytes since the last `clear`, by message type and node."""

    def __init__(self) -> None:
        self.up: Counter[tuple[str, int]] = Counter()
        self.down: Counter[tuple[str, int]] = Counter()

    def clear(self) -> None:
        """Forget everything counted so far."""
        self.up.clear()
        self.down.clear()

    def sent(self, message: Message) -> None:
        """Count a message to a client."""
        about = message.metadata
        self.down[about.message_type, about.dst_node_id] += payload_bytes(message.content)

    def received(self, reply: Message) -> None:
        """Count a client's reply; one that carries an error has no payload."""
        if reply.has_content():
            about = reply.metadata
            self.up[about.message_type, about.src_node_id] += payload_bytes(reply.content)

    def totals(self, *kinds: str) -> tuple[int, int]:
        """Bytes up and down in all messages of these types, such as "query", "train" or "evaluate"."""
        up, down = (sum(n for (k, _), n in side.items() if k in kinds) for side in (self.up, self.down))
        return up, down


@final
class MeteredGrid(PassingGrid):
    """Any grid, with every message entered in a ledger as it passes.

    `wire` tells the bytes up and down that the transport has counted so far, where there is one that counts. A grid
    that may send a message twice, or not at all, enters by itself what it sends: `enters_sent`.
    """

    def __init__(
        self,
        grid: Grid,
        ledger: Ledger,
        wire: Callable[[], tuple[int, int] | None] = lambda: None,
        *,
        enters_sent: bool = False,
    ) -> None:
        super().__init__(grid)
        self.ledger, self._wire, self._enters_sent = ledger, wire, enters_sent
        self._before: tuple[int, int] | None = None

    def begin(self) -> None:
        """Count from here on."""
        self.ledger.clear()
        self._before = self._wire()

    def wire(self) -> tuple[int | None, int | None]:
        """Bytes up and down on the wire since `begin`."""
        now = self._wire() if self._before else None
        return (now[0] - self._before[0], now[1] - self._before[1]) if now and self._before else (None, None)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push and count."""
        return self._grid.push_messages(self._outgoing(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Pull and count."""
        return self._incoming(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Generator[Message]:
        """Send, receive and count, in a stream."""
        return self._incoming(self._grid.send_and_receive(self._outgoing(messages), timeout=timeout))

    def _outgoing(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            if not self._enters_sent:
                self.ledger.sent(message)
            yield message

    def _incoming(self, replies: Iterable[Message]) -> Generator[Message]:
        for reply in replies:
            self.ledger.received(reply)
            yield reply
