"""Where an attack acts: on a client's data, in a mod inside its encode mod, or in a grid that sees every honest reply.

Data and own attacks work wherever a client runs. Omniscient ones need `AttackedGrid`, which exists in simulation only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.serverapp import Grid

from fedq.attacks import Attackers
from fedq.attacks.base import DataAttack, OmniscientAttack, OwnAttack, Seen, Wire
from fedq.data import Examples
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.messages import arrays, partition_of, round_of
from fedq.passing import PassingGrid
from fedq.rng import rng
from fedq.strategies.base import arrays_of, nodes, train_loss

Poison = Callable[[int, Examples], Examples]


def poison(who: Attackers | None, classes: int) -> Poison | None:
    """What a data attack makes of a partition's examples; None for other attacks."""
    if who is None or not isinstance(who.attack, DataAttack):
        return None
    labels, partitions = who.attack.labels, who.partitions
    return lambda k, examples: Examples(examples.x, labels(examples.y, classes)) if k in partitions else examples


def mods(who: Attackers | None, wire: Wire, *, simulated: bool = True) -> list[Mod]:
    """The mod of an own attack, none for others. FedqError FQ105 for an omniscient one outside simulation."""
    if who is not None and isinstance(who.attack, OmniscientAttack) and not simulated:
        raise FedqError(
            "FQ105",
            f"`{who.name}` sees every client's reply, which exists in simulation only",
            key="attack",
            hint="deployed clients can make: stall, sign_flip, random, gaussian, label_flip",
        )
    return [_mod(who.attack, who.partitions, wire)] if who and isinstance(who.attack, OwnAttack) else []


def attacked(grid: Grid, who: Attackers | None, wire: Wire) -> Grid:
    """The grid with an omniscient attack on it, or as it is."""
    if who is None or not isinstance(who.attack, OmniscientAttack):
        return grid
    return AttackedGrid(grid, who.attack, who.partitions, wire)


def _mod(attack: OwnAttack, partitions: frozenset[int], wire: Wire) -> Mod:
    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        partition, round_ = partition_of(context), round_of(message)
        reply = call(message, context)
        if partition in partitions and reply.has_content():
            start, sent = _model(message), records.to_arrays(arrays_of(reply))  # type: ignore[arg-type]
            random = rng(wire.seed, "attack", round_, partition)
            forged = attack.forge(wire.update(sent, start), start, wire, random)
            reply.content["arrays"] = records.to_record(wire.sent(forged, start))
        return reply

    return mod


@final
class AttackedGrid(PassingGrid):
    """Any simulation grid, with the train replies of some partitions forged from those of all others.

    Attackers are sent what all clients are sent, and train as they do: what they hold between rounds is true, and only
    what they send is not. In a round without any honest reply they have nothing to go by, and send their own.
    """

    def __init__(self, grid: Grid, attack: OmniscientAttack, partitions: frozenset[int], wire: Wire) -> None:
        super().__init__(grid)
        self._attack, self._partitions, self._wire = attack, partitions, wire

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not offered: attackers need the replies of one whole exchange."""
        raise NotImplementedError("an attacked round is one exchange: use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not offered: see `push_messages`."""
        raise NotImplementedError("an attacked round is one exchange: use send_and_receive")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Every reply in the order of the messages, once all honest ones are there."""
        asked, place = list(messages), nodes(self._grid).index
        replies = {r.metadata.src_node_id: r for r in self._grid.send_and_receive(asked, timeout=timeout)}
        bad = [m for m in asked if m.metadata.message_type == "train" and place(_node(m)) in self._partitions]
        own = {_node(m): replies.pop(_node(m)) for m in bad}
        honest = [r for r in replies.values() if r.has_content()]
        replies |= {_node(m): r for m, r in zip(bad, self._forged(bad, honest, place), strict=True)} if honest else own
        yield from (replies[_node(m)] for m in asked)

    def _forged(
        self, bad: Sequence[Message], honest: Sequence[Message], place: Callable[[int], int]
    ) -> Iterator[Message]:
        if not bad:
            return
        start = _model(bad[0])
        update = self._attack.forge(Seen(self._wire, start, [arrays_of(r) for r in honest]), len(bad))
        sent = self._wire.sent(update, start)
        losses, examples = zip(*(train_loss(r) for r in honest), strict=True)
        metrics = MetricRecord({"num-examples": int(np.median(examples)), "train-loss": float(np.median(losses))})
        told = bad[0].content
        side = records.to_arrays(arrays(told, "side")) if "side" in told else None
        for message in bad:
            where = (round_of(message), place(_node(message)))
            packed = records.encode(sent, self._wire.codec, self._wire.seed, "up", *where, side=side)
            content = RecordDict({"arrays": packed, "metrics": metrics})
            yield Message(content, reply_to=message)


def _node(message: Message) -> int:
    return message.metadata.dst_node_id


def _model(message: Message) -> Arrays:
    """The model that a client was sent; nothing where it was sent something else, such as TernGrad's shared scales."""
    return records.to_arrays(arrays(message.content)) if "arrays" in message.content else {}
