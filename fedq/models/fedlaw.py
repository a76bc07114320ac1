"""FedLAW's small networks (Li et al. 2023, arXiv 2302.10911), with torch's default initial weights as in its code.

All weights and biases are uniform in +-1 / sqrt(fan in). Its ResNet-20 is in `resnet.py`.
"""

from math import prod
from typing import final

import numpy as np
from torch import nn

from fedq.models.initial import Drawn, like_torch
from fedq.options import Options


class FedLawNetwork(nn.Sequential):
    """Layers with torch's default initial weights and no settings."""

    class Options(Options):
        """FedLAW's networks have no settings."""

    def draw(self, name: str, random: np.random.Generator) -> Drawn | None:
        """Torch's law for every layer; see `fedq.models.initial.Drawing`."""
        return like_torch(self, name, random)


@final
class FedLawCnn(FedLawNetwork):
    """FedLAW's CNN: 3 x 3 convolutions of 32, 64 and 64 maps without padding, then 64 and `classes` units.

    On 32 x 32 colour images: 122,570 weights and biases with 10 classes, 128,420 with 100.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        height, width = ((height - 2) // 2 - 2) // 2 - 2, ((width - 2) // 2 - 2) // 2 - 2
        if min(height, width) < 1:
            raise ValueError("images must be at least 18 x 18")
        super().__init__(
            nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * height * width, 64), nn.ReLU(),
            nn.Linear(64, classes),
        )  # fmt: skip


@final
class FedLawLeNet5(FedLawNetwork):
    """What FedLAW calls LeNet-5: 5 x 5 convolutions of 16 and 32 maps, then `classes` units and no hidden layer.

    On 28 x 28 grey images with 10 classes: 28,938 weights and biases.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        if min(height, width) < 4:
            raise ValueError("images must be at least 4 x 4")
        super().__init__(
            nn.Conv2d(channels, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), classes),
        )  # fmt: skip


@final
class FedLawMlp(FedLawNetwork):
    """FedLAW's multilayer perceptron: 200, 200 and `classes` units.

    On 28 x 28 grey images with 10 classes: 199,210 weights and biases.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(prod(shape), 200), nn.ReLU(),
            nn.Linear(200, 200), nn.ReLU(),
            nn.Linear(200, classes),
        )  # fmt: skip
