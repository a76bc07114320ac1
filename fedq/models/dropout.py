"""Dropout whose masks are a function of seed, round and client, so that no thread and no resume changes a result."""

from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from fedq.rng import rng


@final
class Dropout(nn.Module):
    """Srivastava et al. 2014: in training a value is 0 with probability `share`, else divided by 1 - `share`.

    Masks come one after the other from the generator that `rekey_` gives at the start of a client's round.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.random: np.random.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Values of any shape, some of them zero in training; the same values in evaluation."""
        if not self.training or not self.share:
            return x
        assert self.random is not None, "rekey_ comes before training"
        kept = torch.from_numpy(self.random.random(tuple(x.shape), np.float32) >= self.share)
        return x * kept.to(x.device) / (1 - self.share)


def rekey_(module: nn.Module, seed: int, *place: int) -> None:
    """Start the masks of every dropout in `module` anew, for one place of the run: round and partition."""
    for path, part in module.named_modules():
        if isinstance(part, Dropout):
            part.random = rng(seed, "dropout", *place, path)
