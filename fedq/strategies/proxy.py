"""A server's own labelled examples, as strategies see them: a loss with a gradient at any weights.

Strategies know no torch: `fedq.clients.proxy` makes the real one from a network, tests make theirs from formulas.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedq.kernels.records import Arrays
from fedq.options import Options
from fedq.rng import rng


class ProxyOptions(Options):
    """`[strategy]` keys of strategies that learn from a proxy set."""

    proxy: Literal["heldout", "test"] = Field(
        "heldout", description="where the proxy set is taken from: training data that no client gets, or test data"
    )
    proxy_per_class: int = Field(10, ge=1, description="examples of each class in the proxy set")
    proxy_batch: int = Field(128, ge=2, description="examples in a minibatch of the proxy set")


class Proxy(Protocol):
    """Labelled examples `0 ... size - 1`."""

    size: int

    def gradient(self, weights: Arrays, examples: NDArray[np.int64]) -> tuple[float, Arrays]:
        """The mean cross-entropy of these examples at named weights, and its gradient by the same names."""


def no_proxy() -> Proxy:
    """Nothing: whoever makes a strategy with `ProxyOptions` says where its proxy set is, in `Setup`."""
    raise AssertionError("a strategy that learns from a proxy set was set up without one")


def batches(proxy: Proxy, batch: int, seed: int, round_: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """One pass over the proxy set in shuffled batches; a last batch of one joins the one before (batch norm)."""
    order = rng(seed, "proxy-batch", round_, epoch).permutation(proxy.size)
    cuts = list(range(batch, proxy.size, batch))
    if cuts and proxy.size - cuts[-1] == 1:
        cuts.pop()
    yield from np.split(order, cuts)
