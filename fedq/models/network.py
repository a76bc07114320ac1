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
from fedq.kernels._chain import Chain
from fedq.models import model
from fedq.models.dropout import rekey_
from fedq.models.initial import initial
from fedq.models.pretrained import Pretrained
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
    device: str = "cpu"
    bf16: bool = False  # products of training in bfloat16; weights, sums and evaluation in float32

    def module(self) -> nn.Module:
        """The module, on the CPU, with no weights drawn yet but those that it comes with."""
        kind = model(self.model)
        if isinstance(kind, type) and issubclass(kind, Pretrained):
            return kind(self.shape, self.classes, self.options)
        try:
            with torch.device("meta"):
                built: nn.Module = kind(self.shape, self.classes, self.options)
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
            empty = {n: torch.empty(t.shape, dtype=t.dtype) for n, t in built.state_dict().items()}
        except RuntimeError as error:  # torch says so when memory cannot be had
            raise FedqError("FQ206", f"model `{self.model}` is too large: {error}", key="model.name") from error
        built.load_state_dict(empty, assign=True)
        return built

    def initial_weights(self, *, merged: bool = False) -> dict[str, NDArray[np.float32]]:
        """Every weight by the model's own law, or He-normal: drawn from the seed, the same everywhere.

        Of a pretrained model those that are trained; if `merged` also those that products of LoRA factors go into.
        """
        module = self.module()
        drawn = {n: initial(module, n, rng(self.seed, "init", n)) for n, p in _own(module)}
        into = module.merging() if merged and isinstance(module, Pretrained) else []
        return drawn | {n: module.get_parameter(n).detach().numpy().copy() for n in into}

    def hidden(self) -> list[str]:
        """The names of the weight tensors of every linear and convolutional layer that is trained, but the last."""
        module = self.module()
        own = {n for n, _ in _own(module)}
        layers = [f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return [n for n in layers if n in own][:-1]

    def normalised(self) -> bool:
        """Whether the model has batch norm, without which +-1 weights blow activations up."""
        return any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in self.module().modules())


def _own(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are a run's: all, but in a pretrained model those that want a gradient."""
    frozen = isinstance(module, Pretrained)
    return [(n, p) for n, p in module.named_parameters() if p.requires_grad or not frozen]


class Flat:
    """Named weights of these shapes, and the flat vector [D] that they are one after the other."""

    chain: Chain | None = None  # the layers, where kernels know them all

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: str = "cpu") -> None:
        self.shapes, self.device = shapes, device
        self._given: Weights = {}
        self._start, self._at_start = torch.empty(0), False  # whether a module has its weights
        self._sizes = [prod(shape) for shape in shapes.values()]
        parts = zip(self._sizes, shapes.values(), strict=True)
        self.matrices = torch.cat([torch.full((n,), float(len(shape) > 1)) for n, shape in parts]).to(device)

    def flatten(self, weights: Weights) -> Tensor:
        """Named arrays -> one flat [D] tensor of its own."""
        return torch.from_numpy(np.concatenate([weights[name].reshape(-1) for name in self.shapes])).to(self.device)

    def start(self, weights: Weights) -> Tensor:
        """`flatten` of the weights that clients begin at, not to be written to: one tensor for the very same arrays."""
        if weights is not self._given or any(x.flags.writeable for x in weights.values()):
            self._given, self._start, self._at_start = weights, self.flatten(weights), False
        return self._start

    def unflatten(self, w_D: Tensor) -> dict[str, NDArray[np.float32]]:
        """A flat tensor [..., D] -> named arrays [..., *shape], views of it where it is on the CPU."""
        parts = torch.split(w_D.cpu(), self._sizes, dim=-1)
        return {n: p.view(*w_D.shape[:-1], *s).numpy() for (n, s), p in zip(self.shapes.items(), parts, strict=True)}

    def rekey_(self, seed: int, *place: int) -> None:
        """Start dropout anew for one place of the run (round and partition), if there is any."""


