"""Flower's own Grid in a deployment, made fit for a round loop: sites by name, replies as they come, nothing hangs.

Flower's `send_and_receive` returns when all replies are there, or none after hours. Here replies are handed on in the
order of the messages, each as soon as it and those before it are there; a site that was restarted is asked again, as
what it was asked before died with it; and what is missing after `timeout` seconds is an error in its place.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from time import monotonic, sleep
from typing import Any, cast, final

import httpx
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedq._flower import NODE_UNAVAILABLE
from fedq.deploy.bundle import bundled, unbundled
from fedq.errors import FedqError
from fedq.grids.crew import TIMED_OUT
from fedq.passing import PassingGrid

log = logging.getLogger("fedq")

POLL = 0.5  # seconds between looks for replies, at least; a look never takes more than a fifth of the time
STALL = 5.0  # seconds after which others are no longer kept waiting for a reply that comes slowly, or in parts only
LOOK = 5.0  # seconds between looks at who is there

SAID = {"partition": int, "examples": int, "kernels": str, "fedq": str, "flwr": str, "own_data": bool}  # to hello
ABSENT, GARBLED = 101, 102  # codes of errors, besides Flower's and those of LocalGrid
GONE = "gone"


class SuperLinkGone(BaseException):
    """The server itself does not answer: no fault of the run, which can go on from its last checkpoint."""


@dataclass
class _Asked:
    """A message, the ids under which it was sent, and the activation of its node in which that was."""

    message: Message
    place: int
    ids: list[str] = field(default_factory=list)
    activated: str = ""
    pulls: dict[str, "_Pull"] = field(default_factory=dict)
    reply: Message | None = None


@final
class DeployedGrid(PassingGrid):
    """`grid`, with partition k at node `get_node_ids()[k]`; `hello` is told to every site before anything else.

    `names` are the sites in the order of their partitions, None where Flower gives nodes no names (its simulation):
    then nodes are taken by the partitions that they say themselves. `sites` has what each site answered. `sent` is told
    every message that is really pushed: none to a site that is away, two to one that is asked again.
    """

    cohort = 1

    def __init__(
        self,
        grid: Grid,
        clients: int,
        names: Sequence[str] | None,
        hello: Mapping[str, Any],
        *,
        timeout: float = 600.0,
        sent: Callable[[Message], None] = lambda message: None,
    ) -> None:
        super().__init__(grid)
        self._clients, self._names, self._timeout, self._sent = clients, names, timeout, sent
        self._hello = ConfigRecord(dict(hello))
        self._node: dict[int, int] = {}  # partition -> node id
        self._greeted: dict[int, str] = {}  # node id -> the activation in which it was greeted
        self.sites: dict[int, ConfigRecord] = {}  # partition -> what its site answered

    def get_node_ids(self) -> Sequence[int]:
        """Node ids in the order of partitions; k + 1 for a site that was never seen."""
        return [self._node.get(k, k + 1) for k in range(self._clients)]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message of this run."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def state(self) -> dict[str, Any]:
        """Nothing: sites keep what is theirs."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""

    # --------------------------------------------------------------------------------------------- who is there

    def wait_for_sites(self, share: float = 1.0, seconds: float = 120.0) -> list[str]:
        """Wait until all sites are online and greeted, or `seconds`; returns the names of those missing.

        FedqError FQ207 if more than a share of 1 - `share` is missing, or refused the run.
        """
        end, refused = monotonic() + seconds, dict[str, str]()
        while True:
            refused |= self._greet(self._online(), max(1.0, end - monotonic()))
            missing = [self.name(k) for k in range(self._clients) if k not in self.sites]
            if self._names:  # a site that refused may have been mended since
                refused = {name: why for name, why in refused.items() if name in missing}
            if len(missing) <= len(refused) or (refused and not self._names) or monotonic() > end:
                break
            sleep(POLL)
        if len(missing) > (1 - share) * self._clients:
            absent = [name for name in missing if name not in refused]
            why = [f"{name}: {said}" for name, said in refused.items()]
            why += [f"not online: {', '.join(absent)}"] if len(missing) > len(refused) else []
            hint = "start its client, or let --set tolerate=SHARE go on without it; fedq doctor --deploy DIR says more"
            raise FedqError("FQ207", f"{len(missing)} of {self._clients} sites cannot take part: {'; '.join(why)}",
                            where=", ".join(missing), hint=hint)  # fmt: skip
        return missing

    def name(self, partition: int) -> str:
        """The site of a partition."""
        return self._names[partition] if self._names else f"partition {partition}"

    def _online(self) -> dict[int, str]:
        """Nodes that are online, and when each was activated; their partitions, where names tell them."""
        with _at_superlink():
            nodes = self._grid.get_nodes() if hasattr(self._grid, "get_nodes") else ()
        found = {node.node_id: node.last_activated_at for node in nodes}
        if not found and not self._names:
            return dict.fromkeys(self._grid.get_node_ids(), "")
        places = {name: k for k, name in enumerate(self._names or ())}
        for node in nodes:
            if node.name in places and self._node.get(places[node.name]) != node.node_id:
                self._node[places[node.name]] = node.node_id
        if self._names:
            return {node: found[node] for node in self._node.values() if node in found}
        return found

    def _greet(self, online: Mapping[int, str], seconds: float) -> dict[str, str]:
        """Say hello to nodes that were not greeted since they were activated; why sites refused."""
        new = [node for node, activated in online.items() if self._greeted.get(node) != activated]
        place = {node: k for k, node in self._node.items()}
        asked = [_Asked(Message(RecordDict({"config": self._hello}), n, "query.hello"), place.get(n, -1)) for n in new]
        refused = {}
        for one in self._answered(asked, online, seconds):
            assert one.reply is not None
            node, partition = one.message.metadata.dst_node_id, one.place
            said, claimed = _answer(one.reply)
            if said and partition in (-1, claimed) and 0 <= claimed < self._clients:
                self._node[claimed], self.sites[claimed] = node, said
                self._greeted[node] = online[node]
                continue
            name = self.name(partition) if partition >= 0 else f"node {node}"
            error = one.reply.error if one.reply.has_error() else None
            odd = f"it says it is partition {claimed}" if said else "an answer that no site gives"
            why = (error.reason if error else odd) or "no reason given"
            if error is None or error.code != TIMED_OUT:
                self._greeted[node] = online[node]
            refused[name] = why
            log.warning("%s refused: %s", name, why)
        return refused

    # --------------------------------------------------------------------------------------------- messages

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of `messages`, streamed; an error for each that is not there in time."""
        place = {node: k for k, node in enumerate(self.get_node_ids())}
        asked = [_Asked(message, place[message.metadata.dst_node_id]) for message in messages]
        if not asked:
            return
        online = self._online()
        self._greet(online, self._timeout)
        for one in self._answered(asked, online, timeout or self._timeout):
            assert one.reply is not None
            yield one.reply

    def _answered(self, asked: list[_Asked], online: Mapping[int, str], seconds: float) -> Iterator[_Asked]:
        """Each of `asked` with its reply, in their order."""
        end, looked, done = monotonic() + seconds, monotonic(), 0
        self._push(asked, online)
        while done < len(asked):
            started = monotonic()
            for one in asked[done:]:
                if one.reply is None and one.ids:
                    one.reply = self._pulled(one)
            took = monotonic() - started
            while done < len(asked) and asked[done].reply is not None:
                yield asked[done]
                done += 1
            if done == len(asked):
                return
            if monotonic() > end:
                for one in asked[done:]:
                    one.reply = one.reply or self._late(one, seconds)
                continue
            sleep(max(POLL, 4 * took))
            if monotonic() - looked > LOOK:
                online, looked = self._online(), monotonic()
                self._ask_again([one for one in asked[done:] if one.reply is None], online, end - monotonic())

    def _push(self, asked: Sequence[_Asked], online: Mapping[int, str]) -> None:
        there = [one for one in asked if one.message.metadata.dst_node_id in online]
        if not there:
            return
        packed = {id(one.message.content): bundled(one.message.content) for one in there}  # most share one content
        sent = [_with(one.message, packed[id(one.message.content)]) for one in there]
        with _at_superlink():
            ids = self._grid.push_messages(sent)
        for one, id_ in zip(there, ids, strict=True):
            one.activated = online[one.message.metadata.dst_node_id]
            if id_:
                one.ids.append(id_)
                self._sent(one.message)

    def _ask_again(self, missing: Sequence[_Asked], online: Mapping[int, str], seconds: float) -> None:
        """Send once more what a site was asked before it was (re)started, or while it was away."""
        back = [one for one in missing if online.get(one.message.metadata.dst_node_id, one.activated) != one.activated]
        if not back:
            return
        log.info("asked again after a restart: %s", ", ".join(self.name(one.place) for one in back))
        if any(one.message.metadata.message_type != "query.hello" for one in back):
            nodes = [one.message.metadata.dst_node_id for one in back]
            self._greet({node: online[node] for node in nodes}, seconds)
        for one in back:
            one.message = _with(one.message, one.message.content)
        self._push(back, online)

    def _pulled(self, one: _Asked) -> Message | None:
        """The reply, if it is there. One that cannot even be read is an error: others are not lost for it."""
        for id_ in one.ids:
            pull = one.pulls.setdefault(id_, _Pull(self._grid, id_))
            if not pull.ended():
                continue
            del one.pulls[id_]
            if pull.error is not None:
                said = f"a reply that cannot be read: {type(pull.error).__name__}: {pull.error}"
                return self._error(one, GARBLED, said)
            if not pull.found:
                continue
            reply, node = pull.found[0], one.message.metadata.dst_node_id
            if reply.has_error() and reply.error.code == NODE_UNAVAILABLE and node not in self._online():
                one.ids, one.activated = [], GONE  # asked again when it is back
                return None
            if reply.has_error():
                return self._error(one, reply.error.code, reply.error.reason or "")
            if reply.metadata.src_node_id != node:
                return self._error(one, GARBLED, "a reply in another's name")
            try:
                reply.content = unbundled(reply.content)
            except FedqError as error:
                log.warning("%s sent %s", self.name(one.place), error.message)
                reply.content = RecordDict()  # which no check lets pass
            return reply
        return None

    def _late(self, one: _Asked, seconds: float) -> Message:
        if not one.ids:
            return self._error(one, ABSENT, f"{self.name(one.place)} is not online")
        return self._error(one, TIMED_OUT, f"{self.name(one.place)} did not reply within {seconds:g} s")

    @staticmethod
    def _error(one: _Asked, code: int, reason: str) -> Message:
        return Message(Error(code, reason), reply_to=one.message)


class _Pull(Thread):
    """Looks for one reply. Flower waits up to hours for a reply whose parts were announced and never came."""

    def __init__(self, grid: Grid, message_id: str) -> None:
        super().__init__(daemon=True)
        self._grid, self._id, self._begun = grid, message_id, False
        self.found: list[Message] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Look once."""
        try:
            self.found = list(self._grid.pull_messages([self._id]))
        except Exception as error:
            self.error = error

    def ended(self) -> bool:
        """Whether it has found out; it is given a moment. SuperLinkGone where there is nobody to ask."""
        if not self._begun:
            self._begun = True
            self.start()
            self.join(STALL)
        if self.is_alive():
            return False
        if isinstance(self.error, httpx.HTTPError):
            raise SuperLinkGone(str(self.error)) from self.error
        return True


@contextmanager
def _at_superlink() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise SuperLinkGone(str(error)) from error


def _with(message: Message, content: RecordDict) -> Message:
    """A new message of the same type to the same node."""
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)


def _answer(reply: Message) -> tuple[ConfigRecord | None, int]:
    """What a site answers to hello, and which partition it says it is."""
    answer = reply.content.get("config") if reply.has_content() else None
    if not isinstance(answer, ConfigRecord) or any(type(answer.get(key)) is not kind for key, kind in SAID.items()):
        return None, -1
    return answer, cast(int, answer["partition"])
