"""One stochastic gradient a round: the client of signSGD and of other gradient-sending methods."""

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedq.clients.local import Batches, Differentiable, TrainOptions, mean_loss


@final
class Gradient:
    """The gradient at the received weights over `local_steps` minibatches: one large batch, in pieces that fit.

    Batch norm sees each minibatch alone. The learning rate is the server's step.
    """

    returns: Literal["weights", "gradient"] = "gradient"

    class Options(TrainOptions):
        """`[client]` keys of `gradient`."""

        weight_decay: float = Field(0.0, ge=0, description="L2 penalty of weights, not biases: in the loss, so sent")

    def __init__(self, options: Options) -> None:
        self._options = options

    def train(self, network: Differentiable, w_KD: Tensor, batches: Batches) -> tuple[Tensor, Tensor]:
        """The mean gradient and the mean loss; see `LocalAlgorithm.train`."""
        g, loss_K = mean_gradient(network, w_KD, batches)
        if decay := self._options.weight_decay:
            g.addcmul_(w_KD, network.matrices, value=decay)
        return g, loss_K


def mean_gradient(network: Differentiable, w_KD: Tensor, batches: Batches) -> tuple[Tensor, Tensor]:
    """The mean over batches of the gradient [K, D] at `w_KD`, and of the loss [K]."""
    total, losses = torch.tensor(0.0), list[Tensor]()
    for x, y in batches:
        loss, g = network.gradient(w_KD, x, y)
        total = total.add_(g) if losses else g
        losses.append(loss)
    if len(losses) > 1:
        total /= len(losses)
    return total, mean_loss(losses)
