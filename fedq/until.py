"""Early stopping: `accuracy=0.9` or `up=10MB`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from fedq.errors import FedqError

BYTES = {"up": ("up_bytes",), "down": ("down_bytes",), "total": ("up_bytes", "down_bytes")}
SCORES = ("accuracy", "deployed_accuracy")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@final
@dataclass(frozen=True)
class Until:
    """A goal: an accuracy that a round reaches, or bytes that all rounds together have sent."""

    what: str
    goal: float

    @classmethod
    def parse(cls, text: str) -> "Until":
        """Read `WHAT=GOAL`. FedqError FQ106 if it is not one.

        >>> Until.parse("up=10MB")
        Until(what='up', goal=10000000.0)
        """
        match = re.fullmatch(r"(\w+)=(\d*\.?\d+(?:e[+-]?\d+)?)([a-z]*)", text.strip(), re.IGNORECASE)
        if match:
            what, number, unit = match[1], float(match[2]), match[3].upper()
            if what in SCORES and not unit and 0 <= number <= 1:
                return cls(what, number)
            if what in BYTES and unit in UNITS:
                return cls(what, number * UNITS[unit])
        raise FedqError(
            "FQ106",
            f"`{text}` is no goal",
            where=f"--until {text}",
            hint="accuracy=0.9, deployed_accuracy=0.9, up=10MB, down=1GB or total=500KB",
        )

    def met(self, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the rounds so far (lines of metrics.jsonl) reach the goal."""
        if self.what in BYTES:
            return bool(sum(line[key] for line in lines for key in BYTES[self.what]) >= self.goal)
        return any((line[self.what] or 0) >= self.goal for line in lines[-1:])
