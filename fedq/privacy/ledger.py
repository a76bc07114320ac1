"""What one client has released so far, and the epsilon of all of it.

A release is the sum of clipped gradients of a Poisson sample, with Gaussian noise. Ledgers add up over rounds: what
comes back in the model from other clients changes nothing, since composition is adaptive. Clients hold disjoint
records, so a run's epsilon is the largest of its clients', not their sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from fedq.privacy.accountant import Release, epsilon


@final
@dataclass(frozen=True)
class Ledger:
    """Releases in order, equal ones in a row counted together.

    >>> Ledger().plus(1.0, 0.1, 5).plus(1.0, 0.1, 5)
    Ledger(releases=((1.0, 0.1, 10),))
    """

    releases: tuple[Release, ...] = ()

    def plus(self, noise: float, rate: float, steps: int) -> "Ledger":
        """With `steps` more releases of this noise multiplier and sampling rate."""
        *before, (last_noise, last_rate, last) = self.releases or ((noise, rate, 0),)
        if (last_noise, last_rate) == (noise, rate):
            return Ledger((*before, (noise, rate, last + steps)))
        return Ledger((*self.releases, (noise, rate, steps)))

    @property
    def steps(self) -> int:
        """How many releases there were."""
        return sum(steps for _, _, steps in self.releases)

    def epsilon(self, delta: float) -> float:
        """The epsilon of all releases at this delta; infinite if any had no noise, 0 if there were none."""
        return epsilon(self.releases, delta)

    def record(self) -> dict[str, list[float] | list[int]]:
        """As Flower's `ConfigRecord` holds it."""
        return {
            "noise": [noise for noise, _, _ in self.releases],
            "rate": [rate for _, rate, _ in self.releases],
            "steps": [steps for _, _, steps in self.releases],
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Ledger":
        """The inverse of `record`."""
        return cls(tuple(zip(record["noise"], record["rate"], record["steps"], strict=True)))
