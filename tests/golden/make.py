"""Measure the golden curves again: python -m tests.golden.make. Commit the result with the reason for the change."""

import json
import platform
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedq.config import make_config
from fedq.strategies import STRATEGIES

FILE = Path(__file__).parent / "curves.json"
KEYS = ("accuracy", "deployed_accuracy", "loss", "train_loss", "up_bytes", "down_bytes")
SETTINGS: dict[str, Any] = {
    "clients": 8, "rounds": 4, "client.local_steps": 5, "model.hidden": [32], "data.partition": "dirichlet:1.0",
}  # fmt: skip

# noise that repeats
PRIVATE = {"client.noise": 1.0, "client.noise_seed": 0, "client.lr": 0.5, "client.tell_loss": True}
SEEDED = {**PRIVATE, "model.name": "mlp", "model.norm": "none"}
CHANGES = {**PRIVATE, "client.local_steps": 1, "strategy.every": 2}
MORE: dict[str, dict[str, Any]] = {"bulyan": {"clients": 4}, "dp_lora": SEEDED, "diff2": CHANGES}


def machine() -> str:
    """What bits depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    told = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    kind = " ".join(told.get(k, "") for k in ("cpu family", "model", "flags"))
    name, digest = told.get("model name", "unknown"), sha256(kind.encode()).hexdigest()[:12]
    return f"{name} ({digest}), {platform.machine()}, torch {torch.__version__}, numpy {np.__version__}"


def curve(name: str) -> dict[str, Any]:
    """A short run of a strategy: metrics by round, and the fingerprint of the final weights."""
    from fedq.build import build
    from fedq.kernels import records
    from fedq.runs import fingerprint

    simulation = build(make_config({**SETTINGS, **MORE.get(name, {})}, strategy=name))
    played = list(simulation.rounds(simulation.initial, 1, SETTINGS["rounds"]))
    final = fingerprint(records.to_arrays(played[-1].arrays))
    lines = [r.metrics() for r in played]
    return {**{k: [line[k] for line in lines] for k in KEYS}, "weights_sha256": final}


if __name__ == "__main__":
    FILE.write_text(json.dumps({"machine": machine(), "curves": {n: curve(n) for n in STRATEGIES}}, indent=1) + "\n")
