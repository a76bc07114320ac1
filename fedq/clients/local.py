"""The contract of local algorithms. Shapes: K clients, D trained weights, B examples a batch."""

from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from fedq.options import Options

Batches = Iterable[tuple[Tensor, Tensor]]  # x_KB [K, B, *shape] float32, y_KB [K, B] int64: one pair a local step


class TrainOptions(Options):
    """`[client]` keys that every local algorithm has."""

    local_steps: int = Field(20, ge=1, description="minibatch steps a client makes in a round")
    batch_size: int = Field(32, ge=1, description="examples in a minibatch")
    lr: float = Field(0.05, gt=0, description="learning rate")


class Differentiable(Protocol):
    """What a local algorithm needs of a network (`fedq.models.network.Network` is one)."""

    matrices: Tensor  # [D]: 1 for the weights of linear and convolutional layers, 0 for biases and norms

    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each client's batch and its gradient: [K], [K, D]."""


class LocalAlgorithm(Protocol):
    """How K clients train at once. Element-wise in K, so that K together equal each alone."""

    returns: Literal["weights", "gradient"]

    def __init__(self, options: Options) -> None: ...

    def train(self, network: Differentiable, w_KD: Tensor, batches: Batches) -> tuple[Tensor, Tensor]:
        """From weights [K, D] to new weights, or a gradient, [K, D], and the mean training loss [K].

        `w_KD` is not written to.
        """


@runtime_checkable
class Remembering(Protocol):
    """A local algorithm whose clients keep a vector of their own between rounds, in Flower's `Context.state`."""

    returns: Literal["weights", "gradient"]

    def train_on(
        self, network: Differentiable, w_KD: Tensor, memory_KD: Tensor, batches: Batches
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `LocalAlgorithm.train`, from memories [K, D] (zeros in a client's first round) and with the next ones.

        Neither `w_KD` nor `memory_KD` is written to.
        """
