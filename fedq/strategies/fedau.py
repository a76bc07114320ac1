"""FedAU: every update is weighted by an estimate of 1/p_n that needs nothing but when the client came.

Wang, Ji: A Lightweight Method for Tackling Unknown Participation Statistics in Federated Averaging (arXiv 2306.03401,
ICLR 2024). A-numbers are those of docs/fedau.md.
"""

from collections.abc import Sequence
from typing import Any, Literal, final

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from pydantic import Field

from fedq import messages
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.strategies.averages import AverageOptions, Averaging
from fedq.strategies.base import Fold, Setup
from fedq.strategies.intervals import Intervals, Sleeper


@final
class FedAu(Averaging):
    """x <- x + (eta/N) sum_n omega_n Delta_n, with omega_n the mean interval between client n's participations."""

    class Options(AverageOptions):
        """`[strategy]` keys of `fedau`."""

        cutoff: int = Field(50, ge=0, description="longest interval in rounds, K; 0 for no limit")
        state_at: Literal["server", "client"] = Field("server", description="who keeps a client's intervals")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self._at_server = options.state_at == "server"
        self._intervals = Intervals.fresh(self.N, options.cutoff)
        self._omega_N = self._intervals.omega_N

    def mods(self) -> Sequence[Mod]:
        """Clients weigh their updates themselves, if they are to keep their intervals."""
        return () if self._at_server else (weighing_mod(self.options.cutoff),)

    def weight(self, n: int, reply: Message) -> float:
        """omega_n, from the rounds before this one; 1 where the client has weighed its update itself."""
        return float(self._omega_N[n])

    def step(self, fold: Fold, came: list[int]) -> Arrays | None:
        """(1/N) sum of omega_n Delta_n (A3)."""
        if self._at_server:
            self._intervals = self._intervals.after(came)
            self._omega_N = self._intervals.omega_N
        return self.over_all(fold) if came else None

    def state(self) -> dict[str, Any]:
        """The clients' intervals, where the server keeps them."""
        of = self._intervals
        return {"M": of.M_N, "T": of.T_N, "S": of.S_N} if self._at_server else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Put the intervals back."""
        if self._at_server:
            self._intervals = Intervals(self.options.cutoff, state["M"], state["T"], state["S"])
            self._omega_N = self._intervals.omega_N

    def shown(self) -> dict[str, Any]:
        """The weights for the next round, in short."""
        if not self._at_server:
            return {}
        w = self._omega_N
        return {"weight_min": float(w.min()), "weight_mean": float(w.mean()), "weight_max": float(w.max())}


def weighing_mod(K: int) -> Mod:
    """Multiply a client's update by its weight, from intervals that it keeps itself: the server never learns them."""

    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        reply = call(message, context)
        if reply.has_content():
            kept: Any = context.state.get("intervals", {})
            round_: Any = messages.round_of(message)
            omega, after = Sleeper(**kept).came(round_, K)
            context.state["intervals"] = ConfigRecord({**vars(after)})
            update = records.to_arrays(messages.arrays(reply.content))
            reply.content["arrays"] = records.to_record({n: np.float32(omega) * x for n, x in update.items()})
        return reply

    return mod
