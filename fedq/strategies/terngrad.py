"""TernGrad: ternary gradients up, their average down as integer levels, weights kept by every worker.

Wen et al.: TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning (NIPS 2017). A round is one
iteration. Workers share the scale s = max_n s_n of each array in a first, small exchange, so the average of N ternary
gradients is s k / N with integer k, and travels down in ceil(log2(2 N + 1)) bits a weight. T-numbers are those of
docs/terngrad.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from pydantic import Field

from fedq import messages, steps
from fedq._flower import addressed
from fedq.errors import FedqError
from fedq.kernels import CODECS, records
from fedq.kernels.counts import MOST_VOTERS, Counts
from fedq.kernels.records import Arrays
from fedq.options import Options
from fedq.rng import Key
from fedq.strategies.base import PackedStrategy, Setup, uniform

NO_BITS = Key(0, 0)


@final
class TernGrad(PackedStrategy):
    """w <- step(w, s / N sum_n t_n), with t_n = sign(g_n) b_n the clients' ternary gradients (T1, T8)."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "codec": "terngrad",
        "downlink": "counts",
        "client": {"name": "gradient", "local_steps": 1},
    }
    sends = "gradient"
    together = False  # a worker steps to its weights within its call

    class Options(Options):
        """`[strategy]` keys of `terngrad`."""

        optimizer: steps.Rule = Field("momentum", description="what is done with the average: sgd, momentum or adam")
        share: bool = Field(True, description="workers share their scales, in a first exchange (T6)")
        power: float = Field(0.0, ge=0, description="lr (1 - t / rounds)^power; 0 keeps it, 0.5 in the paper's LeNet")
        ema: float = Field(0.9999, ge=0, lt=1, description="decay of the weights' moving average (T13); 0 for none")

    def __init__(self, setup: Setup, options: Any) -> None:
        super().__init__(setup, options)
        self.codec = setup.codec
        if setup.codec.side(np.zeros(1, np.float32)) is None:
            raise FedqError(
                "FQ105",
                f"`terngrad` cannot send by `{setup.codec.name}`: it needs scaled ternary gradients",
                key="codec",
                hint="use --codec terngrad, terngrad_base3 or terngrad_code",
            )
        self._localised = setup.downlink.name == "counts"
        if self._localised:
            self.downlink = CODECS["float32"]  # for whoever must be given the weights themselves
        self._slots: Arrays = {}
        self._ema: Arrays = {}
        self._average: tuple[Arrays, Arrays] = ({}, {})  # levels k / N and scales s of the last round
        self._stepped, self._rate = 0, 0.0  # round and learning rate of the last step; there are rounds with nobody
        self._holders: frozenset[int] = frozenset()  # partitions that hold the weights before the last average
        self._sides: dict[int, Arrays] = {}  # node -> its scales
        self._shared: Arrays = {}  # the scale s = max_n s_n of each array (T6)

    # ------------------------------------------------------------------------------------------ two exchanges

    @property
    def asks_first(self) -> bool:
        """Where scales are shared."""
        return bool(self.options.share)

    def configure_query(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for the scales of every worker's gradient."""
        if not self.options.share:
            return ()
        self.current = records.to_arrays(arrays)
        return self._told("query", server_round, arrays, config, grid)

    def check_query(self, reply: Message) -> None:
        """FedqError FQ302 unless the reply holds one scale for each array."""
        found = messages.arrays(reply.content, "side")
        if set(found) != set(self.current):
            raise FedqError("FQ302", "a reply without one scale for each array")
        for name, payload in found.items():
            if tuple(payload.shape) != () or float(CODECS["float32"].decode(payload)) < 0:
                raise FedqError("FQ302", f"a scale of `{name}` that is negative, or more than one number")

    def aggregate_query(self, server_round: int, replies: Iterable[Message]) -> None:
        """Keep the scales, and the largest of each array."""
        self._sides = {r.metadata.src_node_id: records.to_arrays(messages.arrays(r.content, "side")) for r in replies}
        sides = self._sides.values()
        self._shared = {n: np.asarray(np.max([side[n] for side in sides])) for n in self.current} if sides else {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for ternary gradients: to the shared scale, of those who gave theirs; or to their own."""
        if not self.options.share:
            self.current = records.to_arrays(arrays)
            return self._told("train", server_round, arrays, config, grid)
        self.asked = {node: partition for node, partition in self.asked.items() if node in self._sides}
        if not self._sides:
            return ()
        told = ConfigRecord({**config, "server-round": server_round})
        content = RecordDict({"side": records.to_record(self._shared), "config": told})
        return addressed(content, self.asked, "train")

    def check_reply(self, reply: Message) -> None:
        """FedqError FQ302 also where a gradient is not ternary to the shared scale (to 0 where that is tiny)."""
        super().check_reply(reply)
        for name, (scale, _) in self._parts(reply).items() if self.options.share else ():
            shared = float(self._shared[name])
            if scale != (shared if shared > np.finfo(np.float32).tiny else 0):
                raise FedqError("FQ302", f"`{name}` has the scale {scale:g}, not the shared {shared:g}")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """A step along the average gradient; see `PackedStrategy.aggregate_train`."""
        seen: list[Message] = []
        fold = self.folded((seen.append(r) or r for r in replies), uniform)  # type: ignore[func-returns-value]
        if fold.empty:
            return None, None
        levels, scales = self._levels(fold.mean(), len(seen))
        g = {n: s * levels[n] for n, s in scales.items()}
        t, self._rate = server_round, self._lr(server_round)
        w, self._slots = steps.step(self.options.optimizer, self.current, g, self._slots, lr=self._rate, t=t)  # T8
        self._average, self._holders = (levels, scales), frozenset(self.partition_of(r) for r in seen)
        self._ema, self._stepped = self._averaged(w, t), t
        return records.to_record(w), fold.metrics

    def deployed(self, arrays: Arrays) -> Arrays | None:
        """The moving average of the weights (T13)."""
        return self._ema or None

    # ------------------------------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Optimizer, moving average, last average gradient, and who holds the weights."""
        levels, scales = self._average
        held = {"levels": levels, "scales": scales, "holders": sorted(self._holders)}
        return {"slots": self._slots, "ema": self._ema, "stepped": self._stepped, "rate": self._rate, **held}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self._slots, self._ema = state["slots"], state["ema"]
        self._average, self._holders = (state["levels"], state["scales"]), frozenset(state["holders"])
        self._stepped, self._rate = state["stepped"], state["rate"]

    # ------------------------------------------------------------------------------------------ helpers

    def _told(self, kind: str, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The round's weights: as the last average gradient to workers that hold those before, else themselves."""
        asked = self._messages(kind, round_, arrays, config, grid)
        if not (asked and self._localised):
            return asked
        last = {"rule": self.options.optimizer, "lr": self._rate, "step": self._stepped}
        told = ConfigRecord({**messages.config(asked[0].content), **last})
        whole = RecordDict({**asked[0].content, "slots": records.to_record(self._slots), "config": told})
        small = RecordDict({**self._packed_average(), "config": told}) if self._holders else whole
        return [Message(small if held in self._holders else whole, node, kind) for node, held in self.asked.items()]

    def _packed_average(self) -> dict[str, ArrayRecord]:
        levels, scales = self._average
        codec = Counts(2 * len(self._holders) if 2 * len(self._holders) < MOST_VOTERS else 0)
        packed = ArrayRecord({n: codec.encode(x, key=NO_BITS) for n, x in levels.items()})
        return {"levels": packed, "scales": records.to_record(scales)}

    def _levels(self, mean: Mapping[str, NDArray[np.float32]], n: int) -> tuple[Arrays, Arrays]:
        """The levels k / N in [-1, 1] and s, with mean = s k / N; without sharing the mean itself, and 1."""
        if not self.options.share:
            return mean, {name: np.array(1, np.float32) for name in mean}
        scales = self._shared
        unit = {name: x / scales[name] if scales[name] else np.zeros_like(x) for name, x in mean.items()}
        return {name: np.rint(x * np.float32(n)) / np.float32(n) for name, x in unit.items()}, scales

    def _lr(self, t: int) -> float:
        """The learning rate of step t = 1, 2, ..."""
        left = 1 - (t - 1) / max(self.setup.rounds, t)
        return float(self.setup.lr * left**self.options.power)

    def _averaged(self, w: Arrays, t: int) -> Arrays:
        """The moving average, with TensorFlow's warm-up: decay min(decay, (1 + t) / (10 + t))."""
        if not self.options.ema:
            return {}
        keep = np.float32(min(self.options.ema, (1 + t) / (10 + t)))
        before = self._ema or self.current
        return {n: x + keep * (before[n] - x) for n, x in w.items()}
