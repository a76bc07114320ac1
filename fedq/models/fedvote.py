"""FedVote's networks (Yue et al. 2021, arXiv 2110.02998): every layer but the last is voted on.

Voted layers have no bias, as the batch norm after each would cancel it. The norm has no parameters and uses the
statistics of the batch in training and in evaluation. The last layer stays as it was drawn and never travels.
"""

from typing import final

from torch import nn

from fedq.options import Options


@final
class FedVoteLeNet5(nn.Sequential):
    """FedVote's LeNet-5: convolutions of 32 and 64 maps, 512 units, batch norm without parameters after each.

    Batch statistics serve in training and in evaluation. On 28 x 28 grey images the voted layers have
    800 + 51,200 + 1,605,632 weights; the last layer (5,130 with biases) stays as it was drawn.
    """

    class Options(Options):
        """`fedvote_lenet5` has no settings."""

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        if min(height, width) < 4:
            raise ValueError("images must be at least 4 x 4")
        super().__init__(
            *_convolution(channels, 32, 5), nn.MaxPool2d(2),
            *_convolution(32, 64, 5), nn.MaxPool2d(2),
            nn.Flatten(),
            *_units(64 * (height // 4) * (width // 4), 512),
            nn.Linear(512, classes),
        )  # fmt: skip


@final
class Vgg7(nn.Sequential):
    """FedVote's VGG-7: two 3 x 3 convolutions each of 128, 256 and 512 maps, 1,024 units, batch norm after each.

    On 32 x 32 colour images with 10 classes the voted layers have 12,963,200 weights; the last layer (10,250 with
    biases) stays as it was drawn.
    """

    class Options(Options):
        """`vgg7` has no settings."""

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        if min(height, width) < 8:
            raise ValueError("images must be at least 8 x 8")
        super().__init__(
            *_convolution(channels, 128, 3), *_convolution(128, 128, 3), nn.MaxPool2d(2),
            *_convolution(128, 256, 3), *_convolution(256, 256, 3), nn.MaxPool2d(2),
            *_convolution(256, 512, 3), *_convolution(512, 512, 3), nn.MaxPool2d(2),
            nn.Flatten(),
            *_units(512 * (height // 8) * (width // 8), 1024),
            nn.Linear(1024, classes),
        )  # fmt: skip


def _convolution(channels: int, maps: int, size: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, maps, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(maps, affine=False, track_running_stats=False),
        nn.ReLU(),
    )


def _units(before: int, units: int) -> tuple[nn.Module, ...]:
    return (
        nn.Linear(before, units, bias=False),
        nn.BatchNorm1d(units, affine=False, track_running_stats=False),
        nn.ReLU(),
    )
