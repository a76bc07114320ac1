"""DIFF2's client (Murata and Suzuki, ICML 2023): a private gradient, or how it changed since the last weights.

Over its n examples, in full: (1/n) sum clip(grad l(x_r), C1) + noise, or, where the server sends the last weights too,
(1/n) sum clip(grad l(x_r) - grad l(x_{r-1}), C2 |x_r - x_{r-1}|) + noise. The difference is clipped example by example,
so noise shrinks with the step. Every client adds noise for itself, so the server needs no trust.
"""

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedq.clients.clipping import PerSample
from fedq.clients.dp_sgd import PrivateOptions, afford, check_cost, check_delta, noise, promise
from fedq.clients.private import Own
from fedq.models.network import Network
from fedq.privacy.diff2 import multipliers
from fedq.privacy.entropy import secret
from fedq.privacy.ledger import Ledger


@final
class Diff2:
    """The private mean of its examples' gradients, or of their differences, each example's clipped."""

    returns: Literal["weights", "gradient"] = "gradient"

    class Options(PrivateOptions):
        """`[client]` keys of `diff2`."""

        lr: float = Field(0.5, gt=0, description="the server's learning rate")
        local_steps: int = Field(1, ge=1, le=1, description="one: a round is one step of the server")
        local_epochs: None = Field(None, description="none: a round is one step of the server")
        batch_size: int = Field(200, ge=1, description="examples whose gradients are held at once; changes no result")
        clip: float = Field(1.0, gt=0, description="norm that each example's gradient is scaled down to, C1")
        clip_change: float = Field(1.0, gt=0, description="that of its change, in units of the step's length, C2")

    def __init__(self, options: Options) -> None:
        self._options = options

    def promise(self) -> str:
        """See `Private.promise`."""
        return promise(self._options, "every record is in every release; noise comes from the client's own entropy")

    def check(self, examples: int, rounds: int) -> None:
        """See `Private.check`."""
        o = self._options
        if o.noise == 0 and o.epsilon is None:
            return
        check_delta(o, examples)
        check_cost(o, Ledger().plus(o.noise or 0.0, 1.0, rounds))  # restarts and changes have the same noise then
        if o.noise is None:
            multipliers(o.budget, o.delta, rounds, 1)

    def release(self, network: Network, w_D: Tensor, own: Own, ledger: Ledger) -> tuple[Tensor, float, Ledger]:
        """The gradient at `w_D`, or its change since `own.previous`; see `Private.release`."""
        o, n = self._options, own.examples
        restart, change = self._noises(int(own.told["rounds"]), int(own.told["every"]))
        before = own.previous
        sigma = restart if before is None else change
        clip = o.clip if before is None else o.clip_change * float((w_D - before).norm())
        spent = ledger.plus(0.0 if o.noise_seed is not None else sigma, 1.0, 1)
        afford(o, spent)
        per_sample, total, losses = PerSample(network), torch.zeros_like(w_D), 0.0
        for start in range(0, n, o.batch_size):
            x, y = own.taken(np.arange(start, min(start + o.batch_size, n)))
            loss_B, g_BD = per_sample.gradients(w_D, x, y)
            if before is not None:
                g_BD = g_BD - per_sample.gradients(before, x, y)[1]
            total += (clip / g_BD.norm(dim=1).clamp_min(1e-30)).clamp(max=1) @ g_BD
            losses += float(loss_B.sum())
        total += noise(secret(o.noise_seed, *own.place), sigma * clip, len(w_D))
        return total / n, losses / n, spent

    def _noises(self, rounds: int, every: int) -> tuple[float, float]:
        """The noise multipliers of restarts and of changes."""
        o = self._options
        return multipliers(o.budget, o.delta, rounds, every) if o.noise is None else (o.noise, o.noise)