@final
class Network(Flat):
    """A module whose weights `names` are trained and all others keep the value in `weights`, or that they came with."""

    def __init__(self, blueprint: Blueprint, weights: Weights, names: Sequence[str]) -> None:
        self.module = blueprint.module().train().to(blueprint.device)
        self._parameters, self._bf16 = dict(self.module.named_parameters()), blueprint.bf16
        super().__init__({name: tuple(self._parameters[name].shape) for name in names}, blueprint.device)
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in names)
        self.fix_(weights)
        self.trained = [self._parameters[name] for name in names]
        self._flat = torch.cat([p.detach().reshape(-1) for p in self.trained])
        self._kernels = list[tuple[Tensor, Tensor]]()
        for p, view in zip(self.trained, torch.split(self._flat, self._sizes), strict=True):
            p.data = _placed(view.view_as(p))
            if p.dim() == 4:
                self._kernels.append((p.data, view.view_as(p)))
        self.per_sample: object = None  # what `fedq.clients.clipping` has hooked on

    def fix_(self, weights: Weights) -> None:
        """Give named parameters these values; those that other modules may share are replaced, not written to."""
        for name, x in weights.items():
            self._parameters[name].data = _placed(torch.tensor(x, device=self.device))

    def rekey_(self, seed: int, *place: int) -> None:
        """Start dropout anew for one place of the run (round and partition)."""
        rekey_(self.module, seed, *place)

    def logits(self, w_D: Tensor, x: Tensor) -> Tensor:
        """The module's output on inputs [B, ...] at these weights, ready for `backward`."""
        self._load(w_D)
        logits: Tensor = self.module(x)
        return logits

    def gradient(self, w_KD: Tensor, x_KB: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy [K] of each client's batch at its weights, and the gradient [K, D]; here K = 1."""
        assert w_KD.shape[0] == 1, "a loop trains one client at a time"
        self._load(w_KD[0])
        x, y = x_KB[0].to(self.device), y_KB[0].to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self._bf16):
            loss = functional.cross_entropy(self.module(x), y)
        parts = torch.autograd.grad(loss, self.trained)
        return loss.detach()[None], torch.cat([p.reshape(-1) for p in parts])[None]

    @torch.no_grad()
    def evaluate(self, w_D: Tensor, x: Tensor, y: Tensor, batch: int) -> tuple[float, float]:
        """Mean cross-entropy and accuracy over examples [N, ...], in unshuffled batches of `batch`."""
        self._load(w_D)
        self.module.eval()
        loss, correct, sizes = 0.0, 0, _sizes(len(y), batch)
        for x_B, y_B in zip(torch.split(x, sizes), torch.split(y, sizes), strict=True):
            logits, y_B = self.module(x_B.to(self.device)), y_B.to(self.device)  # noqa: PLW2901
            loss += float(functional.cross_entropy(logits, y_B, reduction="sum"))
            correct += int((logits.argmax(1) == y_B).sum())
        self.module.train()
        return loss / len(y), correct / len(y)

    def _load(self, w_D: Tensor) -> None:
        starts = w_D.data_ptr() == self._start.data_ptr()
        if not (starts and self._at_start):
            self._flat.copy_(w_D)
            for kernel, view in self._kernels:
                kernel.copy_(view)
        self._at_start = starts


def _placed(x: Tensor) -> Tensor:
    """Weights as the module uses them: those of convolutions with channels last, which trains faster.

    (`benchmarks/convolutions.py`.) A copy with channels last of what stands in a flat vector; all others as they are.
    """
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def _sizes(n: int, batch: int) -> list[int]:
    """Batch sizes that sum to n; a last batch of one joins the one before, as batch norm needs two examples."""
    sizes = [min(batch, n - start) for start in range(0, n, batch)]
    return [*sizes[:-2], sizes[-2] + 1] if len(sizes) > 1 and sizes[-1] == 1 else sizes
