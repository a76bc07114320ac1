"""Optimizer steps on named arrays, as pure functions: a server and clients that take the same hold the same bits."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.float32]]
Rule = Literal["sgd", "momentum", "adam"]


def step(rule: Rule, w: Arrays, g: Arrays, slots: Arrays, *, lr: float, t: int) -> tuple[dict, dict]:  # type: ignore[type-arg]
    """Weights and slots (moments; empty at first) after step `t` = 1, 2, ... against gradient `g`.

    momentum: v <- 0.9 v + g, w <- w - lr v. adam: Kingma and Ba 2015, algorithm 1, usual constants.
    """
    rate = np.float32(lr)
    if rule == "sgd":
        return {n: x - rate * g[n] for n, x in w.items()}, {}
    if rule == "momentum":
        v = {f"v/{n}": np.float32(0.9) * slots[f"v/{n}"] + x if slots else x for n, x in g.items()}
        return {n: x - rate * v[f"v/{n}"] for n, x in w.items()}, v
    b1, b2, zero = np.float32(0.9), np.float32(0.999), np.float32(0)
    m = {f"m/{n}": b1 * slots.get(f"m/{n}", zero) + (1 - b1) * x for n, x in g.items()}
    u = {f"u/{n}": b2 * slots.get(f"u/{n}", zero) + (1 - b2) * x * x for n, x in g.items()}
    rate, root = np.float32(lr / (1 - 0.9**t)), np.float32(1 / (1 - 0.999**t))
    moved = {n: x - rate * m[f"m/{n}"] / (np.sqrt(u[f"u/{n}"] * root) + np.float32(1e-8)) for n, x in w.items()}
    return moved, m | u
