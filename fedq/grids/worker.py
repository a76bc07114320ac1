"""The far side of `RayGrid`: an actor that holds data and networks, and plays the cohorts that it is handed."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, final

from flwr.app import Error, Message, RecordDict

from fedq._flower import rebuilt, simulated_run
from fedq.grids.crew import Crew, Failure

PACKAGES = ("fedq", "flwr", "torch", "numpy")  # must be the same on every node


class Asked(NamedTuple):
    """A message without what it shares with others: those records are given by their place among the shared ones."""

    metadata: Any
    records: Mapping[str, Any]  # name -> a record, or the place of a shared one


class Reply(NamedTuple):
    """What a client made of a message: content, or an error reply's reason, or what it raised; and what it keeps."""

    made: RecordDict | Error | Failure
    state: RecordDict | None


@final
class Worker:
    """Made in an actor from `make(shared)`; `shared` are the data, one copy a node in the object store."""

    def __init__(self, make: Callable[[Any], Crew], shared: Any) -> None:
        simulated_run()
        self._crew = make(shared)
        self._records: dict[Any, Any] = {}

    def about(self) -> tuple[int, str, dict[str, str]]:
        """Process, node and versions: said once the worker is ready."""
        return os.getpid(), platform.node(), {name: version(name) for name in PACKAGES}

    def play(
        self, cohorts: Sequence[Sequence[Asked]], kept: Mapping[int, RecordDict], shared: Sequence[Any]
    ) -> list[Reply]:
        """The replies of all clients in these cohorts; `shared` refers to records in the object store."""
        import ray

        missing = [ref for ref in shared if ref not in self._records]
        found = dict(zip(missing, ray.get(missing), strict=True))
        self._records = {ref: found[ref] if ref in found else self._records[ref] for ref in shared}
        records = list(self._records.values())
        return [reply for cohort in cohorts for reply in self._played([_message(a, records) for a in cohort], kept)]

    def _played(self, cohort: list[Message], kept: Mapping[int, RecordDict]) -> list[Reply]:
        with self._crew.prepared(cohort):
            return [self._reply(m, kept.get(m.metadata.dst_node_id, RecordDict())) for m in cohort]

    def _reply(self, message: Message, state: RecordDict) -> Reply:
        reply, state = self._crew.play(message, RecordDict({name: r.copy() for name, r in state.items()}))
        if isinstance(reply, Failure):
            return Reply(reply, None)
        return Reply(reply.error if reply.has_error() else reply.content, state)


def _message(asked: Asked, shared: Sequence[Any]) -> Message:
    records = {name: shared[r] if isinstance(r, int) else r for name, r in asked.records.items()}
    return rebuilt(asked.metadata, RecordDict(records))
