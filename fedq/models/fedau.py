"""FedAU's networks (Wang and Ji 2024, arXiv 2306.03401): two 3 x 3 convolutions of 32 maps, a head for each data set.

No norms and no buffers. Weights are He-normal with zero biases but for the last layer, which the official code leaves
to torch's default: weights and biases uniform in +-1 / sqrt(fan in).
"""

from typing import Any, final

import numpy as np
from pydantic import Field, PositiveInt
from torch import nn

from fedq.models.dropout import Dropout
from fedq.models.initial import Drawn, like_torch
from fedq.options import Options


def _hidden(*units: int) -> Any:
    return Field(units, description="units of each hidden layer of the head")


def _dropout(share: float) -> Any:
    return Field(share, ge=0, lt=1, description="share of values dropped before each layer of the head, in training")


class FedAuCnn(nn.Sequential):
    """Convolution 32, ReLU, pool, convolution 32, ReLU, pool, then linear layers."""

    class Options(Options):
        """`[model]` keys of the FedAU networks."""

        hidden: tuple[PositiveInt, ...] = _hidden(128)
        dropout: float = _dropout(0.0)

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        if min(height, width) < 4:
            raise ValueError("images must be at least 4 x 4")
        layers: list[nn.Module] = [
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
        ]  # fmt: skip
        units = 32 * (height // 4) * (width // 4)
        for wide in options.hidden:
            layers += [*_dropped(options.dropout), nn.Linear(units, wide), nn.ReLU()]
            units = wide
        super().__init__(*layers, *_dropped(options.dropout), nn.Linear(units, classes))

    def draw(self, name: str, random: np.random.Generator) -> Drawn | None:
        """Torch's law for the last layer, the default for the others; see `fedq.models.initial.Drawing`."""
        return like_torch(self, name, random) if name.startswith(f"{len(self) - 1}.") else None


@final
class FedAuCnn128(FedAuCnn):
    """FedAU's network for SVHN and Fashion-MNIST: two convolutions of 32 maps, then 128 and `classes` units.

    With 10 classes: 273,706 weights and biases on 32 x 32 colour images, 211,690 on 28 x 28 grey ones.
    """


@final
class FedAuCnn256(FedAuCnn):
    """FedAU's network for CIFAR-10: two convolutions of 32 maps, then 256, 64 and `classes` units.

    On 32 x 32 colour images with 10 classes: 551,786 weights and biases.
    """

    class Options(FedAuCnn.Options):
        """`[model]` keys of `fedau_cnn_cifar10`."""

        hidden: tuple[PositiveInt, ...] = _hidden(256, 64)


@final
class FedAuCnn512(FedAuCnn):
    """FedAU's network for CIFAR-100 and CINIC-10: two convolutions of 32 maps, then 512, 256 and `classes` units.

    Dropout of 0.2 before each linear layer. On 32 x 32 colour images: 1,216,260 weights and biases with 100 classes,
    1,193,130 with 10.
    """

    class Options(FedAuCnn.Options):
        """`[model]` keys of `fedau_cnn_cifar100` and `fedau_cnn_cinic10`."""

        hidden: tuple[PositiveInt, ...] = _hidden(512, 256)
        dropout: float = _dropout(0.2)


def _dropped(share: float) -> tuple[nn.Module, ...]:
    return (Dropout(share),) if share else ()
