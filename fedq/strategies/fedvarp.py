"""The server remembers every client's last update y_n: FedVARP (Jhunjhunwala et al. 2022) and MIFA (Gu et al. 2021).

Both as FedAU's authors coded them (docs/fedau.md, A11 and A12): y_n = 0 before a client's first round, and there is no
round in which everybody must come. The server holds one decoded update for each client that it has seen.
"""

from abc import ABC
from typing import Any, final

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedq.kernels.records import Arrays
from fedq.strategies.averages import Averaging
from fedq.strategies.base import Fold, Setup, arrays_of

Update = dict[str, NDArray[np.float32]]


class RememberingServer(Averaging, ABC):
    """A server with a memory y_n of the clients it has seen."""

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self._y: dict[int, Update] = {}
        self._new: dict[int, Update] = {}  # the round's updates, by client

    def weight(self, n: int, reply: Message) -> float:
        """1; the update is kept until the round's step."""
        self._new[n] = {name: self.codec.decode(payload) for name, payload in arrays_of(reply).items()}
        return 1.0

    def remember(self) -> None:
        """y_n <- Delta_n for those who came."""
        self._y, self._new = {**self._y, **self._new}, {}

    def mean_of(self, clients: list[int], count: int) -> Update:
        """(1/count) times the sum of y_n over some clients, in their order."""
        total = {name: np.zeros_like(x) for name, x in self.current.items()}
        for n in clients:
            for name, y in self._y.get(n, {}).items():
                total[name] += y
        return {name: x / np.float32(count) for name, x in total.items()}

    def state(self) -> dict[str, Any]:
        """The memory, by client."""
        return {str(n): y for n, y in self._y.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put the memory back."""
        self._y = {int(n): y for n, y in state.items()}

    def shown(self) -> dict[str, Any]:
        """How many clients the server remembers."""
        return {"remembered": len(self._y)}


@final
class FedVarp(RememberingServer):
    """The mean over those who came, with what is missing of the others filled in from their last updates."""

    def step(self, fold: Fold, came: list[int]) -> Arrays | None:
        """(1/|S|) sum of (Delta_n - y_n) + (1/N) sum over all of y_n; none where nobody came (A11)."""
        if not came:
            return None
        mean, y_S, y_N = fold.mean(), self.mean_of(came, len(came)), self.mean_of(sorted(self._y), self.N)
        self.remember()
        return {name: mean[name] - y_S[name] + y_N[name] for name in mean}


@final
class Mifa(RememberingServer):
    """The mean over all clients' last updates, in every round, whether anybody comes or not."""

    def step(self, fold: Fold, came: list[int]) -> Arrays | None:
        """(1/N) sum over all of y_n, with the updates of this round (A12)."""
        self.remember()
        return self.mean_of(sorted(self._y), self.N)
