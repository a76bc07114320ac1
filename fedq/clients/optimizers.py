"""Element-wise optimizers on weights of any shape, in place; their state lives for one client's round.

`torch.optim` would do the same on parameter lists; on flat vectors this is one pass over the weights, works on K
stacked clients, and spares a second of imports. Tests hold both to `torch.optim`'s results.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from fedq.clients.local import Batches, Differentiable, Drawn, mean_loss
from fedq.kernels import active as kernels
from fedq.kernels._chain import Chain
from fedq.kernels._reference_steps import Rates

AT_ONCE = 2**28  # multiplications on the way through, in a call of the kernel: a tenth of a second


class Through(NamedTuple):
    """Weights that are w = tanh(s / 2): it is s that takes steps, along slope (1 - w^2) times the gradient of w."""

    s: Tensor
    slope: float


class Optimizer(ABC):
    """Takes gradient steps: on a CPU each is a kernel, whose bits no core changes; elsewhere it is made of torch's."""

    @abstractmethod
    def plan(self, w: Tensor, steps: int) -> tuple[list[Rates], dict[str, Any]]:
        """The rates of the next steps on weights like `w`, and what is kept from step to step, as kernels name it."""

    @abstractmethod
    def by_torch_(self, w: Tensor, g: Tensor, rates: Rates) -> None:
        """One step, in place, on any device."""

    def step_(self, w: Tensor, g: Tensor, latent: Through | None = None) -> None:
        """Move `w` along gradient `g`, in place; `g` may be written to. Through `latent`, if there is one."""
        (rates,), kept = self.plan(w, 1)
        if w.is_cpu:
            kernels.step_(w.numpy(), g.numpy(), rates, **_given(kept, latent))
        elif latent:
            self.by_torch_(latent.s, _times_slope(w, g, latent), rates)
            w.copy_(tanh_half(latent.s))
        else:
            self.by_torch_(w, g, rates)


@final
class Sgd(Optimizer):
    """w <- w - lr v with v <- momentum v + g."""

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        self._lr, self._momentum = lr, momentum
        self._v: Tensor | None = None

    def plan(self, w: Tensor, steps: int) -> tuple[list[Rates], dict[str, Any]]:
        """The same rate always, and a velocity where there is momentum."""
        if self._v is None and self._momentum:
            self._v = torch.zeros_like(w)
        return [Rates(0, 0, 0, self._lr)] * steps, {} if self._v is None else {"v": self._v, "momentum": self._momentum}

    def by_torch_(self, w: Tensor, g: Tensor, rates: Rates) -> None:
        """One step, in place."""
        w.add_(g if self._v is None else self._v.mul_(self._momentum).add_(g), alpha=-rates.rate)


@final
class Adam(Optimizer):
    """Kingma and Ba 2015, algorithm 1, with the usual beta = (0.9, 0.999) and epsilon = 1e-8."""

    def __init__(self, lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self._settings = lr, beta1, beta2, epsilon
        self._t = 0

    def plan(self, w: Tensor, steps: int) -> tuple[list[Rates], dict[str, Any]]:
        """Rates corrected for the moments' beginning at zero, and the moments."""
        if not self._t:
            self._m, self._v = torch.zeros_like(w), torch.zeros_like(w)
        first, self._t = self._t + 1, self._t + steps
        return [Rates.at(t, *self._settings) for t in range(first, self._t + 1)], {"m": self._m, "v": self._v}

    def by_torch_(self, w: Tensor, g: Tensor, rates: Rates) -> None:
        """One step, in place."""
        self._m.lerp_(g, rates.to_m)
        self._v.mul_(rates.keeps).addcmul_(g, g, value=rates.to_v)
        w.addcdiv_(self._m, self._v.sqrt().add_(rates.floor), value=-rates.rate)


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
    some, total_K = max(1, AT_ONCE // (K * B * max(1, chain.products))), np.zeros(K)
    for first in range(0, S, some):
        batches.heard()
        place = place_KSB[:, first : first + some]
        rates, kept = by.plan(w_KD, place.shape[1])
        steps = np.array(rates, np.float32)
        kernels.chain_descent_(
            chain, w_KD.numpy(), x, labels, place, steps, total_K, decay=decay, **_given(kept, latent)
        )
    return torch.from_numpy((total_K / S).astype(np.float32))


def tanh_half(s: Tensor) -> Tensor:
    """tanh(s / 2), as `kernels.tanh_half` or, on other devices, as 2 sigmoid(s) - 1: both within 2e-7 of it."""
    if s.is_cpu:
        return torch.from_numpy(kernels.tanh_half(s.numpy()))
    return torch.sigmoid(s).mul_(2).sub_(1)


def _given(kept: Mapping[str, Any], latent: Through | None) -> dict[str, Any]:
    """What an optimizer keeps, and latent weights if there are any, with the CPU's tensors as arrays: for kernels."""
    given = {**kept, **(latent._asdict() if latent else {})}
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in given.items()}


def _times_slope(w: Tensor, g: Tensor, latent: Through) -> Tensor:
    return g.mul_(torch.addcmul(torch.tensor(latent.slope, device=w.device), w, w, value=-latent.slope))
