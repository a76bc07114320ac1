"""A torch module seen as a function of one flat weight vector: what local algorithms differentiate.

Shapes: K clients, D trained weights, B examples a batch. The loop below takes K = 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedq.errors import FedqError
from fedq.models import model
from fedq.models.dropout import rekey_
from fedq.models.initial import initial
from fedq.options import Options
from fedq.rng import rng

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
RANDOM = (*DROPOUT, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)  # they draw from torch's own generator

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Blueprint:
    """What it takes to build a network anywhere: model, options, shape of one example, classes, seed of the weights."""

    model: str
    options: Options
    shape: tuple[int, ...]
    classes: int
    seed: int

    def module(self) -> nn.Module:
        """The module, on the CPU, with no weights drawn yet."""
        try:
            with torch.device("meta"):
                built: nn.Module = model(self.model)(self.shape, self.classes, self.options)
        except (ValueError, RuntimeError) as error:
            raise FedqError(
                "FQ105",
                f"model `{self.model}` cannot take examples of shape {self.shape}: {error}",
                key="model.name",
                hint="choose another --model; `mlp` takes any shape",
            ) from error
        parts = built.named_modules()
        kept = [name for name, part in parts if list(part.buffers(recurse=False)) or isinstance(part, RANDOM)]
        if kept:
            raise FedqError(
                "FQ105",
                f"model `{self.model}` has running statistics or random layers in {', '.join(kept)}: "
                "results would depend on which thread trained which client",
                key="model.name",
                hint="use batch norm with track_running_stats=False, group norm or layer norm, and fedq.models.dropout",
            )
        try:
            return built.to_empty(device="cpu")
        except RuntimeError as error:  # torch says so when memory cannot be had
            raise FedqError("FQ206", f"model `{self.model}` is too large: {error}", key="model.name") from error

    def initial_weights(self) -> dict[str, NDArray[np.float32]]:
        """Every weight by the model's own law, or He-normal: drawn from the seed, the same everywhere."""
        module = self.module()
        return {name: initial(module, name, rng(self.seed, "init", name)) for name, _ in module.named_parameters()}

    def hidden(self) -> list[str]:
        """The names of the weight tensors of every linear and convolutional layer but the last."""
        layers = [f"{n}.weight" for n, m in self.module().named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return layers[:-1]

    def normalised(self) -> bool:
        """Whether the model has batch norm, without which +-1 weights blow activations up."""
        return any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in self.module().modules())


class Flat:
    """Named weights of these shapes, and the flat vector [D] that they are one after the other."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self._sizes = [prod(shape) for shape in shapes.values()]
        parts = zip(self._sizes, shapes.values(), strict=True)
        self.matrices = torch.cat([torch.full((n,), float(len(shape) > 1)) for n, shape in parts])

    def flatten(self, weights: Weights) -> Tensor:
        """Named arrays -> one flat [D] tensor of its own."""
        return torch.from_numpy(np.concatenate([weights[name].reshape(-1) for name in self.shapes]))

    def unflatten(self, w_D: Tensor) -> dict[str, NDArray[np.float32]]:
        """A flat tensor [..., D] -> named arrays [..., *shape], views of it."""
        parts = torch.split(w_D, self._sizes, dim=-1)
        return {n: p.view(*w_D.shape[:-1], *s).numpy() for (n, s), p in zip(self.shapes.items(), parts, strict=True)}

    def rekey_(self, seed: int, *place: int) -> None:
        """Start dropout anew for one place of the run (round and partition), if there is any."""


@final
class Network(Flat):
    """A module whose weights `names` are trained and all others keep the value in `weights`."""

    def __init__(self, blueprint: Blueprint, weights: Weights, names: Sequence[str]) -> None:
        self._module = blueprint.module().train()
        parameters = dict(self._module.named_parameters())
        super().__init__({name: tuple(parameters[name].shape) for name in names})
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.tensor(weights[name])).requires_grad_(name in names)
        self._trained = [parameters[name] for name in names]
        self._flat = torch.cat([p.detach().reshape(-1) for p in self._trained])
        for p, view in zip(self._trained, torch.split(self._flat, self._sizes), strict=True):
            p.data = view.view_as(p)

    def rekey_(self, seed: int, *place: int) -> None:
        """Start dropout anew for one place of the run (round and partition)."""
        rekey_(self._module, seed, *place)

    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy [K] of each client's batch at its weights, and the gradient [K, D]; here K = 1."""
        assert w_KD.shape[0] == 1, "a loop trains one client at a time"
        self._flat.copy_(w_KD[0])
        loss = functional.cross_entropy(self._module(x_KB[0]), y_KB[0])
        parts = torch.autograd.grad(loss, self._trained)
        return loss.detach()[None], torch.cat([p.reshape(-1) for p in parts])[None]

    @torch.no_grad()
    def evaluate(self, w_D: Tensor, x: Tensor, y: Tensor, batch: int) -> tuple[float, float]:
        """Mean cross-entropy and accuracy over examples [N, ...], in unshuffled batches of `batch`."""
        self._flat.copy_(w_D)
        self._module.eval()
        loss, correct, sizes = 0.0, 0, _sizes(len(y), batch)
        for x_B, y_B in zip(torch.split(x, sizes), torch.split(y, sizes), strict=True):
            logits = self._module(x_B)
            loss += float(functional.cross_entropy(logits, y_B, reduction="sum"))
            correct += int((logits.argmax(1) == y_B).sum())
        self._module.train()
        return loss / len(y), correct / len(y)


def _sizes(n: int, batch: int) -> list[int]:
    """Batch sizes that sum to n; a last batch of one joins the one before, as batch norm needs two examples."""
    sizes = [min(batch, n - start) for start in range(0, n, batch)]
    return [*sizes[:-2], sizes[-2] + 1] if len(sizes) > 1 and sizes[-1] == 1 else sizes
