"""The contract of local algorithms. Shapes: K clients, D trained weights, B examples a batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from fedq.kernels._chain import Chain
from fedq.options import Options

Batches = Iterable[tuple[Tensor, Tensor]]  # x_KB [K, B, *shape] float32, y_KB [K, B] int64: one pair a local step


@final
@dataclass(frozen=True)
class Drawn:
    """The batches of K clients, as places among their examples: for S steps and B examples a batch, [K, S, B].

    `change` augments a batch [K, B, ...]; `heard` is called before a step, and raises where training is given up.
    """

    x: Tensor
    y: Tensor
    places: Tensor
    change: Callable[[Tensor], Tensor] | None
    heard: Callable[[], None]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for place_KB in self.places.unbind(1):
            self.heard()
            x_KB = self.x[place_KB]
            yield self.change(x_KB) if self.change else x_KB, self.y[place_KB]


def mean_loss(losses: Sequence[Tensor]) -> Tensor:
    """The mean [K] of each step's losses [K], in float64: the same bits whoever else is stacked."""
    return torch.stack(list(losses)).double().mean(0).float()


class TrainOptions(Options):
    """`[client]` keys that every local algorithm has."""

    local_steps: int = Field(20, ge=1, description="minibatch steps a client makes in a round")
    local_epochs: float | None = Field(
        None, gt=0, description="passes over its own data instead: ceil(local_epochs * examples / batch_size) steps"
    )
    batch_size: int = Field(32, ge=1, description="examples in a minibatch")
    lr: float = Field(0.05, gt=0, description="learning rate")

    def steps(self, examples: int) -> int:
        """The minibatch steps in a round of a client that holds so many examples."""
        if self.local_epochs is None:
            return self.local_steps
        return ceil(self.local_epochs * examples / self.batch_size)

    def at(self, round_: int, told: Mapping[str, Any]) -> "TrainOptions":
        """These options in a round whose message told clients `told`: themselves, where neither changes them."""
        return self

    @model_serializer(mode="wrap")
    def _one_of_the_two(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the steps where epochs are given, so that what is written can be read back."""
        values: dict[str, Any] = dump(self)
        if self.local_epochs is not None:
            values.pop("local_steps", None)
        return values


class StepOptions(TrainOptions):
    """`[client]` keys of algorithms whose local steps move the weights."""

    lr_decay: float = Field(1.0, gt=0, le=1, description="factor of the learning rate from each round to the next")

    def at(self, round_: int, told: Mapping[str, Any]) -> "StepOptions":
        """With the learning rate of the round: lr * lr_decay^(round - 1)."""
        if self.lr_decay == 1:
            return self
        return self.model_copy(update={"lr": self.lr * self.lr_decay ** (round_ - 1)})


class Differentiable(Protocol):
    """What a local algorithm needs of a network (`fedq.models.network.Network` is one)."""

    matrices: Tensor  # [D]: 1 for the weights of linear and convolutional layers, 0 for biases and norms
    chain: Chain | None  # its layers, where kernels know them all

    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each client's batch and its gradient: [K], [K, D]."""


class LocalAlgorithm(Protocol):
    """How K clients train at once. Element-wise in K, so that K together equal each alone.

    It holds its options and nothing else: where those change from round to round, it is made anew.
    """

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

    def __init__(self, options: Options) -> None: ...

    def train_on(
        self, network: Differentiable, w_KD: Tensor, memory_KD: Tensor, batches: Batches
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `LocalAlgorithm.train`, from memories [K, D] (zeros in a client's first round) and with the next ones.

        Neither `w_KD` nor `memory_KD` is written to.
        """
