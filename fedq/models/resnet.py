"""ResNet-20 for small images (He et al. 2016), in FedLAW's form: a 1 x 1 convolution where a shortcut changes size."""

from typing import Literal, final

import numpy as np
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedq.models.initial import Drawn, like_torch
from fedq.options import Options

GROUPS = 8  # of group norm: 2, 4 and 8 channels each in the three stages

Norm = Literal["batch", "group"]


@final
class ResNet20(nn.Module):
    """ResNet-20: a convolution of 16 maps, three blocks each of 16, 32 and 64 maps, mean over pixels, `classes` units.

    On colour images of any size: 272,474 weights with 10 classes, 278,324 with 100, scales and shifts of the norms
    among them. Batch norm uses the statistics of the batch in training and in evaluation (FedLAW's keeps running ones,
    which would be a state that no client sends); `norm = "group"` uses none. Initial weights are torch's default, as
    in FedLAW's code.
    """

    class Options(Options):
        """`[model]` keys of `resnet20`."""

        norm: Norm = Field("batch", description="batch (statistics of the batch) or group (8 groups of channels)")

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        super().__init__()
        norm = options.norm
        self.conv, self.norm = _conv(shape[0], 16), _norm(16, norm)
        self.blocks = nn.Sequential(
            _Block(16, 16, 1, norm), _Block(16, 16, 1, norm), _Block(16, 16, 1, norm),
            _Block(16, 32, 2, norm), _Block(32, 32, 1, norm), _Block(32, 32, 1, norm),
            _Block(32, 64, 2, norm), _Block(64, 64, 1, norm), _Block(64, 64, 1, norm),
        )  # fmt: skip
        self.last = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        maps = self.blocks(functional.relu(self.norm(self.conv(x))))
        return self.last(maps.mean((2, 3)))  # type: ignore[no-any-return]

    def draw(self, name: str, random: np.random.Generator) -> Drawn | None:
        """Torch's law for convolutions and the last layer; see `fedq.models.initial.Drawing`."""
        return like_torch(self, name, random)


@final
class _Block(nn.Module):
    def __init__(self, before: int, maps: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(before, maps, stride), _norm(maps, norm)
        self.conv2, self.norm2 = _conv(maps, maps), _norm(maps, norm)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, maps, 1, stride, bias=False), _norm(maps, norm))

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def _conv(before: int, maps: int, stride: int = 1) -> nn.Module:
    return nn.Conv2d(before, maps, 3, stride, padding=1, bias=False)


def _norm(maps: int, norm: Norm) -> nn.Module:
    return nn.GroupNorm(GROUPS, maps) if norm == "group" else nn.BatchNorm2d(maps, track_running_stats=False)
