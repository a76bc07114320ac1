"""Networks of K clients at once: stacked weights, and one kernel that takes the gradients of all of them.

For modules that are a chain of layers that kernels know; others are trained one client at a time. A client's bits do
not depend on who is stacked with it, nor on how many.
"""

from collections.abc import Sequence
from math import prod
from typing import final

import numpy as np
import torch
from torch import Tensor

from fedq.kernels import active as kernels
from fedq.kernels._chain import ABSENT, LINEAR, RELU
from fedq.models.chains import chain_of
from fedq.models.network import Blueprint, Flat, Weights


@final
class Stacked(Flat):
    """A chain of layers with the weights `names` stacked over K clients, and all others as in `weights`."""

    def __init__(self, blueprint: Blueprint, weights: Weights, names: Sequence[str]) -> None:
        module = blueprint.module()
        parameters = dict(module.named_parameters())
        super().__init__({name: tuple(parameters[name].shape) for name in names}, blueprint.device)
        self._layers = chain_of(module, blueprint.shape, self.shapes, weights)
        self.chain = self._layers if self.device == "cpu" else None
        assert self.chain or not self._layers.layers[0].channels, "only kernels know planes"
        self._fixed = torch.from_numpy(self._layers.fixed).to(self.device)

    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy [K] of each client's batch at its weights, and the gradient [K, D]."""
        if self.chain is None:
            return self._differentiated(w_KD, x_KB, y_KB)
        loss_K, g_KD = kernels.chain_gradient(self.chain, w_KD.numpy(), x_KB.numpy(), y_KB.numpy())
        return torch.from_numpy(loss_K), torch.from_numpy(g_KD)

    @torch.enable_grad()
    def _differentiated(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """The same by batched products and autograd: for devices that have no kernel."""
        w_KD = w_KD.detach().clone().requires_grad_()
        starts = dict(zip(np.cumsum([0, *self._sizes]).tolist(), torch.split(w_KD, self._sizes, 1), strict=False))

        def part(at: int, *shape: int) -> Tensor:
            own = starts[at] if at >= 0 else self._fixed[None, -1 - at : prod(shape) - 1 - at]
            return own.reshape(-1, *shape)

        x, y_KB = x_KB.to(self.device).flatten(2), y_KB.to(self.device)
        for layer in self._layers.layers:
            if layer.kind == LINEAR:
                x = x @ part(layer.weight, layer.outputs, layer.inputs).mT
            elif layer.kind == RELU:
                x = x.relu()
            else:
                x = x - x.mean(1, keepdim=True)
                x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + part(layer.epsilon, 1))
                x = x if layer.weight == ABSENT else x * part(layer.weight, 1, layer.outputs)
            if layer.bias != ABSENT:
                x = x + part(layer.bias, 1, layer.outputs)
        loss_K = -x.log_softmax(2).gather(2, y_KB[..., None]).mean((1, 2))
        (g_KD,) = torch.autograd.grad(loss_K.sum(), w_KD)
        return loss_K.detach(), g_KD
