"""Curves of runs: what had been sent and what had passed when an accuracy was reached; means over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedq.runs import Run

Floats = NDArray[np.float64]
Five: TypeAlias = tuple[Floats, Floats, Floats, Floats, Floats]


@dataclass(frozen=True, eq=False)
class Curve:
    """One run, or a mean of runs: after each evaluated round, what all rounds so far took, and the accuracies."""

    rounds: Floats
    up_bytes: Floats
    total_bytes: Floats
    seconds: Floats
    accuracy: Floats
    deployed: Floats | None = None

    @classmethod
    def of(cls, lines: Sequence[dict[str, Any]]) -> "Curve | None":
        """The curve of lines of metrics.jsonl; None if no round was evaluated."""
        scored = [i for i, m in enumerate(lines) if m["accuracy"] is not None]
        if not scored:
            return None

        def so_far(*keys: str) -> Floats:
            summed: Floats = np.cumsum([sum(m[k] for k in keys) for m in lines], dtype=np.float64)[scored]
            return summed

        deployed = [lines[i]["deployed_accuracy"] for i in scored]
        return cls(
            np.array([lines[i]["round"] for i in scored], np.float64),
            so_far("up_bytes"),
            so_far("up_bytes", "down_bytes"),
            so_far("seconds"),
            np.array([lines[i]["accuracy"] for i in scored], np.float64),
            None if None in deployed else np.array(deployed, np.float64),
        )

    @classmethod
    def mean(cls, curves: Sequence["Curve"]) -> "Curve":
        """The mean, over the rounds in which every one of `curves` was evaluated."""
        kept = aligned(curves)
        deployed = [c.deployed for c in kept if c.deployed is not None]
        return cls(
            *_five(np.mean([c.axes[k] for c in kept], axis=0) for k in range(5)),
            np.mean(deployed, axis=0) if len(deployed) == len(kept) else None,
        )

    def first(self, target: float) -> int | None:
        """The place of the first evaluation that reaches `target`."""
        reached = np.nonzero(self.accuracy >= target)[0]
        return int(reached[0]) if reached.size else None

    @property
    def axes(self) -> "Five":
        """All but the deployed accuracy, in order of the fields."""
        return self.rounds, self.up_bytes, self.total_bytes, self.seconds, self.accuracy

    def at(self, rounds: Floats) -> "Curve":
        """The part of this curve that belongs to some of its rounds."""
        place = np.isin(self.rounds, rounds)
        return Curve(*_five(x[place] for x in self.axes), None if self.deployed is None else self.deployed[place])


def _five(arrays: Iterable[Floats]) -> Five:
    a, b, c, d, e = arrays
    return a, b, c, d, e


def aligned(curves: Sequence[Curve]) -> list[Curve]:
    """Curves at the rounds that all of them have."""
    common = reduce(np.intersect1d, [c.rounds for c in curves])
    return [c.at(common) for c in curves]


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed only: one curve a seed, the mean of its repeats."""

    label: str
    config: dict[str, Any]
    by_seed: dict[int, Curve]
    runs: tuple[Run, ...] = ()

    @property
    def curves(self) -> tuple[Curve, ...]:
        """One a seed, as far as all of them go."""
        return tuple(aligned(list(self.by_seed.values())))

    @cached_property
    def mean(self) -> Curve:
        """The mean over seeds, as far as all of them go."""
        return Curve.mean(self.curves)

    @property
    def final(self) -> tuple[float, float | None]:
        """Mean and standard deviation (n - 1) over seeds of the last accuracy; no deviation of one seed."""
        last = np.array([c.accuracy[-1] for c in self.curves])
        return float(last.mean()), float(last.std(ddof=1)) if len(last) > 1 else None
