"""Error feedback: what packing lost is added to what is sent next (Seide et al. 2014; Karimireddy et al. 2019).

A client with residual e (zero at first) sends p = codec(x + e) and keeps e <- x + e - decode(p). So all that it sent,
decoded, and what it still owes are all that it meant to send: nothing is lost, only late.
"""

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from numpy.typing import NDArray

from fedq.clients.app import decoded, encode_mod
from fedq.errors import FedqError
from fedq.kernels import PackedCodec, records
from fedq.messages import arrays


def feedback_mod(codec: PackedCodec, seed: int) -> Mod:
    """The encode mod with a memory, kept in `Context.state`."""
    encode = encode_mod(codec, seed)

    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        owed: dict[str, NDArray[np.float32]] = {}

        def call_and_add(message: Message, context: Context) -> Message:
            reply = call(message, context)
            if reply.has_content():
                x, kept = decoded(reply.content), context.state
                e = decoded(kept, "residual") if "residual" in kept else {}
                owed.update({n: x[n] + e[n] if e else x[n] for n in x})
                reply.content["arrays"] = records.to_record(owed)
            return reply

        reply = encode(message, context, call_and_add)
        if reply.has_content():
            sent = arrays(reply.content)
            context.state["residual"] = records.to_record({n: owed[n] - codec.decode(p) for n, p in sent.items()})
        return reply

    return mod


def check_feedback(strategy: str, sends: str, codec: PackedCodec, *, asked_first: bool) -> tuple[str, ...]:
    """Warnings; FedqError FQ105 where clients of `strategy` send what cannot be added up."""
    if sends == "weights":
        raise FedqError(
            "FQ105",
            f"error feedback adds up what was lost, and clients of `{strategy}` send weights",
            key="error_feedback",
            hint="--set strategy.sends=updates, where the strategy has that, or leave error feedback out",
        )
    if asked_first:
        raise FedqError(
            "FQ105",
            f"clients of `{strategy}` are asked for the scale of what they send before they add what they owe",
            key="error_feedback",
            hint="--set strategy.share=false, where the strategy has that, or leave error feedback out",
        )
    if codec.name == "sign":
        raise FedqError(
            "FQ105",
            f"clients of `{strategy}` send signs without a size, so what they lose is not known",
            key="error_feedback",
            hint="--strategy fedavg --codec sign sends the mean magnitude along",
        )
    if codec.unbiased and not codec.name.startswith("float"):
        name = codec.name.removeprefix("scaled_")
        return (
            f"`{name}` is unbiased, so what it loses is noise: error feedback sends that too, and may grow it "
            "(it is made for codecs like topk10 and sign)",
        )
    return ()
