"""FedProx's client: local steps that stay near the weights received (Li et al. 2020, arXiv 1812.06127).

Each client minimises F_k(w) + (mu/2) |w - w^t|^2. With mu = 0 it is `sgd`, bit for bit.
"""

from collections.abc import Mapping
from typing import Any, Literal, final

from pydantic import Field
from torch import Tensor

from fedq.clients.local import Batches, Differentiable
from fedq.clients.sgd import SgdOptions, descend

MU = 0.01  # the middle of the paper's 0.001 ... 1


@final
class FedProx:
    """Local steps on the proximal objective."""

    returns: Literal["weights", "gradient"] = "weights"

    class Options(SgdOptions):
        """`[client]` keys of `fedprox`."""

        mu: float | None = Field(
            None, ge=0, description="strength of the proximal term; else strategy.proximal_mu of `fedprox`, else 0.01"
        )

        def at(self, round_: int, told: Mapping[str, Any]) -> "FedProx.Options":
            """With the message's `proximal-mu`, unless a `mu` was given."""
            now = super().at(round_, told)
            mu = told.get("proximal-mu", MU) if self.mu is None else self.mu
            return self.__class__.model_validate({**now.__dict__, "mu": mu})

    def __init__(self, options: Options) -> None:
        self._options = options

    def train(self, network: Differentiable, w_KD: Tensor, batches: Batches) -> tuple[Tensor, Tensor]:
        """Weights after the local steps, and the mean loss; see `LocalAlgorithm.train`."""
        mu = MU if self._options.mu is None else self._options.mu
        return descend(network, w_KD, batches, self._options, lambda w: mu * (w - w_KD))
