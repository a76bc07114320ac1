"""Networks of K clients at once: stacked weights, and one kernel that takes the gradients of all of them.

For modules that are a chain of linear layers, ReLU and batch norm; others are trained one client at a time. A client's
bits do not depend on who is stacked with it, nor on how many.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedq.kernels import active as kernels
from fedq.kernels._reference_dense import ABSENT, LINEAR, NORM, RELU, Chain, Layer
from fedq.models.network import Blueprint, Flat, Weights


@final
class Stacked(Flat):
    """A chain of layers with the weights `names` stacked over K clients, and all others as in `weights`."""

    def __init__(self, blueprint: Blueprint, weights: Weights, names: Sequence[str]) -> None:
        module = blueprint.module()
        assert stackable(module)
        parameters = dict(module.named_parameters())
        super().__init__({name: tuple(parameters[name].shape) for name in names}, blueprint.device)
        self._layers = _chain(module, self.shapes, weights)
        self.chain = self._layers if self.device == "cpu" else None
        self._fixed = torch.from_numpy(self._layers.fixed).to(self.device)

    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy [K] of each client's batch at its weights, and the gradient [K, D]."""
        if self.chain is None:
            return self._differentiated(w_KD, x_KB, y_KB)
        loss_K, g_KD = kernels.dense_gradient(self.chain, w_KD.numpy(), x_KB.numpy(), y_KB.numpy())
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


def stackable(module: nn.Module) -> bool:
    """Whether `Stacked` knows every layer of the module: exactly these classes, with nothing hooked on or shared."""
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if not plain or not all(_known(part) for part in module.children()) or _hooked(module):
        return False
    shared = len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False)))
    return not shared and bool(_sized(module))


def _known(part: nn.Module) -> bool:
    if type(part) is nn.BatchNorm1d:
        return not part.track_running_stats
    if type(part) is nn.Flatten:
        return (part.start_dim, part.end_dim) == (1, -1)
    return type(part) in (nn.Linear, nn.ReLU)


def _hooked(module: nn.Module) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in module.modules())


def _sized(module: nn.Module) -> list[tuple[str, nn.Module, int, int]]:
    """Each layer with its path, and the values it takes and gives; none where one does not take what another gave."""
    parts = [(path, part) for path, part in module._modules.items() if part is not None]
    kinds, found = [type(part) for _, part in parts], list[tuple[str, nn.Module, int, int]]()
    if nn.Linear not in kinds or nn.Flatten in kinds[kinds.index(nn.Linear) :]:
        return []  # a linear layer may have worked on the last of several dimensions
    width = next(part.in_features for _, part in parts if isinstance(part, nn.Linear))
    for path, part in parts:
        takes = part.in_features if isinstance(part, nn.Linear) else getattr(part, "num_features", width)
        if takes != width:
            return []
        width = part.out_features if isinstance(part, nn.Linear) else takes
        if not isinstance(part, nn.Flatten):
            found.append((path, part, takes, width))
    return found


def _chain(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], weights: Weights) -> Chain:
    """The module as the kernel reads it: weights of `shapes` one after the other, all others fixed."""
    ends = np.cumsum([0, *(prod(shape) for shape in shapes.values())]).tolist()
    places, fixed = dict(zip(shapes, ends, strict=False)), [np.zeros(0, np.float32)]

    def kept(values: NDArray[np.float32]) -> int:
        fixed.append(values.reshape(-1))
        return -1 - sum(map(len, fixed[:-1]))

    def place(part: nn.Module, name: str, path: str) -> int:
        if getattr(part, name, None) is None:
            return ABSENT
        named = f"{path}.{name}"
        return places[named] if named in places else kept(weights[named])

    layers = []
    for path, part, takes, gives in _sized(module):
        kind = LINEAR if isinstance(part, nn.Linear) else NORM if isinstance(part, nn.BatchNorm1d) else RELU
        weight, bias = (place(part, name, path) for name in ("weight", "bias"))
        epsilon = kept(np.full(1, part.eps, np.float32)) if isinstance(part, nn.BatchNorm1d) else ABSENT
        layers.append(Layer(kind, takes, gives, weight, bias, epsilon))
    return Chain(layers, np.concatenate(fixed, dtype=np.float32), ends[-1])
