"""The Flower ClientApp of every strategy, and the mod that packs what it sends.

A train message carries `arrays` (the global weights, packed by the downlink codec) and `config` (`server-round`); the
reply carries `arrays` and `metrics` (`num-examples`, `train-loss`). The partition comes from the node's config. Mods
wrap the train function: the outermost packs (with error feedback or without), what stands inside it sees float32.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedq.clients.replica import replica_mod
from fedq.clients.trainer import Trainer
from fedq.errors import FedqError
from fedq.kernels import PackedCodec, records


def client_app(
    trainer: Trainer,
    codec: PackedCodec,
    seed: int,
    mods: Sequence[Mod] = (),
    pack: Callable[[PackedCodec, int], Mod] | None = None,
) -> ClientApp:
    """A ClientApp whose clients train with `trainer` and send through `codec`; `pack` makes the mod, `encode_mod`."""
    app, replica = ClientApp(), replica_mod()

    @app.query(mods=[replica])
    def query(message: Message, context: Context) -> Message:
        """What clients must share before they encode; the trained arrays wait for the train message."""
        reply = trained(message, context)
        context.state["pending"], context.state["metrics"] = reply.content["arrays"], reply.content["metrics"]
        sides = {name: codec.side(x) for name, x in records.to_arrays(_arrays(reply)).items()}
        side = records.to_record({name: x for name, x in sides.items() if x is not None})
        return Message(RecordDict({"side": side}), reply_to=message)

    @app.train(mods=[replica, (pack or encode_mod)(codec, seed), *mods])
    def train(message: Message, context: Context) -> Message:
        if "side" not in message.content:
            return trained(message, context)
        if "pending" not in context.state:
            raise FedqError("FQ301", "the server shared scales, but this client has trained nothing")
        content = RecordDict({"arrays": context.state.pop("pending"), "metrics": context.state.pop("metrics")})
        return Message(content, reply_to=message)

    def trained(message: Message, context: Context) -> Message:
        place, told = (_round(message), _partition(context)), message.content.config_records["config"]
        trained = trainer.ready(*place)
        if trained is None:
            weights, kept = records.to_arrays(_arrays(message)), context.state.array_records.get("memory")
            trained = trainer.train(weights, *place, records.to_arrays(kept) if kept else None, told)
        if trained.memory:
            context.state["memory"] = records.to_record(trained.memory)
        metrics = MetricRecord({"num-examples": trained.examples, "train-loss": trained.loss})
        content = RecordDict({"arrays": records.to_record(trained.arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        loss, accuracy, n = trainer.evaluate(records.to_arrays(_arrays(message)), _partition(context))
        metrics = MetricRecord({"num-examples": n, "loss": loss, "accuracy": accuracy})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def train_ahead(trainer: Trainer) -> Callable[[Sequence[Message], Sequence[int]], AbstractContextManager[None]]:
    """Trains the clients of a cohort of messages together, where they are asked for the same."""

    def ahead(messages: Sequence[Message], partitions: Sequence[int]) -> AbstractContextManager[None]:
        asked = messages[0].content
        alike = all(m.content.get("arrays") is asked.get("arrays") for m in messages)
        if messages[0].metadata.message_type != "train" or "arrays" not in asked or not alike:
            return nullcontext()
        weights, told = records.to_arrays(_arrays(messages[0])), asked.config_records["config"]
        return trainer.ahead(weights, _round(messages[0]), partitions, told)

    return ahead


def encode_mod(codec: PackedCodec, seed: int) -> Mod:
    """Pack the arrays of every reply, with random bits of (round, partition, name)."""

    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        reply = call(message, context)
        if reply.has_content():
            arrays, shared = records.to_arrays(_arrays(reply)), message.content.array_records.get("side")
            place, side = (_round(message), _partition(context)), records.to_arrays(shared) if shared else None
            reply.content["arrays"] = records.encode(arrays, codec, seed, "up", *place, side=side)
        return reply

    return mod


def _arrays(message: Message) -> ArrayRecord:
    return message.content.array_records["arrays"]


def _round(message: Message) -> int:
    return int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])
