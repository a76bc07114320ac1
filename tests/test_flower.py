"""fedq and Flower: the private parts we lean on, and packed payloads between the two."""

import subprocess
import sys

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from fedq._flower import addressed, answer, copied, filled, held, isolated, set_message_id, simulated_run
from fedq.build import build
from fedq.clients.app import client_app
from fedq.config import make_config
from fedq.grids import LocalGrid
from fedq.kernels import CODECS, records
from fedq.rng import key


def reply_with(array: Array) -> Message:
    simulated_run()
    message = Message(RecordDict(), 1, "train")
    metrics = MetricRecord({"num-examples": 4, "train-loss": 1.0})
    return Message(RecordDict({"arrays": ArrayRecord({"w": array}), "metrics": metrics}), reply_to=message)


def test_flower_moved_nothing() -> None:
    """If this fails, Flower moved a private name: fedq/_flower.py is the one place to mend."""
    run = simulated_run()
    assert run.run_id == 1
    message = Message(RecordDict(), 7, "train")
    set_message_id(message, "abc")
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "abc"
    assert isolated(message).metadata is message.metadata
    alike, flowers = addressed(message.content, [7], "train")[0], Message(message.content, 7, "train")
    assert _fields(alike) == _fields(flowers)
    assert alike.metadata.created_at == pytest.approx(flowers.metadata.created_at, abs=5)
    alike, flowers = answer(message, RecordDict()), Message(RecordDict(), reply_to=message)
    assert _fields(alike) == _fields(flowers)
    assert alike.metadata.ttl == pytest.approx(flowers.metadata.ttl, abs=5)
    assert Message(Error(1, "x"), reply_to=message).has_error()


def test_records_are_read_and_copied_as_flower_does() -> None:
    """A copy is Flower's in every field, and holds a dict of its own; a record is filled as by its constructor."""
    numbers = {"a": 1, "b": 2.0}
    for record, values in ((MetricRecord(numbers), numbers), (ConfigRecord({"x": "y"}), {"x": "y"})):
        assert held(record) == dict(record.items()) == values
        ours, theirs = copied(record), record.copy()
        assert type(ours) is type(theirs)
        assert ours.__dict__ == theirs.__dict__
        assert held(ours) is not held(record)
        ours["more"] = 3
        assert "more" not in record
        with pytest.raises(TypeError):
            ours[1] = 3  # type: ignore[index]
    assert filled(MetricRecord(), numbers) == MetricRecord(numbers)
    content = RecordDict({"m": MetricRecord(numbers)})
    assert copied(content) == content
    assert copied(ArrayRecord()) == ArrayRecord()


def _fields(message: Message) -> tuple[object, ...]:
    times = ("_created_at", "_ttl")
    told = {k: v for k, v in message.metadata.__dict__.items() if k not in times}
    return type(message), type(message.metadata), told, set(message.metadata.__dict__), set(message.__dict__)


@pytest.mark.parametrize("name", CODECS)
def test_flower_refuses_packed_replies_and_fedq_decodes_them(name: str) -> None:
    x = np.array([0.5, -1, 1, 0], np.float32)
    payload = CODECS[name].encode(x, key=key(0, name))
    with pytest.raises(TypeError, match=r"[Uu]nsupported serialization type"):
        FlowerFedAvg().aggregate_train(1, [reply_with(payload)])
    assert records.decode(payload).shape == (4,)


def test_payload_survives_flowers_own_serialization() -> None:
    """Deflate and inflate, as a SuperLink does: bytes, stype, dtype and shape come back."""
    payload = CODECS["ternary_base3"].encode(np.linspace(-1, 1, 500, dtype=np.float32), key=key(0, "wire"))
    chunks = dict(payload.slice_array())
    back = Array.inflate(payload.deflate(), chunks)
    assert (back.data, back.stype, back.dtype, tuple(back.shape)) == (payload.data, payload.stype, "float32", (500,))
    assert (records.decode(back) == records.decode(payload)).all()


def test_flowers_own_loop_runs_on_our_grid() -> None:
    """Flower's FedAvg.start, unchanged, over LocalGrid with clients that send plain arrays."""
    simulation = build(make_config({"clients": 3, "client.local_steps": 2, "strategy": "fedavg", "model.hidden": [8]}))

    def plain(message, context, call):  # type: ignore[no-untyped-def]
        arrays = message.content["arrays"]
        message.content["arrays"] = records.to_record({n: a.numpy() for n, a in arrays.items()})
        reply = call(message, context)
        sent = records.to_arrays(reply.content["arrays"])
        reply.content["arrays"] = ArrayRecord({n: Array(x) for n, x in sent.items()})
        return reply

    inner = client_app(simulation.trainer, CODECS["float32"], 0)

    def app(message, context):  # type: ignore[no-untyped-def]
        message.content["config"] = message.content["config"].copy()
        return plain(message, context, inner)

    grid = LocalGrid(app, 3)
    start = ArrayRecord({n: Array(x) for n, x in simulation.initial.items()})
    strategy = FlowerFedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    result = strategy.start(grid=grid, initial_arrays=start, num_rounds=2)
    assert set(result.arrays) == set(simulation.initial)


def test_help_imports_neither_torch_nor_flower() -> None:
    code = (
        "import sys; sys.argv = ['fedq', '--help']\n"
        "from fedq.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'flwr', 'numpy', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
