"""Private local training: DP-SGD (Abadi et al. 2016, algorithm 1), or DP-LoRA's algorithm as its paper prints it.

`dpsgd`: a step takes each example with probability q = B / n, scales each example's gradient, over all trained weights
together, to a norm of at most C, adds N(0, (sigma C)^2) to every coordinate of their sum and divides by B.

`paper` (Liu et al. 2023, algorithm 1): the gradient of the batch's mean loss is clipped to C for the factors A, the
factors B and the head apart, and N(0, (sigma C)^2) added. One record can turn each clipped gradient round, so the joint
sensitivity is 2 C sqrt(groups), and the noise multiplier that counts is sigma / (2 sqrt(groups)).
"""

from math import inf, sqrt
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedq.clients.clipping import PerSample
from fedq.clients.local import StepOptions, TrainOptions
from fedq.clients.private import Own
from fedq.errors import FedqError
from fedq.models.network import Network
from fedq.privacy.accountant import noise_for
from fedq.privacy.entropy import secret
from fedq.privacy.ledger import Ledger

BUDGET = 8.0  # epsilon where neither that nor a noise multiplier is given


class PrivateOptions(TrainOptions):
    """`[client]` keys of private algorithms."""

    lr: float = Field(1.0, gt=0, description="learning rate")
    batch_size: int = Field(32, ge=1, description="examples in a batch on average; its size is drawn")
    clip: float = Field(1.0, gt=0, description="norm that each example's gradient is scaled down to, C")
    epsilon: float | None = Field(None, gt=0, description="what a client may spend in all rounds; 8 without `noise`")
    delta: float = Field(1e-5, gt=0, lt=1, description="the delta of that epsilon")
    noise: float | None = Field(None, ge=0, description="noise multiplier sigma, chosen for `epsilon` if not given")
    tell_loss: bool = Field(False, description="send the mean training loss, exact: epsilon does not cover it")
    noise_seed: int | None = Field(None, ge=0, description="for tests only: noise that repeats, and no epsilon")

    @property
    def budget(self) -> float:
        """What a client may spend."""
        return self.epsilon or (BUDGET if self.noise is None else inf)


class DpSgdOptions(PrivateOptions, StepOptions):
    """`[client]` keys of `dp_sgd`."""

    sampling: Literal["poisson", "shuffle"] = Field("poisson", description="shuffle only where noise is 0")
    mode: Literal["dpsgd", "paper"] = Field("dpsgd", description="dpsgd, or paper: DP-LoRA's algorithm as printed")


@final
class DpSgd:
    """DP-SGD with noise and batches from the operating system's entropy, or DP-LoRA's algorithm as printed."""

    returns: Literal["weights", "gradient"] = "weights"
    Options = DpSgdOptions

    def __init__(self, options: DpSgdOptions) -> None:
        self._options = options

    def check(self, examples: int, rounds: int) -> None:
        """See `Private.check`."""
        check(self._options, examples, self._options.steps(examples) * rounds)

    def promise(self) -> str:
        """See `Private.promise`."""
        return promise(self._options, "noise and Poisson batches come from the client's own entropy")

    def release(self, network: Network, w_D: Tensor, own: Own, ledger: Ledger) -> tuple[Tensor, float, Ledger]:
        """Weights after the round's steps; see `Private.release`."""
        o, n = self._options, own.examples
        rate, steps, random = o.batch_size / n, o.steps(own.examples), secret(o.noise_seed, *own.place)
        groups = _groups(network) if o.mode == "paper" else [slice(None)]
        counts = 1 / (2 * sqrt(len(groups))) if o.mode == "paper" else 1.0  # of the noise, what privacy sees
        sigma = multiplier(o, rate, steps * int(own.told["rounds"])) / (counts if o.noise is None else 1)
        spent = ledger.plus(0.0 if o.noise_seed is not None else sigma * counts, rate, steps)
        afford(o, spent)
        per_sample, w, total, seen = PerSample(network), w_D.clone(), 0.0, 0
        for batch in batches(o, n, steps, random):
            x, y = own.taken(batch)
            if o.mode == "paper":
                loss, g = _paper(per_sample, w, x, y, groups, o.clip)
                scale = 1.0
            else:
                loss, g = per_sample.sums(w, x, y, o.clip)
                scale = 1 / o.batch_size
            w.sub_(o.lr * scale * (g + noise(random, sigma * o.clip, len(w))))
            total, seen = total + float(loss), seen + len(y)
        return w, total / max(seen, 1), spent


def promise(o: PrivateOptions, drawn: str) -> str:
    """The promise of a client with these options, in words; `drawn` says what is random, and whence."""
    if o.noise_seed is not None:
        return "none: the noise can be drawn again (client.noise_seed, for tests)"
    if o.noise == 0 and o.epsilon is None:
        return "none: no noise (client.noise = 0)"
    limit = f"epsilon at most {o.budget:g}" if o.budget < inf else f"noise {o.noise:g}, epsilon as it comes"
    beside = "the training loss and the number of examples" if o.tell_loss else "the number of examples"
    return (
        f"{limit} at delta {o.delta:g} for each record of a client, added or removed; {drawn}, so a repeated or "
        f"resumed run differs in what is drawn; not covered: {beside} that clients send along"
    )


