"""FedDyn's client: dynamic regularization (Acar et al. 2021, arXiv 2111.04263, algorithm 1).

Each client minimises L_k(w) - <g_k, w> + (alpha/2) |w - w^t|^2, with g_k its own memory of the gradient at its last
solution: zero at first, then g_k <- g_k - alpha (w_k - w^t). Where all clients solve this exactly, the fixed point is a
stationary point of the whole loss, however different their data.
"""

from typing import Literal, final

from pydantic import Field
from torch import Tensor

from fedq.clients.local import Batches, Differentiable
from fedq.clients.sgd import SgdOptions, descend


@final
class FedDyn:
    """Local steps on the dynamically regularized objective; the server's half is the strategy of this name."""

    returns: Literal["weights", "gradient"] = "weights"

    class Options(SgdOptions):
        """`[client]` keys of `feddyn`."""

        alpha: float = Field(0.1, gt=0, description="strength of the regularization; 0.1, 0.01 or 0.001 in the paper")

    def __init__(self, options: Options) -> None:
        self._options = options

    def train_on(
        self, network: Differentiable, w_KD: Tensor, memory_KD: Tensor, batches: Batches
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights after the local steps, the mean loss, and the next g_k; see `Remembering.train_on`."""
        a, g = self._options.alpha, memory_KD
        w, loss_K = descend(network, w_KD, batches, self._options, lambda w: a * (w - w_KD) - g)
        return w, loss_K, g - a * (w - w_KD)
