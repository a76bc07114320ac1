"""The NumPy specification of the steps of local training: Adam, also on latent weights whose tanh the network uses.

Arithmetic is float32, one rounded operation at a time in the order written here, on elements that never meet: so the
bits are the same in every core, and for any number of clients together.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np

from fedq.kernels._reference import F32
from fedq.kernels._reference_dense import exponential


class Rates(NamedTuple):
    """What a step of Adam moves by (Kingma and Ba 2015, algorithm 1, both halves of its fraction times a constant)."""

    to_m: float  # m goes this share of its way to g
    to_v: float  # of g^2, this is added to v
    keeps: float  # and this is what v keeps of itself
    rate: float  # weights move by rate * m / (sqrt(v) + floor)
    floor: float

    @classmethod
    def at(cls, t: int, lr: float, beta1: float, beta2: float, epsilon: float) -> "Rates":
        """Those of step t, from 1."""
        s = sqrt(1 - beta2**t)
        return cls(1 - beta1, 1 - beta2, beta2, lr * s / (1 - beta1**t), epsilon * s)


def adam_(x: F32, g: F32, m: F32, v: F32, rates: Rates, *, w: F32 | None = None, slope: float = 0.0) -> None:
    """Move x along gradient g, and its moments m and v, in place; all of one shape.

    With `w`, it is w = tanh(x / 2) that has the gradient g: what x takes is slope (1 - w^2) g, and w is renewed.
    """
    to_m, to_v, keeps, rate, floor = map(np.float32, rates)
    with np.errstate(all="ignore"):
        if w is not None:
            g = g * (np.float32(slope) - np.float32(slope) * (w * w))
        m += (g - m) * to_m
        v[...] = v * keeps + (g * g) * to_v
        x -= rate * (m / (np.sqrt(v) + floor))
        if w is not None:
            tanh_half(x, out=w)


def tanh_half(s: F32, *, out: F32 | None = None) -> F32:
    """tanh(s / 2) to 2e-7, of any shape: (1 - e) / (1 + e) with e = e^-|s| and the sign of s."""
    with np.errstate(all="ignore"):
        e = exponential(-np.abs(s))
        return np.copysign((np.float32(1) - e) / (np.float32(1) + e), s, out=out)
