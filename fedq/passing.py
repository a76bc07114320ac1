"""A Flower Grid around another: what a leaf does not change is the inner grid's."""

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedq._flower import Run


class PassingGrid(Grid):
    """Passes everything on to `grid`; a leaf says what becomes of an exchange."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    @property
    def run(self) -> Run:
        """The inner grid's run."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Set the inner grid's run."""
        self._grid.set_run(run)

    def get_node_ids(self) -> Iterable[int]:
        """The inner grid's nodes."""
        return self._grid.get_node_ids()

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message of the inner grid."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push to the inner grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull from the inner grid."""
        return self._grid.pull_messages(message_ids)
