"""Two LeNet-5: the classic one (61,706 weights), and FedVote's wide one (1,657,632 voted weights)."""

from typing import final

from torch import nn

from fedq.options import Options


@final
class LeNet5(nn.Sequential):
    """LeCun et al. 1998 with ReLU and max pooling: 6 and 16 feature maps, then 120, 84 and `classes` units.

    On 28 x 28 grey images with 10 classes: 61,706 weights and biases.
    """

    class Options(Options):
        """`lenet5` has no settings."""

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        channels, height, width = shape
        height, width = (height // 2 - 4) // 2, (width // 2 - 4) // 2
        if min(height, width) < 1:
            raise ValueError("images must be at least 12 x 12")
        super().__init__(
            nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * height * width, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, classes),
        )  # fmt: skip


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
            *_voted_block(channels, 32),
            *_voted_block(32, 64),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512, bias=False),
            nn.BatchNorm1d(512, affine=False, track_running_stats=False),
            nn.ReLU(),
            nn.Linear(512, classes),
        )


def _voted_block(channels: int, maps: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, maps, 5, padding=2, bias=False),
        nn.BatchNorm2d(maps, affine=False, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
