"""TernGrad's networks (Wen et al. 2017, arXiv 1705.07878): Caffe's LeNet, and the CifarNet of TensorFlow's tutorial.

Sizes, padding and initial weights are those of the official code. Its weight decay is no matter of the network.
"""

from collections import OrderedDict
from typing import ClassVar, final

import numpy as np
from torch import nn

from fedq.models.initial import Drawn, truncated_normal
from fedq.options import Options


class TernGradNetwork(nn.Sequential):
    """Named layers, each with the deviation of its weights and the value of its biases at the start."""

    LAWS: ClassVar[dict[str, tuple[float, float]]]  # layer: deviation of the weights, value of the biases

    class Options(Options):
        """TernGrad's networks have no settings."""

    def draw(self, name: str, random: np.random.Generator) -> Drawn:
        """Truncated normal weights, constant biases; see `fedq.models.initial.Drawing`."""
        layer, _, kind = name.partition(".")
        std, bias = self.LAWS[layer]
        shape = tuple(self.get_parameter(name).shape)
        return truncated_normal(shape, std, random) if kind == "weight" else np.full(shape, bias, np.float32)


@final
class TernGradLeNet(TernGradNetwork):
    """TernGrad's LeNet: 5 x 5 convolutions of 20 and 50 maps, pooling after each, then 500 and `classes` units.

    On 28 x 28 grey images with 10 classes: 1,256,080 weights and biases. The paper feeds it pixels in [-1, 1]
    (data.scale = "unit").
    """

    LAWS: ClassVar = {"conv1": (0.05, 0.0), "conv2": (0.05, 0.0), "fc3": (0.048, 0.0), "logits": (0.0767, 0.0)}

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        if min(height, width) < 4:
            raise ValueError("images must be at least 4 x 4")
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(channels, 20, 5, padding=2)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
            ("conv2", nn.Conv2d(20, 50, 5, padding=2)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2)),
            ("flatten", nn.Flatten()),
            ("fc3", nn.Linear(50 * (height // 4) * (width // 4), 500)), ("relu3", nn.ReLU()),
            ("logits", nn.Linear(500, classes)),
        ]  # fmt: skip
        super().__init__(OrderedDict(layers))


@final
class TernGradCifarNet(TernGradNetwork):
    """TernGrad's CifarNet: two 5 x 5 convolutions of 64 maps with local response norm, then 384, 192, `classes` units.

    On 24 x 24 colour images with 10 classes: 1,068,298 weights and biases. The paper crops CIFAR's 32 x 32 pixels
    (data.augment = "terngrad_cifar").
    """

    LAWS: ClassVar = {
        "conv1": (0.05, 0.0), "conv2": (0.05, 0.1), "fc3": (0.04, 0.1), "fc4": (0.04, 0.1), "logits": (1 / 192, 0.0),
    }  # fmt: skip

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        if min(height, width) < 6:
            raise ValueError("images must be at least 6 x 6")
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(channels, 64, 5, padding=2)), ("relu1", nn.ReLU()),
            ("pool1", _pool()), ("lrn1", _lrn()),
            ("conv2", nn.Conv2d(64, 64, 5, padding=2)), ("relu2", nn.ReLU()),
            ("lrn2", _lrn()), ("pool2", _pool()),
            ("flatten", nn.Flatten()),
            ("fc3", nn.Linear(64 * (height // 4) * (width // 4), 384)), ("relu3", nn.ReLU()),
            ("fc4", nn.Linear(384, 192)), ("relu4", nn.ReLU()),
            ("logits", nn.Linear(192, classes)),
        ]  # fmt: skip
        super().__init__(OrderedDict(layers))


def _pool() -> nn.Module:
    """3 x 3 with stride 2, half the size; on even sizes the same windows as TensorFlow's SAME."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _lrn() -> nn.Module:
    """Radius 4 (9 channels), alpha 0.001 / 9 a channel: torch takes their sum, 0.001."""
    return nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)
