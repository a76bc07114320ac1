"""Element-wise optimizers on weights of any shape, in place; their state lives for one client's round.

`torch.optim` would do the same on parameter lists; on flat vectors this is one pass over the weights, works on K
stacked clients, and spares a second of imports. Tests hold both to `torch.optim`'s results.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, final

import numpy as np
import torch
from torch import Tensor

from fedq.clients.local import Batches, Differentiable, Drawn, mean_loss
from fedq.kernels import active as kernels
from fedq.kernels._reference_dense import Chain
from fedq.kernels._reference_steps import Rates

AT_ONCE = 2**28  # weights times examples that a call of the kernel works through: a tenth of a second


class Through(NamedTuple):
    """Weights that are w = tanh(s / 2): it is s that takes steps, along slope (1 - w^2) times the gradient of w."""

    s: Tensor
    slope: float


class Optimizer(Protocol):
    """Takes gradient steps."""

    def step_(self, w: Tensor, g: Tensor, latent: Through | None = None) -> None:
        """Move `w` along gradient `g`, in place; `g` may be written to. Through `latent`, if there is one."""

    def plan(self, w: Tensor, steps: int) -> tuple[list[Rates], dict[str, Any]]:
        """The rates of the next steps on the CPU's `w`, and what `kernels.dense_descent_` takes besides."""


@final
class Sgd:
    """w <- w - lr v with v <- momentum v + g; on a CPU a step is one kernel, as Adam's."""

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        self._lr, self._momentum = lr, momentum
        self._v: Tensor | None = None

    def step_(self, w: Tensor, g: Tensor, latent: Through | None = None) -> None:
        """One step, in place."""
        moved, (used, slope) = latent.s if latent else w, _through(w, latent)
        _, kept = self.plan(w, 1)
        if w.is_cpu:
            kernels.sgd_(moved.numpy(), g.numpy(), self._lr, w=used, slope=slope, **kept)
            return
        g = _times_slope(w, g, latent) if latent else g
        if self._v is not None:
            g = self._v.mul_(self._momentum).add_(g)
        moved.add_(g, alpha=-self._lr)
        if latent:
            w.copy_(tanh_half(moved))

    def plan(self, w: Tensor, steps: int) -> tuple[list[Rates], dict[str, Any]]:
        """Velocities, if there is a momentum."""
        if self._v is None and self._momentum:
            self._v = torch.zeros_like(w)
        kept = {"v": self._v.numpy(), "momentum": self._momentum} if self._v is not None and w.is_cpu else {}
        return [Rates(0, 0, 0, self._lr)] * steps, kept


@final
class Adam:
    """Kingma and Ba 2015, algorithm 1, with the usual beta = (0.9, 0.999) and epsilon = 1e-8.

    On a CPU a step is one kernel, whose bits no core changes; elsewhere it is made of torch's.
    """

    def __init__(self, lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self._settings = lr, beta1, beta2, epsilon
        self._t = 0

    def step_(self, w: Tensor, g: Tensor, latent: Through | None = None) -> None:
        """One step, in place."""
        moved, (used, slope) = latent.s if latent else w, _through(w, latent)
        (rates,), kept = self.plan(w, 1)
        if w.is_cpu:
            kernels.adam_(moved.numpy(), g.numpy(), kept["m"], kept["v"], rates, w=used, slope=slope)
            return
        g = _times_slope(w, g, latent) if latent else g
        self._by_torch(moved, g, rates)
        if latent:
            w.copy_(tanh_half(moved))

    def _by_torch(self, w: Tensor, g: Tensor, rates: Rates) -> None:
        self._m.lerp_(g, rates.to_m)
        self._v.mul_(rates.keeps).addcmul_(g, g, value=rates.to_v)
        w.addcdiv_(self._m, self._v.sqrt().add_(rates.floor), value=-rates.rate)

    def plan(self, w: Tensor, steps: int) -> tuple[list[Rates], dict[str, Any]]:
        """Moments."""
        if not self._t:
            self._m, self._v = torch.zeros_like(w), torch.zeros_like(w)
        first, self._t = self._t + 1, self._t + steps
        kept = {"m": self._m.numpy(), "v": self._v.numpy()} if w.is_cpu else {}
        return [Rates.at(t, *self._settings) for t in range(first, self._t + 1)], kept


def optimizer(name: Literal["sgd", "adam"], lr: float, momentum: float) -> Optimizer:
    """A fresh optimizer."""
    return Adam(lr) if name == "adam" else Sgd(lr, momentum)


def descend_(
    network: Differentiable,
    w_KD: Tensor,
    batches: Batches,
    by: Optimizer,
    *,
    latent: Through | None = None,
    decay: float = 0.0,
    more: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Move weights through all batches, in place; the mean loss [K].

    `decay` times the weights is added to every gradient, and `more` is the gradient of a term of the caller's own. Many
    steps are one kernel where nothing else happens between them.
    """
    if isinstance(batches, Drawn) and batches.change is None and more is None and network.chain is not None:
        return _at_once(network.chain, w_KD, batches, by, latent, decay)
    losses = []
    for x, y in batches:
        loss, g = network.gradient(w_KD, x, y)
        if decay:
            g = g + decay * w_KD
        if more is not None:
            g = g + more(w_KD)
        by.step_(w_KD, g, latent)
        losses.append(loss)
    return mean_loss(losses)


def _at_once(chain: Chain, w_KD: Tensor, batches: Drawn, by: Optimizer, latent: Through | None, decay: float) -> Tensor:
    K, S, B = batches.places.shape
    x, labels, place_KSB = batches.x.numpy(), batches.y.numpy(), batches.places.numpy()
    used: dict[str, Any] = {"s": latent.s.numpy(), "slope": latent.slope} if latent else {}
    some, total_K = max(1, AT_ONCE // (w_KD.numel() * B)), np.zeros(K)
    for first in range(0, S, some):
        batches.heard()
        place = place_KSB[:, first : first + some]
        rates, kept = by.plan(w_KD, place.shape[1])
        steps = np.array(rates, np.float32)
        kernels.dense_descent_(chain, w_KD.numpy(), x, labels, place, steps, total_K, decay=decay, **used, **kept)
    return torch.from_numpy((total_K / S).astype(np.float32))


def tanh_half(s: Tensor) -> Tensor:
    """tanh(s / 2), as `kernels.tanh_half` or, on other devices, as 2 sigmoid(s) - 1: both within 2e-7 of it."""
    if s.is_cpu:
        return torch.from_numpy(kernels.tanh_half(s.numpy()))
    return torch.sigmoid(s).mul_(2).sub_(1)


def _through(w: Tensor, latent: Through | None) -> tuple[Any, float]:
    """What kernels take of latent weights: those that the network uses, and the slope."""
    return (w.numpy(), latent.slope) if latent and w.is_cpu else (None, 0.0)


def _times_slope(w: Tensor, g: Tensor, latent: Through) -> Tensor:
    return g.mul_(torch.addcmul(torch.tensor(latent.slope, device=w.device), w, w, value=-latent.slope))
