"""What networks are fed: the bytes of a data set on one scale, in training also augmented."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from torch import Tensor

from fedq.data.augment import Augmentation, augmentation
from fedq.data.dataset import Dataset, Examples, Scale
from fedq.errors import FedqError


@final
@dataclass(frozen=True)
class Inputs:
    """A data set, the scale of its pixels and the name of an augmentation. FedqError FQ105 if they do not fit."""

    data: Dataset
    scale: Scale = "standard"
    augment: str = "none"

    def __post_init__(self) -> None:
        if (wanted := self._augmentation.scale) not in ("", self.scale):
            raise FedqError(
                "FQ105",
                f"augmentation `{self.augment}` takes pixels of scale `{wanted}`, not `{self.scale}`",
                key="data.augment",
                hint=f"--set data.scale={wanted}",
            )
        try:
            self.shape  # noqa: B018 - for its error
        except ValueError as error:
            raise FedqError(
                "FQ105", f"augmentation `{self.augment}` does not fit: {error}", key="data.augment"
            ) from error

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example as a network sees it."""
        return self._augmentation.shape(self.data.shape)

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Scaled images [N, C, H, W] and labels [N], not yet fit for a network: see `training` and `testing`."""
        return self.data.tensors(examples, self.scale)

    def training(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """A scaled minibatch, augmented by the choices of `random`."""
        return self._augmentation.train(x, random)

    def testing(self, x: Tensor) -> Tensor:
        """Scaled images as they are evaluated: nothing random."""
        return self._augmentation.test(x)

    @property
    def _augmentation(self) -> Augmentation:
        return augmentation(self.augment)
