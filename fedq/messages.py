"""What the messages of a round hold, and how it is read.

A train message: `arrays` (the global weights, packed by the downlink codec) and `config` (`server-round`, and what a
strategy tells its clients). A reply: `arrays` (packed by the uplink codec) and `metrics` (`num-examples`,
`train-loss`). Messages of a first exchange bring `side` back. Records are taken by name from the content itself:
Flower's views by kind (`content.array_records`) copy it each time.
"""

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedq._flower import answer, filled, held
from fedq.errors import FedqError


def arrays(content: RecordDict, name: str = "arrays") -> ArrayRecord:
    """The array record of this name. FedqError FQ302 if there is none."""
    found = held(content).get(name)
    if not isinstance(found, ArrayRecord):
        raise FedqError("FQ302", f"a message without a record of arrays named `{name}`")
    return found


def metrics(content: RecordDict) -> MetricRecord:
    """The metrics. FedqError FQ302 if there are none."""
    found = held(content).get("metrics")
    if not isinstance(found, MetricRecord):
        raise FedqError("FQ302", "a message without metrics")
    return found


def config(content: RecordDict) -> ConfigRecord:
    """What the server tells. FedqError FQ302 if there is no such record."""
    found = held(content).get("config")
    if not isinstance(found, ConfigRecord):
        raise FedqError("FQ302", "a message without a config record")
    return found


def round_of(message: Message) -> int:
    """The round that a message of the server belongs to."""
    return int(held(config(message.content))["server-round"])


def partition_of(context: Context) -> int:
    """The partition of the client that a context belongs to."""
    return int(context.node_config["partition-id"])


def reply_to(message: Message, arrays: ArrayRecord, examples: int, loss: float) -> Message:
    """A reply to a train message: what is sent, the client's number of examples and its mean training loss."""
    metrics = filled(MetricRecord(), {"num-examples": examples, "train-loss": loss})
    return answer(message, filled(RecordDict(), {"arrays": arrays, "metrics": metrics}))
