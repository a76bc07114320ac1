"""Networks of K clients at once: stacked weights and batched matrix products.

For modules that are a chain of linear layers, ReLU and batch norm; others are trained one client at a time. Batched
products round differently from single ones, so a client's float results depend on how many train together (to a few
units in the last place), and never on who the others are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, final

import torch
from torch import Tensor, nn

from fedq.models.network import Blueprint, Flat, Weights

Named: TypeAlias = Mapping[str, Tensor]
Pull: TypeAlias = Callable[[Tensor], Tensor]  # gradient of what a layer gave -> gradient of what it took
# activations [K, B, ...], stacked weights, their gradients to be written -> activations, and the way back
Layer: TypeAlias = Callable[[Tensor, Named, Named], tuple[Tensor, Pull]]


@final
class Stacked(Flat):
    """A chain of layers with the weights `names` stacked over K clients, and all others as in `weights`.

    Gradients are written out by hand: on small networks autograd's bookkeeping takes longer than the products.
    """

    def __init__(self, blueprint: Blueprint, weights: Weights, names: Sequence[str]) -> None:
        module = blueprint.module()
        assert stackable(module)
        parts = [(path, part) for path, part in module._modules.items() if part is not None]
        self._first = next(i for i, (_, part) in enumerate(parts) if list(part.parameters()))
        self._layers = [_layer(path, part, inner=i > self._first) for i, (path, part) in enumerate(parts)]
        parameters = dict(module.named_parameters())
        super().__init__({name: tuple(parameters[name].shape) for name in names}, blueprint.device)
        self._fixed = {n: torch.tensor(weights[n], device=self.device)[None] for n in parameters if n not in names}

    @torch.no_grad()
    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy [K] of each client's batch at its weights, and the gradient [K, D]."""
        g_KD = torch.empty(w_KD.shape, device=self.device)
        stacked, slopes = self._views(w_KD) | self._fixed, self._views(g_KD)
        x, y_KB, pulls = x_KB.to(self.device), y_KB.to(self.device), list[Pull]()
        for layer in self._layers:
            x, pull = layer(x, stacked, slopes)
            pulls.append(pull)
        loss_K, slope = _cross_entropy(x, y_KB)
        for pull in reversed(pulls[self._first :]):
            slope = pull(slope)
        return loss_K, g_KD

    def _views(self, flat_KD: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat_KD, self._sizes, dim=1)
        return {n: p.view(len(flat_KD), *s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}


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


def _layer(path: str, part: nn.Module, *, inner: bool) -> Layer:
    if isinstance(part, nn.Linear):
        return _linear(f"{path}.weight", f"{path}.bias" if part.bias is not None else "", inner=inner)
    if isinstance(part, nn.BatchNorm1d):
        return _norm(f"{path}.weight" if part.affine else "", f"{path}.bias", part.eps)
    return _relu if isinstance(part, nn.ReLU) else _flatten


def _linear(weight: str, bias: str, *, inner: bool) -> Layer:
    """`inner`: layers before it have weights, which want the gradient too."""

    def linear(x: Tensor, stacked: Named, slopes: Named) -> tuple[Tensor, Pull]:
        w = stacked[weight].expand(len(x), -1, -1)  # those that nobody trains stand once
        y = torch.bmm(x, w.transpose(1, 2))
        if bias:
            y += stacked[bias][:, None]

        def pull(g: Tensor) -> Tensor:
            if weight in slopes:
                torch.bmm(g.transpose(1, 2), x, out=slopes[weight])
            if bias in slopes:
                torch.sum(g, 1, out=slopes[bias])
            return torch.bmm(g, w) if inner else g

        return y, pull

    return linear


def _norm(weight: str, bias: str, epsilon: float) -> Layer:
    def norm(x: Tensor, stacked: Named, slopes: Named) -> tuple[Tensor, Pull]:
        y = x - x.mean(1, keepdim=True)
        r = torch.rsqrt(y.square().mean(1, keepdim=True) + epsilon)
        y *= r

        def pull(g: Tensor) -> Tensor:
            if weight in slopes:
                torch.sum(g * y, 1, out=slopes[weight])
            if bias in slopes:
                torch.sum(g, 1, out=slopes[bias])
            if weight:
                g = g * stacked[weight][:, None]
            return r * (g - g.mean(1, keepdim=True) - y * (g * y).mean(1, keepdim=True))

        return (y * stacked[weight][:, None] + stacked[bias][:, None] if weight else y), pull

    return norm


def _relu(x: Tensor, stacked: Named, slopes: Named) -> tuple[Tensor, Pull]:
    y = torch.relu(x)
    return y, lambda g: g * (y > 0)


def _flatten(x: Tensor, stacked: Named, slopes: Named) -> tuple[Tensor, Pull]:
    return x.flatten(2), lambda g: g.view(x.shape)


def _cross_entropy(logits: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over each client's batch [K], and its gradient [K, B, C]."""
    log_p = torch.log_softmax(logits, 2)
    at = y_KB[..., None]
    loss_K = -log_p.gather(2, at).double().mean((1, 2)).float()  # the same bits whoever else is stacked
    g = log_p.exp_()
    g.scatter_add_(2, at, torch.full(at.shape, -1.0, device=at.device))
    return loss_K, g.div_(y_KB.shape[1])
