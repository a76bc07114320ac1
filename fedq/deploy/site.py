"""A site's half of the Flower App: the same ClientApp as in simulation, with its memory and its data at the site.

Flower starts a process for every message, and forgets what a client kept when its SuperNode ends. So a site keeps its
`Context.state` in its own folder, one file a message, named by run and round: a client that was killed goes on where
it was, and a server that goes back to a checkpoint finds clients as they were then; but for what they released.
"""

import logging
import sys
import tomllib
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedq._flower import with_content
from fedq.build import Simulation, build, one_torch_thread, share
from fedq.config import RunConfig, make_config
from fedq.data.site import read_own, site_dataset
from fedq.deploy.bundle import bundled, unbundled
from fedq.deploy.memory import Memory
from fedq.errors import FedqError
from fedq.grids.crew import CLIENT_RAISED
from fedq.kernels import active
from fedq.messages import config, partition_of, round_of

log = logging.getLogger("fedq.site")

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Whether this site can play the run: version, number of sites, shape and labels of its data."""
    return _answered(_hello, message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """What clients must share before they encode."""
    return _answered(_played, message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the site's data and send the packed result."""
    return _answered(_played, message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on what the site keeps from training."""
    return _answered(_played, message, context)


def _answered(play, message: Message, context: Context) -> Message:  # type: ignore[no-untyped-def]
    """The reply, or the error in the user's words, on both sides."""
    _log_here()
    try:
        with one_torch_thread():
            reply: Message = play(with_content(message, unbundled(message.content)), context)
            reply.content = bundled(reply.content)
            return reply
    except FedqError as error:
        log.error("%s", error)  # noqa: TRY400 - the user's words are enough
        return Message(Error(CLIENT_RAISED, error.message), reply_to=message)
    except Exception as error:
        log.exception("this client failed")
        return Message(Error(CLIENT_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


def _hello(message: Message, context: Context) -> Message:
    told, k, memory = config(message.content), partition_of(context), Memory.of(context)
    if told["fedq"] != version("fedq"):
        raise FedqError("FQ207", f"the server has fedq {told['fedq']!s}, and this site {version('fedq')}")
    clients, folder = context.node_config["num-partitions"], str(context.node_config.get("fedq-data", ""))
    if clients != told["clients"]:
        raise FedqError("FQ207", f"the run is for {told['clients']!s} sites, and this is one of {clients}")
    if memory:
        own = read_own(folder, told) if folder else share(_config(context), k)
        memory.note(told, own)
    answer: dict[str, Any] = {
        "partition": k,
        "examples": _parts(context).trainer.examples(k),
        "kernels": active.isa(),
        "fedq": version("fedq"),
        "flwr": version("flwr"),
        "own_data": bool(folder),
    }
    log.info("this site is partition %d: %d examples, %s kernels", k, answer["examples"], answer["kernels"])
    return Message(RecordDict({"config": ConfigRecord(answer)}), reply_to=message)


def _played(message: Message, context: Context) -> Message:
    memory = Memory.of(context)
    parts, place = _parts(context), (round_of(message), message.metadata.message_type)
    with memory.alone() if memory else nullcontext():
        if memory:
            context.state = memory.before(*place)
        reply = parts.app(message, context)
        if memory:
            memory.keep(*place, context.state)
            context.state = RecordDict()  # it is in the site's folder: no need to carry it through Flower
    return reply


def _parts(context: Context) -> Simulation:
    """The client's parts: from what its site holds, or, where Flower simulates it, from the run's data."""
    memory, run = Memory.of(context), _config(context)
    if memory is None:
        return _simulated(str(context.run_config["fedq-config"]))
    told, own = memory.noted()
    return build(run, (partition_of(context), site_dataset(own, told)))


@cache
def _simulated(text: str) -> Simulation:
    return build(make_config(tomllib.loads(text)))


def _config(context: Context) -> RunConfig:
    return make_config(tomllib.loads(str(context.run_config["fedq-config"])))


def _log_here() -> None:
    """What a site has to say goes where Flower's own lines go: to the terminal of its SuperNode."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("fedq: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
