"""Laws of initial weights, drawn from the run's seed and never from torch's global generator.

The default is He et al. 2015: normal with variance 2 / fan in, zero biases, ones for norms. A model with a law of its
own has a method `draw`.
"""

from math import prod, sqrt
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

Drawn = NDArray[np.float32]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


@runtime_checkable
class Drawing(Protocol):
    """A module that draws initial weights itself."""

    def draw(self, name: str, random: np.random.Generator) -> Drawn | None:
        """The parameter of this name, such as `0.weight`; None, with `random` untouched, leaves it to the default."""


def initial(module: nn.Module, name: str, random: np.random.Generator) -> Drawn:
    """One parameter of a module, by the module's own law or the default one."""
    own = module.draw(name, random) if isinstance(module, Drawing) else None
    return _default(module, name, random) if own is None else own


def he_normal(shape: tuple[int, ...], random: np.random.Generator) -> Drawn:
    """Normal with variance 2 / fan in."""
    return random.standard_normal(shape, np.float32) * np.float32(sqrt(2 / prod(shape[1:])))


def truncated_normal(shape: tuple[int, ...], std: float, random: np.random.Generator) -> Drawn:
    """Normal of deviation `std`, values beyond 2 std drawn again (TensorFlow's law; what is left deviates 0.88 std)."""
    z = random.standard_normal(shape, np.float32)
    while (beyond := np.abs(z) > 2).any():
        z[beyond] = random.standard_normal(int(beyond.sum()), np.float32)
    return z * np.float32(std)


def like_torch(module: nn.Module, name: str, random: np.random.Generator) -> Drawn | None:
    """What torch gives linear and convolutional layers: weights and biases uniform in +-1 / sqrt(fan in)."""
    layer = module.get_submodule(name.rpartition(".")[0])
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return None
    bound = 1 / sqrt(prod(layer.weight.shape[1:]))
    return random.uniform(-bound, bound, tuple(module.get_parameter(name).shape)).astype(np.float32)


def _default(module: nn.Module, name: str, random: np.random.Generator) -> Drawn:
    layer, _, kind = name.rpartition(".")
    shape = tuple(module.get_parameter(name).shape)
    if isinstance(module.get_submodule(layer), NORMS) and kind == "weight":
        return np.ones(shape, np.float32)
    return he_normal(shape, random) if len(shape) > 1 else np.zeros(shape, np.float32)
