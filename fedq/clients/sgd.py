"""Plain local training: minibatch SGD (with momentum if asked) or Adam on the weights themselves."""

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedq.clients.local import Batches, Differentiable, TrainOptions
from fedq.clients.optimizers import optimizer


@final
class Sgd:
    """Local steps of FedAvg (McMahan et al. 2017, algorithm 1, ClientUpdate)."""

    returns: Literal["weights", "gradient"] = "weights"

    class Options(TrainOptions):
        """`[client]` keys of `sgd`."""

        optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd or adam, fresh in every round")
        momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd, fresh in every round")

    def __init__(self, options: Options) -> None:
        self._options = options

    def train(self, network: Differentiable, w_KD: Tensor, batches: Batches) -> tuple[Tensor, Tensor]:
        """Weights after the local steps, and the mean loss over them; see `LocalAlgorithm.train`."""
        o = self._options
        steps = optimizer(o.optimizer, o.lr, o.momentum)
        w, losses = w_KD.clone(), []
        for x, y in batches:
            loss, g = network.gradient(w, x, y)
            steps.step_(w, g)
            losses.append(loss)
        return w, torch.stack(losses).mean(0)
