"""What Grids of simulated clients share: nodes, messages, and what clients keep between rounds."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedq._flower import Run, set_message_id, simulated_run
from fedq.grids.memory import Memory


class SimulatedGrid(Grid, ABC):
    """A Grid whose clients are played when their reply is wanted; node `k + 1` is partition `k`. A leaf says where."""

    def __init__(self, clients: int, cohort: int) -> None:
        self._clients, self.cohort = clients, cohort
        self._run = simulated_run()
        self._ids = count(1)
        self._pending: dict[str, Message] = {}
        self.memory = Memory()

    @abstractmethod
    def _replies(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Replies in the order of `messages`, streamed; those not there after `timeout` seconds are errors."""

    def open(self) -> None:
        """Take what the grid needs besides memory, if it has not yet."""

    def close(self) -> None:
        """Give back what `open` took."""

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
        return self.memory.packed()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.memory = Memory.of_packed(state)
