"""Sums of clipped per-sample gradients, by Opacus' hooks on a network.

The loss is always taken here, of logits and labels: a loss that a model computes itself never gets past the clipping.
"""

import warnings
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from fedq.errors import FedqError
from fedq.models.network import Network
from fedq.plugins import extra


@final
class PerSample:
    """The network's gradient for each example by itself. Shapes: B examples, D trained weights."""

    def __init__(self, network: Network) -> None:
        self.network = network
        if network.per_sample is None:
            network.per_sample = _hooked(network)

    def sums(self, w_D: Tensor, x_B: Tensor, y_B: Tensor, clip: float) -> tuple[Tensor, Tensor]:
        """The sum of losses, and the sum [D] of gradients, each first scaled to a norm of at most `clip`."""
        if not len(y_B):  # a Poisson sample may be empty; its sum is zero, and transformers take no empty batch
            return torch.zeros(()), torch.zeros_like(w_D)
        loss_B = self._losses(w_D, x_B, y_B)
        parts = [p.grad_sample.flatten(1) for p in self.network.trained]  # type: ignore[attr-defined]
        norm_B = torch.stack([g.norm(dim=1) for g in parts], 1).norm(dim=1)
        share_B = (clip / norm_B.clamp_min(1e-12)).clamp(max=1)
        return loss_B.sum(), torch.cat([share_B @ g for g in parts])

    def gradients(self, w_D: Tensor, x_B: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """The losses [B] and gradients [B, D] of at least one example."""
        loss_B = self._losses(w_D, x_B, y_B)
        return loss_B, torch.cat([p.grad_sample.flatten(1) for p in self.network.trained], 1)  # type: ignore[attr-defined]

    def _losses(self, w_D: Tensor, x_B: Tensor, y_B: Tensor) -> Tensor:
        for p in self.network.trained:
            p.grad_sample = None  # type: ignore[attr-defined]
        logits = self.network.logits(w_D, x_B)
        loss_B = functional.cross_entropy(logits, y_B, reduction="none")
        loss_B.sum().backward()  # type: ignore[no-untyped-call]
        for p in self.network.trained:
            p.grad = None
        return loss_B.detach()


def _hooked(network: Network) -> Any:
    extra("opacus.grad_sample", "lora")  # it registers what knows each kind of layer
    hooks = extra("opacus.grad_sample.grad_sample_module", "lora").GradSampleHooks
    warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
    try:
        return hooks(network.module, loss_reduction="sum", strict=True)
    except (NotImplementedError, ValueError) as error:
        raise FedqError("FQ105", f"no per-sample gradients of this model: {error}", key="model.name") from error
