"""How arrays become packed bytes: the Codec contract, the codecs, and the kernels beneath them.

To add a codec: write it in a file of its own, add one line to `CODECS`; `fedq.testing.check_codec` then holds it
to the contract. Other packages register theirs under the entry-point group `fedq.codecs`.
"""

from fedq.kernels.binary import Binary, Sign
from fedq.kernels.codec import Accumulator, Codec, PackedCodec
from fedq.kernels.counts import Counts
from fedq.kernels.entropy import TernaryEntropy
from fedq.kernels.floats import Float16, Float32
from fedq.kernels.qsgd import Qsgd
from fedq.kernels.scaled import Scaled
from fedq.kernels.ternary import Ternary, TernaryBase3
from fedq.kernels.terngrad import TernGrad
from fedq.kernels.topk import TopK
from fedq.plugins import find

CODECS: dict[str, PackedCodec] = {
    "float32": Float32(),
    "float16": Float16(),
    "binary": Binary(),
    "ternary": Ternary(),
    "ternary_base3": TernaryBase3(),
    "ternary_entropy": TernaryEntropy(),
    "sign": Sign(),
    "qsgd2": Qsgd(2),
    "qsgd4": Qsgd(4),
    "qsgd8": Qsgd(8),
    "topk": TopK("topk", 0.01),
    "topk10": TopK("topk10", 0.1),
    "counts": Counts(),
    "terngrad": TernGrad("terngrad", Ternary()),
    "terngrad_base3": TernGrad("terngrad_base3", TernaryBase3()),
    "terngrad_code": TernGrad("terngrad_code", Ternary(), scale="sigma"),
}


def codec(name: str) -> PackedCodec:
    """The codec of this name: ours, `topk:SHARE`, `scaled_` one of ours, or another package's.

    FedqError FQ101 if there is none, FQ106 for a share that is none.
    """
    if name.startswith("scaled_") and not name.startswith("scaled_scaled_"):
        return Scaled(codec(name.removeprefix("scaled_")))
    if name.startswith("topk:"):
        return TopK.of(name)
    found: PackedCodec = find("codec", name, CODECS)
    return found


__all__ = ["CODECS", "Accumulator", "Codec", "PackedCodec", "Scaled", "codec"]
