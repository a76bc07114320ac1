"""FedVote's client: Adam on latent weights h whose tanh is the network's weights (Yue et al. 2021, arXiv 2110.02998).

The network uses w~ = tanh(a h) in (-1, 1) directly, with no sampling and no straight-through estimator; the gradient
flows through tanh into h. What is sent is w~, which the codec rounds to +-1 (or -1, 0, +1) at random, so E[sent] = w~.
"""

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedq.clients.local import Batches, Differentiable, StepOptions
from fedq.clients.optimizers import Through, descend_, optimizer, tanh_half

INSIDE = 1 - 1e-6  # keeps atanh finite; the server's clip (F9) is far inside


@final
class Latent:
    """Local steps on latent weights, returning normalised weights in [-1, 1]."""

    returns: Literal["weights", "gradient"] = "weights"

    class Options(StepOptions):
        """`[client]` keys of `latent`."""

        slope: float = Field(1.5, gt=0, description="a of w = tanh(a h); 3/2 in the paper")
        optimizer: Literal["adam", "sgd"] = Field("adam", description="adam (the paper's) or sgd, fresh in every round")

    def __init__(self, options: Options) -> None:
        self._options = options

    def train(self, network: Differentiable, w_KD: Tensor, batches: Batches) -> tuple[Tensor, Tensor]:
        """Normalised weights after the local steps, and the mean loss; see `LocalAlgorithm.train`."""
        a = self._options.slope
        steps = optimizer(self._options.optimizer, 2 * a * self._options.lr, 0.0)
        start = w_KD[:1] if w_KD.stride(0) == 0 else w_KD  # clients that start alike: once for all
        s = 2 * torch.atanh(start.clamp(-INSIDE, INSIDE))  # F10; s = 2 a h moves 2 a times as far as h
        w, s = (x.expand(w_KD.shape).clone() for x in (tanh_half(s), s))
        return w, descend_(network, w, batches, steps, latent=Through(s, a))  # F1, F3; d tanh(a h) / dh = a (1 - w^2)
