"""Element-wise optimizers on weights of any shape, in place; their state lives for one client's round.

`torch.optim` would do the same on parameter lists; on flat vectors this is one pass over the weights, works on K
stacked clients, and spares a second of imports. Tests hold both to `torch.optim`'s results.
"""

from typing import Literal, Protocol, final

import torch
from torch import Tensor

from fedq.kernels import active as kernels
from fedq.kernels._reference_steps import Rates


class Optimizer(Protocol):
    """Takes gradient steps."""

    def step_(self, w: Tensor, g: Tensor) -> None:
        """Move `w` along gradient `g`, in place; `g` may be written to."""

    def latent_step_(self, s: Tensor, w: Tensor, g: Tensor, slope: float) -> None:
        """The same for latent weights s of w = tanh(s / 2), which has gradient `g`: s takes slope (1 - w^2) g."""


@final
class Sgd:
    """w <- w - lr v with v <- momentum v + g."""

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        self._lr, self._momentum = lr, momentum
        self._v: Tensor | None = None

    def step_(self, w: Tensor, g: Tensor) -> None:
        """One step, in place."""
        if self._momentum:
            self._v = g.clone() if self._v is None else self._v.mul_(self._momentum).add_(g)
            g = self._v
        w.add_(g, alpha=-self._lr)

    def latent_step_(self, s: Tensor, w: Tensor, g: Tensor, slope: float) -> None:
        """One step, in place."""
        self.step_(s, _through_tanh(w, g, slope))
        w.copy_(tanh_half(s))


@final
class Adam:
    """Kingma and Ba 2015, algorithm 1, with the usual beta = (0.9, 0.999) and epsilon = 1e-8.

    On a CPU a step is one kernel, whose bits no core changes; elsewhere it is made of torch's.
    """

    def __init__(self, lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self._settings = lr, beta1, beta2, epsilon
        self._t = 0

    def step_(self, w: Tensor, g: Tensor) -> None:
        """One step, in place."""
        rates = self._next(w)
        if w.is_cpu:
            kernels.adam_(w.numpy(), g.numpy(), self._m.numpy(), self._v.numpy(), rates)
        else:
            self._by_torch(w, g, rates)

    def latent_step_(self, s: Tensor, w: Tensor, g: Tensor, slope: float) -> None:
        """One step, in place."""
        rates = self._next(s)
        if s.is_cpu:
            moments = self._m.numpy(), self._v.numpy()
            kernels.adam_(s.numpy(), g.numpy(), *moments, rates, w=w.numpy(), slope=slope)
        else:
            self._by_torch(s, _through_tanh(w, g, slope), rates)
            w.copy_(tanh_half(s))

    def _next(self, w: Tensor) -> Rates:
        self._t += 1
        if self._t == 1:
            self._m, self._v = torch.zeros_like(w), torch.zeros_like(w)
        return Rates.at(self._t, *self._settings)

    def _by_torch(self, w: Tensor, g: Tensor, rates: Rates) -> None:
        self._m.lerp_(g, rates.to_m)
        self._v.mul_(rates.keeps).addcmul_(g, g, value=rates.to_v)
        w.addcdiv_(self._m, self._v.sqrt().add_(rates.floor), value=-rates.rate)


def optimizer(name: Literal["sgd", "adam"], lr: float, momentum: float) -> Optimizer:
    """A fresh optimizer."""
    return Adam(lr) if name == "adam" else Sgd(lr, momentum)


def tanh_half(s: Tensor) -> Tensor:
    """tanh(s / 2), as `kernels.tanh_half` or, on other devices, as 2 sigmoid(s) - 1: both within 2e-7 of it."""
    if s.is_cpu:
        return torch.from_numpy(kernels.tanh_half(s.numpy()))
    return torch.sigmoid(s).mul_(2).sub_(1)


def _through_tanh(w: Tensor, g: Tensor, slope: float) -> Tensor:
    return g.mul_(torch.addcmul(torch.tensor(slope, device=w.device), w, w, value=-slope))
