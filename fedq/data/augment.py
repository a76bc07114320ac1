"""Random changes of training images, on scaled batches; test images are never changed at random.

Shapes: B images of a minibatch, C channels, H x W pixels. All randomness comes from the generator that is given.
"""

from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from fedq.errors import FedqError, nearest


class Augmentation(Protocol):
    """What is done to scaled images before a network sees them."""

    @property
    def scale(self) -> str:
        """The only `data.scale` it goes with, or empty."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one image after it. ValueError if an image is too small."""

    def train(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """A minibatch [B, C, H, W], changed at random; `x` is not written to."""

    def test(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] as they are evaluated: nothing random."""


@final
@dataclass(frozen=True)
class CropFlip:
    """A crop of the image's own size out of it with `margin` zeros around, and a flip from left to right.

    Zero is the mean colour on the scale `standard`. Offsets are uniform, flips happen to half. Each image has its own,
    or with `alike` the whole minibatch has one of each, as in FedAU's code: a weaker regulariser.
    """

    margin: int = 0
    flip: bool = False
    alike: bool = False
    scale: str = ""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape."""
        return shape

    def train(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """Cropped and flipped images; see `Augmentation.train`."""
        n = 1 if self.alike else len(x)
        if self.margin:
            corners = random.integers(0, 2 * self.margin + 1, (2, n))
            x = cut(pad(x, [self.margin] * 4), corners, (x.shape[2], x.shape[3]))
        return flipped(x, random.random(n) < 0.5) if self.flip else x

    def test(self, x: Tensor) -> Tensor:
        """The images as they are."""
        return x


@final
@dataclass(frozen=True)
class TernGradCifar:
    """TernGrad's CIFAR pipeline, TensorFlow's tutorial: a crop of `side` pixels, a flip, contrast, and standardising.

    Contrast stretches each channel about its mean by a factor in 0.2 ... 1.8; standardising gives each image mean 0 and
    deviation 1. In between the tutorial also shifts brightness by up to 63 of 255, which standardising takes back, so
    nothing is drawn for it. In evaluation: the central crop, standardised.
    """

    side: int = 24
    scale: str = "unit"  # standardising undoes one scale for all channels, not one a channel

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a crop."""
        if min(shape[1:]) < self.side:
            raise ValueError(f"images of {shape[1]} x {shape[2]} have no crop of {self.side} x {self.side}")
        return shape[0], self.side, self.side

    def train(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """Crops, flipped, stretched and standardised; see `Augmentation.train`."""
        n, room = len(x), np.array(x.shape[2:])[:, None] - self.side
        x = flipped(cut(x, random.integers(0, room + 1, (2, n)), (self.side, self.side)), random.random(n) < 0.5)
        factor = torch.from_numpy(random.uniform(0.2, 1.8, n).astype(np.float32)).view(-1, 1, 1, 1)
        mean = x.mean((2, 3), keepdim=True)
        return standardised((x - mean) * factor + mean)

    def test(self, x: Tensor) -> Tensor:
        """Central crops, standardised."""
        top, left = (x.shape[2] - self.side) // 2, (x.shape[3] - self.side) // 2
        return standardised(x[:, :, top : top + self.side, left : left + self.side])


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": CropFlip(),
    "flip": CropFlip(flip=True),
    "crop": CropFlip(margin=4),
    "crop_flip": CropFlip(margin=4, flip=True),
    "crop_batch": CropFlip(margin=4, alike=True),
    "crop_flip_batch": CropFlip(margin=4, flip=True, alike=True),
    "terngrad_cifar": TernGradCifar(),
}


def augmentation(name: str) -> Augmentation:
    """The augmentation of this name. FedqError FQ101 if there is none."""
    if name not in AUGMENTATIONS:
        raise FedqError(
            "FQ101", f"unknown augmentation `{name}`", key="data.augment", hint=nearest(name, AUGMENTATIONS)
        )
    return AUGMENTATIONS[name]


def cut(x: Tensor, corners_2n: NDArray[np.int64], size: tuple[int, int]) -> Tensor:
    """Windows of `size` whose first rows and columns are `corners_2n`: n is B, or 1 for one corner for all."""
    (height, width), (top, left) = size, torch.from_numpy(corners_2n)
    windows = x.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, tops, lefts, height, width], no copy
    return windows[torch.arange(len(x)), :, top.expand(len(x)), left.expand(len(x))]


def flipped(x: Tensor, which: NDArray[np.bool_]) -> Tensor:
    """The images with those mirrored that `which` ([B], or [1] for all) says."""
    return torch.where(torch.from_numpy(which).view(-1, 1, 1, 1), x.flip(3), x)


def standardised(x: Tensor) -> Tensor:
    """Each image with mean 0 and deviation 1; the deviation counts as at least 1 / sqrt(CHW) of a byte's step."""
    deviation = x.std((1, 2, 3), correction=0, keepdim=True)
    return (x - x.mean((1, 2, 3), keepdim=True)) / deviation.clamp_min(1 / 127.5 / x[0].numel() ** 0.5)