def multiplier(o: PrivateOptions, rate: float, steps: int) -> float:
    """The noise multiplier: as given, or for the budget over all steps that a client may come to make."""
    return noise_for(o.budget, o.delta, rate, steps) if o.noise is None else o.noise


def afford(o: PrivateOptions, spent: Ledger) -> None:
    """FedqError FQ301 if the ledger would hold more than the client may spend."""
    if o.budget < inf and o.noise_seed is None and (cost := spent.epsilon(o.delta)) > o.budget * (1 + 1e-9):
        raise FedqError(
            "FQ301", f"the round would raise epsilon to {cost:.4g}, and {o.budget:g} may be spent: nothing was released"
        )


def batches(o: DpSgdOptions, n: int, steps: int, random: np.random.Generator) -> Any:
    """The indices of each step's batch: a Poisson sample, perhaps empty; or shuffled epochs in full batches."""
    if o.sampling == "poisson":
        return (np.flatnonzero(random.random(n) < o.batch_size / n) for _ in range(steps))
    order = np.concatenate([random.permutation(n) for _ in range(-(-steps * o.batch_size // n))])
    return order[: steps * o.batch_size].reshape(steps, -1)


def noise(random: np.random.Generator, std: float, d: int) -> Tensor:
    """Gaussian noise [D]; zeros, with nothing drawn, for deviation 0."""
    if not std:
        return torch.zeros(d)
    return torch.from_numpy(random.standard_normal(d) * std).float()


def check(o: DpSgdOptions, examples: int, steps: int) -> None:
    """FedqError FQ105 if a client with so many examples cannot make so many private steps."""
    if o.batch_size > examples:
        raise FedqError(
            "FQ105",
            f"batches of {o.batch_size} of a client that holds {examples} examples",
            key="client.batch_size",
            hint="lower --batch-size, or give each client more data",
        )
    if o.noise == 0 and o.epsilon is None:
        return
    if o.sampling == "shuffle":
        raise FedqError(
            "FQ105",
            "epsilon is that of Poisson sampling: in shuffled batches a record hides less than it says",
            key="client.sampling",
            hint="leave client.sampling out; it may be shuffle where --set client.noise=0",
        )
    check_delta(o, examples)
    if o.epsilon is not None and o.noise is not None and o.mode == "paper":
        raise FedqError(
            "FQ105",
            "in mode `paper` it depends on the model how much of the noise counts",
            key="client.noise",
            hint="give one of client.noise and --epsilon",
        )
    check_cost(o, Ledger().plus(o.noise or 0.0, o.batch_size / examples, steps))
    multiplier(o, o.batch_size / examples, steps)


def check_delta(o: PrivateOptions, examples: int) -> None:
    """FedqError FQ105 if a client with so many examples could publish one of them whole."""
    if o.delta >= 1 / examples:
        raise FedqError(
            "FQ105",
            f"delta {o.delta:g} is not below 1/{examples} of a client that holds {examples} examples: "
            "publishing one record whole would be allowed",
            key="client.delta",
            hint=f"--delta {10 ** np.floor(np.log10(0.1 / examples)):g}",
        )


def check_cost(o: PrivateOptions, all_rounds: Ledger) -> None:
    """FedqError FQ105 if noise and epsilon are given, and all rounds with that noise cost more."""
    if o.epsilon is None or o.noise is None:
        return
    if (cost := all_rounds.epsilon(o.delta)) > o.epsilon:
        raise FedqError(
            "FQ105",
            f"noise {o.noise:g} costs epsilon {cost:.4g} in {all_rounds.steps} steps, and {o.epsilon:g} may be spent",
            key="client.noise",
            hint="leave client.noise out: it is chosen for --epsilon",
        )


def _groups(network: Network) -> list[Tensor]:
    """Where in [D] the factors A, the factors B and everything else stand; only those that there are."""
    parts = {".lora_A.": list[Tensor](), ".lora_B.": list[Tensor](), "": list[Tensor]()}
    start = 0
    for name, shape in network.shapes.items():
        size = int(np.prod(shape))
        kind = next(k for k in parts if k in name)
        parts[kind].append(torch.arange(start, start + size))
        start += size
    return [torch.cat(found) for found in parts.values() if found]


def _paper(
    per_sample: PerSample, w: Tensor, x: Tensor, y: Tensor, groups: list[Any], clip: float
) -> tuple[Tensor, Tensor]:
    """The sum of losses, and the gradient [D] of their mean, clipped group by group; zero for an empty batch."""
    loss, g = per_sample.sums(w, x, y, inf)
    g = g / max(len(y), 1)
    for group in groups:
        g[group] *= min(1.0, clip / max(float(g[group].norm()), 1e-12))
    return loss, g
