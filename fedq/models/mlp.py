"""A multilayer perceptron."""

from math import prod
from typing import Literal, final

from pydantic import Field, PositiveInt
from torch import nn

from fedq.options import Options


@final
class Mlp(nn.Sequential):
    """Fully connected layers with ReLU, `hidden` units in each.

    With `norm = "batch"` every hidden layer is followed by a batch norm without parameters that uses the statistics of
    the batch, in training and in evaluation (FedVote's form); such layers have no bias, as the norm would cancel it.
    """

    class Options(Options):
        """`[model]` keys of `mlp`."""

        hidden: tuple[PositiveInt, ...] = Field((128, 64), description="units of each hidden layer")
        norm: Literal["batch", "none"] = Field("batch", description="batch norm after each hidden layer, or none")

    def __init__(self, shape: tuple[int, ...], classes: int, options: Options) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        units = prod(shape)
        for wide in options.hidden:
            layers.append(nn.Linear(units, wide, bias=options.norm == "none"))
            if options.norm == "batch":
                layers.append(nn.BatchNorm1d(wide, affine=False, track_running_stats=False))
            layers.append(nn.ReLU())
            units = wide
        super().__init__(*layers, nn.Linear(units, classes))
