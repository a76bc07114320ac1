"""Networks of K clients at once: stacked weights and batched matrix products.

For modules that are a chain of linear layers, ReLU and batch norm; others are trained one client at a time. Batched
products round differently from single ones, so a client's float results depend on how many train together (to a few
units in the last place), and never on who the others are.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedq.models.network import Blueprint, Flat, Weights

Layer = Callable[[Tensor, dict[str, Tensor]], Tensor]  # activations [K, B, ...] and stacked parameters -> [K, B, ...]


@final
class Stacked(Flat):
    """A chain of layers with the weights `names` stacked over K clients, and all others as in `weights`."""

    def __init__(self, blueprint: Blueprint, weights: Weights, names: Sequence[str]) -> None:
        module = blueprint.module()
        assert stackable(module)
        self._layers = [_layer(path, part) for path, part in module._modules.items() if part is not None]
        parameters = dict(module.named_parameters())
        super().__init__({name: tuple(parameters[name].shape) for name in names})
        self._fixed = {n: torch.tensor(weights[n])[None] for n in parameters if n not in names}

    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy [K] of each client's batch at its weights, and the gradient [K, D]."""
        w = w_KD.detach().requires_grad_()
        parts = torch.split(w, self._sizes, dim=1)
        stacked = {n: p.view(len(w), *s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)} | self._fixed
        x = x_KB
        for layer in self._layers:
            x = layer(x, stacked)
        losses = functional.cross_entropy(x.flatten(0, 1), y_KB.flatten(), reduction="none").view(y_KB.shape).mean(1)
        (g_KD,) = torch.autograd.grad(losses.sum(), w)
        return losses.detach(), g_KD


def stackable(module: nn.Module) -> bool:
    """Whether `Stacked` knows every layer of the module: exactly these classes, with nothing hooked on."""
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return plain and all(_known(part) for part in module._modules.values() if part is not None) and not _hooked(module)


def _known(part: nn.Module) -> bool:
    if type(part) is nn.BatchNorm1d:
        return not part.track_running_stats
    if type(part) is nn.Flatten:
        return (part.start_dim, part.end_dim) == (1, -1)
    return type(part) in (nn.Linear, nn.ReLU)


def _hooked(module: nn.Module) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in module.modules())


def _layer(path: str, part: nn.Module) -> Layer:
    if isinstance(part, nn.Linear):
        return _linear(f"{path}.weight", f"{path}.bias" if part.bias is not None else "")
    if isinstance(part, nn.BatchNorm1d):
        return _norm(f"{path}.weight" if part.affine else "", f"{path}.bias", part.eps)
    if isinstance(part, nn.ReLU):
        return lambda x, _: functional.relu(x)
    return lambda x, _: x.flatten(2)


def _linear(weight: str, bias: str) -> Layer:
    def linear(x: Tensor, stacked: dict[str, Tensor]) -> Tensor:
        w_T = stacked[weight].transpose(1, 2)
        if len(w_T) != len(x):  # weights that nobody trains
            w_T = w_T.expand(len(x), -1, -1)
        return (
            torch.baddbmm(stacked[bias][:, None, :].expand(len(x), x.shape[1], -1), x, w_T)
            if bias
            else torch.bmm(x, w_T)
        )

    return linear


def _norm(weight: str, bias: str, epsilon: float) -> Layer:
    def norm(x: Tensor, stacked: dict[str, Tensor]) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        y = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + epsilon)
        return y * stacked[weight][:, None, :] + stacked[bias][:, None, :] if weight else y

    return norm
