"""Parameter localisation: a client keeps the weights and takes the server's optimizer steps itself.

TernGrad (Wen et al. 2017): workers pull the averaged gradient, not weights. A message brings either `arrays` and
`slots` (weights and optimizer state, where the client does not hold them), or `levels` and `scales`, the average
gradient of the last round; `config` says the rule, the learning rate and the step.
"""

from threading import Lock
from typing import cast

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedq import steps
from fedq._flower import copied, held, with_content
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.messages import arrays, config


def replica_mod() -> Mod:
    """Put the weights into every message that brings an average gradient instead, and keep them in `Context.state`.

    Clients of one process that hold the same replica and get the same average share one step and one copy.
    """
    stepped = _Stepped()

    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        content, brought = message.content, held(message.content)
        if "slots" in brought:
            context.state["replica"], context.state["slots"] = content["arrays"], content["slots"]
        elif "levels" in brought:
            if "replica" not in context.state:
                raise FedqError("FQ301", "an average gradient came, but this client holds no weights to step from")
            context.state["replica"], context.state["slots"] = stepped.take(context.state, content)
            message = with_content(message, RecordDict({**content, "arrays": context.state["replica"]}))
        return call(message, context)

    return mod


class _Stepped:
    """The last step taken, for the next client that is to take it from the same weights."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._from: tuple[list[bytes], list[bytes]] = ([], [])
        self._to = (ArrayRecord(), ArrayRecord())

    def take(self, held: RecordDict, content: RecordDict) -> tuple[ArrayRecord, ArrayRecord]:
        replica, levels = arrays(held, "replica"), arrays(content, "levels")
        start = ([a.data for a in replica.values()], [a.data for a in levels.values()])
        with self._lock:
            if not all(_identical(a, b) for a, b in zip(start, self._from, strict=True)):
                self._from, self._to = start, _step(replica, arrays(held, "slots"), content)
            weights, slots = self._to
            return copied(weights), copied(slots)


def _identical(a: list[bytes], b: list[bytes]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _step(replica: ArrayRecord, slots: ArrayRecord, content: RecordDict) -> tuple[ArrayRecord, ArrayRecord]:
    levels, scales = (records.to_arrays(arrays(content, name)) for name in ("levels", "scales"))
    g = {name: scales[name] * level for name, level in levels.items()}
    told = config(content)
    rule, lr, t = cast(steps.Rule, told["rule"]), cast(float, told["lr"]), cast(int, told["step"])
    w, after = steps.step(rule, records.to_arrays(replica), g, records.to_arrays(slots), lr=lr, t=t)
    return records.to_record(w), records.to_record(after)
