"""Plain local training: minibatch SGD (with momentum if asked) or Adam on the weights themselves."""

from collections.abc import Callable
from typing import Literal, final

from pydantic import Field
from torch import Tensor

from fedq.clients.local import Batches, Differentiable, StepOptions
from fedq.clients.optimizers import descend_, optimizer


class SgdOptions(StepOptions):
    """`[client]` keys of `sgd`, and of the algorithms that add a term to its loss."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd or adam, fresh in every round")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd, fresh in every round")
    weight_decay: float = Field(0.0, ge=0, description="weight_decay * w is added to every gradient")


@final
class Sgd:
    """Local steps of FedAvg (McMahan et al. 2017, algorithm 1, ClientUpdate)."""

    returns: Literal["weights", "gradient"] = "weights"
    Options = SgdOptions

    def __init__(self, options: SgdOptions) -> None:
        self._options = options

    def train(self, network: Differentiable, w_KD: Tensor, batches: Batches) -> tuple[Tensor, Tensor]:
        """Weights after the local steps, and the mean loss over them; see `LocalAlgorithm.train`."""
        return descend(network, w_KD, batches, self._options)


def descend(
    network: Differentiable,
    w_KD: Tensor,
    batches: Batches,
    o: SgdOptions,
    more: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights after local steps from `w_KD`, and the mean loss [K]; `more` is the gradient of a term of its own."""
    w = w_KD.clone()
    steps = optimizer(o.optimizer, o.lr, o.momentum)
    return w, descend_(network, w, batches, steps, decay=o.weight_decay, more=more)
