"""A SuperNode without a client: it speaks Flower's Fleet protocol, and replies with whatever it is told to.

For loads of many nodes in one process, and for tests of what a hostile site may send.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

Tamper = Callable[[dict[str, bytes]], dict[str, bytes]]  # objects of a reply by id -> those that are really sent


@dataclass
class BareNode:
    """One connected node."""

    node_id: int
    calls: tuple[Any, ...]

    def receive(self) -> Message | None:
        """The next message, whole, if there is one; a run that ends meanwhile takes its messages with it."""
        with suppress(RunNotRunningException):  # a BaseException: it would end the thread that asks
            return self._receive()
        return None

    def _receive(self) -> Message | None:
        receive, *_ = self.calls
        found = receive()
        if found is None:
            return None
        told, tree = found
        pull, confirm = self.calls[4], self.calls[6]
        wanted = [part.object_id for part in iterate_object_tree(tree)]
        contents = pull_objects(wanted, pull_object_fn=lambda object_id: pull(told.metadata.run_id, object_id))
        message: Any = inflate_object_from_contents(tree.object_id, contents)
        message.metadata.__dict__["_message_id"] = tree.object_id
        confirm(told.metadata.run_id, tree.object_id)
        return message  # type: ignore[no-any-return]

    def wait(self, seconds: float, pause: float = 0.2) -> Message:
        """The next message, or TimeoutError."""
        end = monotonic() + seconds
        while monotonic() < end:
            message = self.receive()
            if message is not None:
                return message
            sleep(pause)
        raise TimeoutError(f"no message within {seconds} s")

    def reply(self, message: Message, content: RecordDict, tamper: Tamper = lambda objects: objects) -> None:
        """Reply with `content`, unless the run is over; `tamper` changes its objects, as Flower sends them."""
        answer = Message(content, reply_to=message)
        answer.metadata.__dict__["_message_id"] = answer.object_id
        objects = {object_id: part.deflate() for object_id, part in get_all_nested_objects(answer).items()}
        send, push = self.calls[1], self.calls[5]
        with suppress(RunNotRunningException):
            wanted, session = send(answer, get_object_tree(answer), 0.0)
            for object_id, content_ in tamper(objects).items():
                if object_id in wanted:
                    push(answer.metadata.run_id, session, object_id, content_)


@contextmanager
def connected(address: str, ca: Path, key: Path) -> Iterator[BareNode]:
    """A node with a registered key, connected over TLS."""
    private: Any = load_ssh_private_key(key.read_bytes(), None)
    keys = (private, private.public_key())
    with http_request_response(address, False, ca.read_bytes(), keys, max_retries=20) as (node_id, *calls):
        yield BareNode(node_id, tuple(calls))
