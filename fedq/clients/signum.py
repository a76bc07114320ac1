"""Signum's client: a gradient smoothed over the rounds (Bernstein et al. 2018, arXiv 1802.04434, algorithm 2).

Behind `signsgd` each client then votes with the sign of its momentum (Bernstein et al. 2019, arXiv 1810.05291,
algorithm 1), which the client keeps: a large batch spread over time.
"""

from typing import Literal, final

from pydantic import Field
from torch import Tensor

from fedq.clients.gradient import mean_gradient
from fedq.clients.local import Batches, Differentiable, TrainOptions


@final
class Signum:
    """v_k <- momentum v_k + (1 - momentum) g_k, and v_k is sent."""

    returns: Literal["weights", "gradient"] = "gradient"

    class Options(TrainOptions):
        """`[client]` keys of `signum`."""

        lr: float = Field(0.005, gt=0, description="learning rate: the server's step")
        momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the gradient, kept from round to round")

    def __init__(self, options: Options) -> None:
        self._options = options

    def train_on(
        self, network: Differentiable, w_KD: Tensor, memory_KD: Tensor, batches: Batches
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The momentum, the mean loss, and the momentum again, to keep; see `Remembering.train_on`."""
        g, loss_K = mean_gradient(network, w_KD, batches)
        v = memory_KD.lerp(g, 1 - self._options.momentum)
        return v, loss_K, v
