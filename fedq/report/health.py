"""What `fedq doctor` looks at."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

PACKAGES = ("flwr", "torch", "numpy", "flwr-datasets", "datasets", "ray")


class Check(NamedTuple):
    """One thing that was tried, and how it went."""

    name: str
    ok: bool
    said: str


def headline() -> str:
    """Versions and machine on one line, to paste into a report."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    versions = "   ".join(f"{k} {v}" for k, v in found.items())
    machine = f"{platform.system().lower()} {platform.machine()}, {os.cpu_count()} cores"
    return f"fedq {version('fedq')}   {versions}   {machine}"


def checks() -> list[Check]:
    """Try every part; a part that raises is a failed check, with its words."""
    parts: dict[str, Callable[[], str]] = {"kernels": _kernels, "flower": _flower, "data": _data, "torch": _torch}
    done = []
    for name, part in parts.items():
        try:
            done.append(Check(name, True, part()))
        except Exception as error:
            done.append(Check(name, False, f"{type(error).__name__}: {error}"))
    return done


def _kernels() -> str:
    import numpy as np

    from fedq.kernels import CODECS, _reference, active
    from fedq.rng import key, rng
    from fedq.testing import check_codec

    words = _reference.philox4x32(np.zeros(1, np.uint64), 0, 0)[0]
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], "Philox4x32-10 is wrong"
    for codec in CODECS.values():
        check_codec(codec, draws=200)
    x = rng(0, "doctor").uniform(-1, 1, 1000).astype(np.float32)
    assert len(CODECS["binary"].encode(x, key=key(0, "doctor")).data) == 125
    core = "the NumPy specification" if active.isa() == "numpy" else f"native, {active.isa()}"
    return f"{core}; random bits as specified; {len(CODECS)} codecs hold their contract"


def _flower() -> str:
    from flwr.app import Message, RecordDict

    from fedq._flower import set_message_id, simulated_run

    simulated_run()
    message = Message(RecordDict(), 1, "train")
    set_message_id(message, "1")
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "1", "Flower moved message ids"
    return "private imports found, messages can be built and answered"


def _data() -> str:
    from fedq.data import load

    digits = load("digits", "", holdout=0.2, seed=0)
    return f"digits: {len(digits.train)} + {len(digits.test)} images"


def _torch() -> str:
    import torch

    return "cuda available" if torch.cuda.is_available() else "cpu only"
