"""What strategies of private clients share: the server hears each client's epsilon, and the run's is the largest.

Clients add noise to what they send, so the server needs no trust; what they tell of their ledgers is a function of
public numbers (steps, batch size, how many examples). Their number of examples is sent as it is, and their training
loss if it is asked for: epsilon does not cover them.
"""

from abc import ABC
from collections.abc import Iterable
from math import inf, isnan
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedq.errors import FedqError
from fedq.strategies.base import Fold, PackedStrategy, Setup


class PrivateStrategy(PackedStrategy, ABC):
    """A strategy that keeps what each client has spent, by partition."""

    private = True
    told = frozenset({"num-examples", "train-loss", "epsilon", "delta", "releases"})

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.spent: dict[int, float] = {}
        self._releases: dict[int, int] = {}
        self._lost: set[int] = set()  # whose ledgers were lost: what they say since then is too little

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As for every strategy; clients are told the number of rounds, for which they choose their noise once."""
        return super().configure_train(
            server_round, arrays, ConfigRecord({**config, "rounds": self.setup.rounds}), grid
        )

    def check_reply(self, reply: Message) -> None:
        """FedqError FQ302 also where a client's releases did not grow: its ledger was lost, and it is out for good.

        What a client says it has spent counts at once, whether its reply can be used or not: it was sent. Of one that
        is out nothing is known any more: its epsilon, and the run's, is infinite.
        """
        said: Any = reply.content.get("metrics") or {}
        epsilon, delta, releases = (said.get(name) for name in ("epsilon", "delta", "releases"))
        k = self.partition_of(reply)
        before, known = self._releases.get(k, 0), self.spent.get(k, 0.0)
        if isinstance(releases, int):
            if releases <= before:
                self._lost.add(k)
            self._releases[k] = max(before, releases)
        if isinstance(epsilon, float) and epsilon >= 0:
            self.spent[k] = inf if k in self._lost else max(known, epsilon)
        super().check_reply(reply)
        if not isinstance(epsilon, float) or isnan(epsilon) or epsilon < 0:
            raise FedqError("FQ302", f"`epsilon` must be a number from 0, got {epsilon!r}")
        if delta != self.setup.delta:
            raise FedqError("FQ302", f"`delta` must be {self.setup.delta:g}, got {delta!r}")
        if not isinstance(releases, int):
            raise FedqError("FQ302", f"`releases` must be an integer, got {releases!r}")
        if releases <= before:
            raise FedqError(
                "FQ302", f"{releases} releases of a client that had made {before} before: its privacy ledger was lost"
            )
        if k in self._lost:
            raise FedqError("FQ302", "its privacy ledger was lost in an earlier round")

    def told_loss(self, fold: Fold) -> MetricRecord | None:
        """The clients' training loss, if they tell it."""
        return fold.metrics if self.setup.tell_loss else None

    def privacy(self) -> tuple[float | None, float | None]:
        """The largest epsilon of a client at the run's delta; None for both before anybody came."""
        if not self.spent:
            return None, None
        return max(self.spent.values()), self.setup.delta

    def shown(self) -> dict[str, Any]:
        """The least epsilon of a client that came, beside the run's, which is the largest."""
        least = min(self.spent.values(), default=inf)
        return {"least_epsilon": least if least < inf else None, "spenders": len(self.spent)}

    def state(self) -> dict[str, Any]:
        """What clients have spent; JSON knows no infinity."""
        spent = {str(k): None if e == inf else e for k, e in self.spent.items()}
        releases = {str(k): n for k, n in self._releases.items()}
        return {"spent": spent, "releases": releases, "lost": sorted(self._lost)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.spent = {int(k): inf if e is None else e for k, e in state["spent"].items()}
        self._releases = {int(k): n for k, n in state["releases"].items()}
        self._lost = set(state.get("lost", ()))
