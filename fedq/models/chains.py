"""Modules that are a chain of layers as kernels know them: linear ones, convolutions, pools, ReLU and batch norm."""

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedq.kernels import active as kernels
from fedq.kernels._chain import ABSENT, CONVOLUTION, LINEAR, NORM, POOL, RELU, Chain, Layer
from fedq.models.network import Weights

WIDEST = 60_000  # weights of a convolution that kernels are still faster at than torch (benchmarks/convolutions.py)
Shape = tuple[int, ...]


def stackable(module: nn.Module, shape: Shape, device: str = "cpu") -> bool:
    """Whether kernels know every layer of the module on examples of this shape, and are the faster way.

    Exactly the classes below, with nothing hooked on or shared. What works on planes only where native kernels are.
    """
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if not plain or _hooked(module):
        return False
    layers = [layer for _, _, layer in _layers(module, shape)]
    named = len(list(module.named_parameters(remove_duplicate=False)))
    shared = len(list(module.parameters())) < named or any(module.parameters(recurse=False))
    native = device == "cpu" and kernels.isa() != "numpy"
    paying = all(layer.kind != CONVOLUTION or layer.weights <= WIDEST for layer in layers)
    planes = any(layer.channels for layer in layers)
    return any(layer.products for layer in layers) and not shared and (not planes or (native and paying))


def chain_of(module: nn.Module, shape: Shape, shapes: Mapping[str, Shape], weights: Weights) -> Chain:
    """The module as kernels read it: trained weights of `shapes` one after the other, all others fixed."""
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
    for path, part, layer in _layers(module, shape):
        weight, bias = (place(part, name, path) for name in ("weight", "bias"))
        epsilon = kept(np.full(1, part.eps, np.float32)) if layer.kind == NORM else ABSENT
        layers.append(layer._replace(weight=weight, bias=bias, epsilon=epsilon))
    return Chain(layers, np.concatenate(fixed, dtype=np.float32), ends[-1])


def _hooked(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    changed = any("forward" in vars(part) or any(getattr(part, kind) for kind in kinds) for part in module.modules())
    return changed or any(weight._backward_hooks for weight in module.parameters())


def _layers(module: nn.Module, shape: Shape) -> list[tuple[str, nn.Module, Layer]]:
    """Each layer with its path, but for where its parts stand; none where one is unknown or does not fit."""
    found = list[tuple[str, nn.Module, Layer]]()
    for path, part in module._modules.items():
        if type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1):
            shape = (prod(shape),)
            continue
        layer = _on_planes(part, shape) if len(shape) == 3 else _dense(part, shape)
        if part is None or layer is None:
            return []
        shape = layer.gives if layer.channels else (layer.outputs,)
        if min(shape) < 1:
            return []
        found.append((path, part, layer))
    return found if len(shape) == 1 and found and not found[-1][2].channels else []


def _dense(part: nn.Module | None, shape: Shape) -> Layer | None:
    if type(part) is nn.Linear and shape == (part.in_features,):
        return Layer(LINEAR, part.in_features, part.out_features)
    if type(part) is nn.BatchNorm1d and shape == (part.num_features,) and _of_batch(part):
        return Layer(NORM, *shape, *shape)
    return Layer(RELU, *shape, *shape) if type(part) is nn.ReLU and len(shape) == 1 else None


def _of_batch(part: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    """Whether a norm takes statistics of the batch, and has both weight and bias or neither."""
    return not part.track_running_stats and (part.weight is None) == (part.bias is None)


def _on_planes(part: nn.Module | None, shape: Shape) -> Layer | None:
    width, planes = prod(shape), dict(zip(("channels", "height", "width"), shape, strict=True))
    if type(part) is nn.ReLU:
        return Layer(RELU, width, width, **planes)
    if type(part) is nn.BatchNorm2d:
        return Layer(NORM, width, width, **planes) if part.num_features == shape[0] and _of_batch(part) else None
    if type(part) is nn.MaxPool2d and isinstance(size := part.kernel_size, int) and size > 0:
        settings = part.stride, part.padding, part.dilation, part.ceil_mode, part.return_indices
        layer = Layer(POOL, width, width, **planes, size=size)
        return layer._replace(outputs=prod(layer.gives)) if settings == (size, 0, 1, False, False) else None
    if type(part) is nn.Conv2d and part.in_channels == shape[0] and isinstance(part.padding, tuple):
        size, padding = part.kernel_size[0], part.padding[0]
        usual = ((size, size), (padding, padding), (1, 1), (1, 1), 1, "zeros")
        given = part.kernel_size, part.padding, part.stride, part.dilation, part.groups, part.padding_mode
        layer = Layer(CONVOLUTION, width, width, **planes, size=size, padding=padding)
        known = usual == given and padding < size
        return layer._replace(outputs=part.out_channels * prod(layer.gives[1:])) if known else None
    return None
