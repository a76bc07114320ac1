"""The classic LeNet-5."""

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
