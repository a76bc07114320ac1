"""Clients that lie: in a simulation, one whose replies are changed on their way."""

from collections.abc import Callable
from typing import Any

from flwr.app import Message, RecordDict

from fedq._flower import with_content
from fedq.build import Simulation


def liar(simulation: Simulation, part: str, lie: Callable[[Any], Any]) -> Simulation:
    """The simulation, with `lie` over the record `part` of every reply of node 2 that has it."""
    play = simulation.clients._play

    def lying(message: Message) -> Message:
        reply: Message = play(message)
        if message.metadata.dst_node_id == 2 and part in reply.content:
            return with_content(reply, RecordDict({**reply.content, part: lie(reply.content[part])}))
        return reply

    simulation.clients._play = lying
    return simulation
