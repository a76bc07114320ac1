"""Modules that come with weights of their own, of which a run trains a small part."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

Reader: TypeAlias = Callable[[Sequence[str]], NDArray[np.int32]]  # texts -> token ids [N, T]


class Pretrained(nn.Module, ABC):
    """A model whose frozen parameters share one copy in a process; those that want a gradient are a run's weights."""

    Options: ClassVar[Any]

    @classmethod
    @abstractmethod
    def reader(cls, options: Any) -> Reader:
        """What makes token ids of texts."""

    @abstractmethod
    def merging(self) -> list[str]:
        """The names of the frozen weights that a product of LoRA factors can be added to."""
