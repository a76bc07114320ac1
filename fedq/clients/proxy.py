"""The server's proxy set behind `fedq.strategies.proxy.Proxy`: examples, and a network to differentiate."""

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from fedq.data import Examples, Inputs
from fedq.data.text import TextInputs
from fedq.kernels.records import Arrays
from fedq.models.network import Blueprint, Network


@final
class ProxySet:
    """Labelled examples that the server holds."""

    def __init__(self, blueprint: Blueprint, inputs: Inputs | TextInputs, examples: Examples) -> None:
        self.size = len(examples)
        self._blueprint = blueprint
        x, self._y = inputs.tensors(examples)
        self._x = inputs.testing(x)
        self._networks: dict[tuple[str, ...], Network] = {}

    def gradient(self, weights: Arrays, examples: NDArray[np.int64]) -> tuple[float, Arrays]:
        """Loss and gradient on some of the examples; see `Proxy.gradient`."""
        names = tuple(weights)
        if names not in self._networks:
            self._networks[names] = Network(self._blueprint, self._blueprint.initial_weights(), names)
        network, indices = self._networks[names], torch.from_numpy(examples)
        network.rekey_(self._blueprint.seed, *examples.tolist())  # dropout: masks of its own for every minibatch
        loss_K, g_KD = network.gradient(network.flatten(weights)[None], self._x[indices][None], self._y[indices][None])
        return float(loss_K[0]), network.unflatten(g_KD[0])
