"""The Flower ClientApp of every strategy, and the mod that packs what it sends; what messages hold: `fedq.messages`.

Mods wrap the train function: the outermost packs (with error feedback or without), what stands inside it sees float32.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod
from numpy.typing import NDArray

from fedq._flower import held
from fedq.clients.replica import replica_mod
from fedq.clients.trainer import Beside, Trainer
from fedq.errors import FedqError
from fedq.kernels import PackedCodec, records
from fedq.kernels.records import Arrays
from fedq.messages import arrays, config, metrics, partition_of, reply_to, round_of
from fedq.privacy.ledger import Ledger


def client_app(
    trainer: Trainer,
    codec: PackedCodec,
    seed: int,
    mods: Sequence[Mod] = (),
    pack: Callable[[PackedCodec, int], Mod] | None = None,
) -> ClientApp:
    """A ClientApp whose clients train with `trainer` and send through `codec`; `pack` makes the mod, `encode_mod`."""
    app, replica, read = ClientApp(), replica_mod(), records.Reader()

    @app.query(mods=[replica])
    def query(message: Message, context: Context) -> Message:
        """What clients must share before they encode; the trained arrays wait for the train message."""
        reply = trained(message, context)
        context.state["pending"], context.state["metrics"] = reply.content["arrays"], reply.content["metrics"]
        sides = {name: codec.side(x) for name, x in records.own(arrays(reply.content)).items()}
        side = records.to_record({name: x for name, x in sides.items() if x is not None})
        return Message(RecordDict({"side": side}), reply_to=message)

    @app.train(mods=[replica, (pack or encode_mod)(codec, seed), *mods])
    def train(message: Message, context: Context) -> Message:
        if "side" not in held(message.content):
            return trained(message, context)
        if "pending" not in context.state:
            raise FedqError("FQ301", "the server shared scales, but this client has trained nothing")
        content = RecordDict({"arrays": context.state.pop("pending"), "metrics": context.state.pop("metrics")})
        return Message(content, reply_to=message)

    def trained(message: Message, context: Context) -> Message:
        place, told = (round_of(message), partition_of(context)), config(message.content)
        trained = trainer.ready(*place)
        if trained is None:
            trained = trainer.train(read(arrays(message.content)), *place, told, beside(message.content, context.state))
        if trained.memory:
            context.state["memory"] = records.to_record(trained.memory)
        sent = records.to_record(trained.arrays) if trained.packed is None else trained.packed
        reply = reply_to(message, sent, trained.examples, trained.loss)
        if trained.ledger is not None:
            context.state["ledger"] = ConfigRecord({**trained.ledger.record()})
            said = metrics(reply.content)
            said["epsilon"], said["delta"] = trained.ledger.epsilon(trainer.delta), trainer.delta
            said["releases"] = trained.ledger.steps
        return reply

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        loss, accuracy, n = trainer.evaluate(decoded(message.content), partition_of(context))
        metrics = MetricRecord({"num-examples": n, "loss": loss, "accuracy": accuracy})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def beside(content: RecordDict, kept: RecordDict) -> Beside:
    """What a client kept from its last round, and the arrays of a message that are not trained."""
    own, brought = held(kept), held(content)
    return Beside(
        memory=decoded(kept, "memory") if "memory" in own else None,
        ledger=Ledger.of(own["ledger"]) if "ledger" in own else Ledger(),
        fixed=decoded(content, "fixed") if "fixed" in brought else {},
        previous=decoded(content, "previous") if "previous" in brought else None,
    )


def train_ahead(
    trainer: Trainer, codec: PackedCodec | None, seed: int
) -> Callable[[Sequence[Message], Sequence[int]], AbstractContextManager[None]]:
    """Trains the clients of a cohort of messages together, where they are asked for the same.

    With a `codec` what they send is packed at once too, as `encode_mod` would pack it: where no mod stands before it.
    """

    def packed(arrays_K: Arrays, round_: int, partitions: Sequence[int]) -> list[ArrayRecord]:
        assert codec is not None
        return records.encode_rows(arrays_K, codec, seed, "up", round_, each=partitions)

    def ahead(messages: Sequence[Message], partitions: Sequence[int]) -> AbstractContextManager[None]:
        asked = messages[0].content
        sent = held(asked).get("arrays")
        alike = all(m.content is asked or held(m.content).get("arrays") is sent for m in messages)
        if messages[0].metadata.message_type != "train" or sent is None or not alike:
            return nullcontext()
        place, told = (round_of(messages[0]), partitions), config(asked)
        return trainer.ahead(decoded(asked), *place, told, packed if codec else None)

    return ahead


def encode_mod(codec: PackedCodec, seed: int) -> Mod:
    """Pack the arrays of every reply, with random bits of (round, partition, name), if they are not packed yet."""

    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        reply = call(message, context)
        if reply.has_content() and any(p.stype != codec.stype for p in held(arrays(reply.content)).values()):
            side = decoded(message.content, "side") if "side" in message.content else None
            place = (round_of(message), partition_of(context))
            reply.content["arrays"] = records.encode(
                records.own(arrays(reply.content)), codec, seed, "up", *place, side=side
            )
        return reply

    return mod


def decoded(content: RecordDict, name: str = "arrays") -> dict[str, NDArray[np.float32]]:
    """The arrays of a record."""
    return records.to_arrays(arrays(content, name))
