"""DIFF2: private optimization by differences of gradients (Murata and Suzuki, ICML 2023, arXiv 2302.03884).

Every T-th round the server takes v = the mean of private gradients; in between v <- v + the mean of their private
changes, whose noise shrinks with the steps. Then x <- x - lr v. The sum telescopes only if all clients take part in
every round: where one is missing, the model waits and the next round is a restart.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field

from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.options import Options
from fedq.participation.uniform import Full
from fedq.strategies.base import Setup, examples
from fedq.strategies.private import PrivateStrategy

log = logging.getLogger("fedq")


@final
class Diff2(PrivateStrategy):
    """v <- v + mean of private changes of the gradient, x <- x - lr v; v is taken anew at restarts."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "codec": "float32",
        "client": {"name": "diff2"},
        "model": {"name": "mlp", "norm": "none"},
    }
    client = "diff2"
    copies = 2  # the weights, and those before them
    sends = "gradient"

    class Options(Options):
        """`[strategy]` keys of `diff2`."""

        every: int = Field(10, ge=1, description="rounds from restart to restart, T; 1 is private gradient descent")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        of = setup.participation
        if not isinstance(of, Full):
            raise FedqError(
                "FQ105",
                "`diff2` adds up changes, so every client must take part in every round",
                key="per_round",
                hint="leave --per-round and --participation out",
            )
        if setup.downlink.name != "float32":
            raise FedqError(
                "FQ105",
                f"changes are those between weights as clients are sent them, and `{setup.downlink.name}` alters them",
                key="downlink",
                hint="leave --downlink out",
            )
        self._v: Arrays = {}
        self._previous: Arrays = {}
        self._restart = 0  # the round of the last restart; 0 before the first

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The weights, and those before them where changes are wanted."""
        every: int = self.options.every
        told = ConfigRecord({**config, "every": every})
        asked = list(super().configure_train(server_round, arrays, told, grid))
        if not self._v or server_round - self._restart >= every:
            self._v, self._restart = {}, server_round
            return asked
        previous = records.to_record(self._previous)
        for message in asked:
            message.content["previous"] = previous
        return asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model, or the same if a client is missing; see `PackedStrategy.aggregate_train`."""
        came = 0

        def weight(reply: Message) -> float:
            nonlocal came
            came += 1
            return examples(reply)

        fold = self.folded(replies, weight)
        if fold.empty:
            self._v = {}
            return None, None
        if came < len(self.asked):
            self._v = {}
            log.warning(
                "a client is missing: round %d is a restart that the noise was not chosen for, so the budget may end "
                "before the run; a larger --epsilon, or another run, has room",
                server_round + 1,
            )
            return records.to_record(self.current), self.told_loss(fold)
        mean = fold.mean()
        self._v = {n: (self._v[n] if self._v else 0) + d for n, d in mean.items()}
        self._previous = self.current
        after = {n: x - self.setup.lr * self._v[n] for n, x in self.current.items()}
        return records.to_record(after), self.told_loss(fold)

    def state(self) -> dict[str, Any]:
        """Also v, the last weights, and when v was taken anew."""
        return {
            **super().state(),
            "v": dict(self._v),
            "previous": dict(self._previous),
            "restart": self._restart,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self._v, self._previous, self._restart = state["v"], state["previous"], state["restart"]
