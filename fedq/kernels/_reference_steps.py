"""The NumPy specification of the steps of local training: SGD and Adam, also on latent weights w = tanh(x / 2).

Arithmetic is float32, one rounded operation at a time in the order written here, on elements that never meet: so the
bits are the same in every core, and for any number of clients together.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedq.kernels._chain import I64, Chain, checked_descent, raise_for_labels, raise_for_places
from fedq.kernels._reference import F32
from fedq.kernels._reference_gradient import chain_gradient, exponential


class Rates(NamedTuple):
    """What a step of Adam moves by (Kingma and Ba 2015, algorithm 1, both halves of its fraction times a constant).

    Of those of a step of SGD only `rate` counts.
    """

    to_m: float  # m goes this share of its way to g
    to_v: float  # of g^2, this is added to v
    keeps: float  # and this is what v keeps of itself
    rate: float  # weights move by rate * m / (sqrt(v) + floor)
    floor: float = 0.0

    @classmethod
    def at(cls, t: int, lr: float, beta1: float, beta2: float, epsilon: float) -> "Rates":
        """Those of step t, from 1."""
        s = sqrt(1 - beta2**t)
        return cls(1 - beta1, 1 - beta2, beta2, lr * s / (1 - beta1**t), epsilon * s)


def step_(
    w: F32,
    g: F32,
    rates: Rates,
    *,
    s: F32 | None = None,
    m: F32 | None = None,
    v: F32 | None = None,
    slope: float = 0.0,
    momentum: float = 0.0,
) -> None:
    """Move w along gradient g in place: by Adam with moments m and v, else by SGD, with a velocity v if there is one.

    With `s` it is w = tanh(s / 2) that has the gradient: s moves along slope (1 - w^2) g, and w is renewed.
    """
    to_m, to_v, keeps, rate, floor = map(np.float32, rates)
    moved = w if s is None else s
    with np.errstate(all="ignore"):
        if s is not None:
            g = g * (np.float32(slope) - np.float32(slope) * (w * w))
        if m is not None and v is not None:
            m += (g - m) * to_m
            v[...] = v * keeps + (g * g) * to_v
            moved -= rate * (m / (np.sqrt(v) + floor))
        elif v is not None:
            v[...] = v * np.float32(momentum) + g
            moved -= rate * v
        else:
            moved -= rate * g
        if s is not None:
            tanh_half(s, out=w)


def chain_descent_(
    chain: Chain,
    w_KD: F32,
    x: F32,
    labels: I64,
    place_KSB: I64,
    rates: F32,
    total_K: NDArray[np.float64],
    *,
    s: F32 | None = None,
    m: F32 | None = None,
    v: F32 | None = None,
    slope: float = 0.0,
    momentum: float = 0.0,
    decay: float = 0.0,
) -> None:
    """S local steps of K clients, in place; each one's losses are added to `total_K`, one after the other.

    Batches stand at `place_KSB` among examples x [n, ...] with `labels` [n]. `rates` [S, 5] are `Rates`; with moments m
    and v [K, D] the steps are Adam's, else SGD's. Where `s` is given, w = tanh(s / 2). ValueError for arrays that do
    not belong together, labels that are no class and places where nothing is.
    """
    checked_descent(chain, w_KD, x, labels, place_KSB, rates, total_K, (s, m, v))
    if ((place_KSB < 0) | (place_KSB >= len(labels))).any():
        raise_for_places(len(labels))
    if not np.isin(labels[place_KSB], np.arange(chain.layers[-1].outputs)).all():
        raise_for_labels(chain)
    x = x.reshape(len(x), chain.layers[0].inputs)
    for step, to in enumerate(rates.tolist()):
        place_KB = place_KSB[:, step]
        loss_K, g = chain_gradient(chain, w_KD, x[place_KB], labels[place_KB])
        total_K += loss_K
        if decay:
            with np.errstate(all="ignore"):
                g = g + np.float32(decay) * w_KD
        step_(w_KD, g, Rates(*to), s=s, m=m, v=v, slope=slope, momentum=momentum)


def tanh_half(s: F32, *, out: F32 | None = None) -> F32:
    """tanh(s / 2) to 2e-7, of any shape: (1 - e) / (1 + e) with e = e^-|s| and the sign of s."""
    with np.errstate(all="ignore"):
        e = exponential(-np.abs(s))
        return np.copysign((np.float32(1) - e) / (np.float32(1) + e), s, out=out)
