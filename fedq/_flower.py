"""Every private or unstable Flower import, in one place. `tests/test_flower.py` says which one moved.

In a process that is not a Flower task, messages can be built only after the task identity is set; message ids are given
by the SuperLink, so an in-process grid must set them itself. Importing this module also turns Flower's telemetry off.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import time
from typing import Any, TypeVar

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SIMULATED_RUN = 1
NODE_UNAVAILABLE: int = ErrorCode.NODE_UNAVAILABLE
Filled = TypeVar("Filled", ArrayRecord, MetricRecord, RecordDict)
Copied = TypeVar("Copied", ArrayRecord, ConfigRecord, MetricRecord, RecordDict)


def simulated_run() -> Run:
    """Run information for a grid without a SuperLink; also lets this process build messages.

    A process that Flower started for a task keeps the identity that it was given.
    """
    if TaskIdentity._run_id is None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = SIMULATED_RUN, SUPERLINK_NODE_ID, 1
    return Run.create_empty(SIMULATED_RUN)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, which replies refer to."""
    message.metadata.__dict__["_message_id"] = message_id


def addressed(content: RecordDict, nodes: Iterable[int], kind: str) -> list[Message]:
    """A message with this content to each of these nodes: as Flower builds them one by one, in a tenth of the time."""
    like = Message(content, 0, kind)
    return [_message(like, content, _dst_node_id=node) for node in nodes]


def answer(message: Message, content: RecordDict) -> Message:
    """`Message(content, reply_to=message)` without its tests of types, which take longer than a small client trains."""
    asked, now = message.metadata.__dict__, time()
    return _message(
        message,
        content,
        _message_id="",
        _src_node_id=asked["_dst_node_id"],
        _dst_node_id=asked["_src_node_id"],
        _src_task_id=asked["_dst_task_id"],
        _dst_task_id=asked["_src_task_id"],
        _reply_to_message_id=asked["_message_id"],
        _created_at=now,
        _ttl=asked["_created_at"] + asked["_ttl"] - now,
        _delivered_at="",
    )


def _message(like: Message, content: RecordDict, **metadata: Any) -> Message:
    """A message whose metadata differ from those of `like` in these."""
    made = with_content(like, content)
    told = made.__dict__["_metadata"] = Metadata.__new__(Metadata)
    told.__dict__.update(like.metadata.__dict__, **metadata)
    return made


def isolated(message: Message) -> Message:
    """The message with records of its own, so that a client may pop from them; array bytes are shared."""
    content = copied(message.content)
    own = held(content)
    for name, record in own.items():
        own[name] = copied(record)
    return with_content(message, content)


def with_content(message: Message, content: RecordDict) -> Message:
    """A message with the same sender, receiver and ids, and other content."""
    made = Message.__new__(Message)
    made.__dict__.update(message.__dict__, _content=content)
    return made


def rebuilt(metadata: Any, content: RecordDict) -> Message:
    """The message that these metadata and this content were taken from."""
    made: Any = Message
    message: Message = made(content, metadata=metadata)
    return message


def filled(record: Filled, values: Mapping[str, Any]) -> Filled:
    """An empty record with these values, known to be of its kind: its own tests of types take longer than packing."""
    held(record).update(values)
    return record


def held(record: Any) -> dict[str, Any]:
    """What a record holds, as the dict within: at each access of its own Flower builds a generic type first."""
    data: dict[str, Any] = record.__dict__["_data"]
    return data


def copied(record: Copied) -> Copied:
    """`record.copy()`, in a fraction of the time."""
    made = object.__new__(type(record))
    made.__dict__.update(record.__dict__, _data=held(record).copy())
    return made


def to_bytes(content: RecordDict) -> bytes:
    """Records as bytes, in Flower's own form."""
    packed: bytes = recorddict_to_proto(content).SerializeToString()
    return packed


def from_bytes(content: bytes) -> RecordDict:
    """The inverse of `to_bytes`."""
    return recorddict_from_proto(RecordDictProto.FromString(content))


def quiet() -> None:
    """Send Flower's log to ours (`log.txt` of a run) instead of the terminal."""
    logger = logging.getLogger("flwr")
    logger.handlers.clear()
    logger.parent = logging.getLogger("fedq")
    if not logger.parent.handlers:
        logger.parent.addHandler(logging.NullHandler())
    logger.propagate = True


def traffic(grid: Any) -> tuple[int, int] | None:
    """Bytes that the SuperLink of a deployed run's grid has counted so far, from sites and to them.

    They are the serialised requests and answers that carry a message or a part of one; HTTP and TLS around them are not
    in it, nor are heartbeats. None where there is no SuperLink that counts.
    """
    if not hasattr(grid, "_runtime_client"):
        return None
    from flwr.proto.control_pb2 import ListRunsRequest

    try:
        with _control(grid._addr, grid._cert, insecure=grid._insecure) as client:
            run_id = grid.run.run_id
            found = client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]
    except Exception:  # a SuperLink that asks for accounts: there is no number
        return None
    return int(found.bytes_recv), int(found.bytes_sent)


def registered(address: str, ca: bytes) -> dict[bytes, str]:
    """The public keys (PEM) that a SuperLink knows, and the state of each one's node."""
    from flwr.proto.control_pb2 import ListNodesRequest

    with _control(address, ca) as client:
        return {node.public_key: node.status for node in client.ListNodes(ListNodesRequest()).nodes_info}


@contextmanager
def _control(address: str, ca: bytes | None, *, insecure: bool = False) -> Iterator[Any]:
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    version = [RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")]
    client = ControlHttpClient.from_server_address(address, insecure, ca, version)
    try:
        yield client
    finally:
        client.close()


__all__ = [
    "NODE_UNAVAILABLE",
    "SIMULATED_RUN",
    "Run",
    "addressed",
    "answer",
    "copied",
    "filled",
    "from_bytes",
    "held",
    "isolated",
    "quiet",
    "rebuilt",
    "registered",
    "set_message_id",
    "simulated_run",
    "to_bytes",
    "traffic",
    "with_content",
]
