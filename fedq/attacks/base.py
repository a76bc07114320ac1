"""What an attack is: a rule that makes an attacker's reply out of what it may see.

Three kinds, by what they see. `DataAttack` spoils its own labels; `OwnAttack` its own reply, and knows the model it was
sent: both run on the client, so they also work deployed. `OmniscientAttack` sees the packed replies of every honest
client of the round, which exists in simulation only.

Values are *updates*: what a client adds to the model it was sent. Votes and gradients are sent as they are, so there
the update is what is sent.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from fedq.kernels import PackedCodec
from fedq.kernels.plurality import votes
from fedq.kernels.records import Arrays

F32: TypeAlias = NDArray[np.float32]
I64: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Wire:
    """How the attacked clients send: by which codec, what, and the seed of their random bits."""

    codec: PackedCodec
    sends: Literal["weights", "updates", "gradient"]
    seed: int

    @property
    def soft(self) -> bool:
        """Whether clients send random votes whose mean is in [-1, 1] (FedVote)."""
        return self.codec.unit and votes(self.codec)

    @property
    def hard(self) -> bool:
        """Whether clients send votes at all (FedVote, signSGD)."""
        return votes(self.codec)

    def update(self, sent: Arrays, start: Arrays) -> Arrays:
        """The client's own part of what it sends."""
        return {n: x - start[n] for n, x in sent.items()} if self._absolute else sent

    def sent(self, update: Arrays, start: Arrays) -> Arrays:
        """What to send for an update; what the codec can only carry in [-1, 1] is clipped."""
        if self.codec.unit:
            return {n: np.clip(x, -1, 1) for n, x in update.items()}
        return {n: x + start[n] for n, x in update.items()} if self._absolute else update

    @property
    def _absolute(self) -> bool:
        return self.sends == "weights" and not self.codec.unit


@dataclass(frozen=True)
class Seen:
    """What an omniscient attacker sees: the model of the round, if it is sent, and all honest packed arrays by name."""

    wire: Wire
    start: Arrays
    honest: Sequence[Mapping[str, Array]]

    def update(self, client: int) -> Arrays:
        """The decoded update of one honest client."""
        return self.wire.update({n: self.wire.codec.decode(a) for n, a in self.honest[client].items()}, self.start)


class Attack:
    """An attack; a leaf is one of the three kinds below."""

    needs: ClassVar[Literal["anything", "votes", "soft votes"]] = "anything"


class DataAttack(Attack, ABC):
    """Trains on spoiled labels."""

    @abstractmethod
    def labels(self, y: I64, classes: int) -> I64:
        """The labels [N] to train on instead of `y`."""


class OwnAttack(Attack, ABC):
    """Trains, and spoils what it sends."""

    @abstractmethod
    def forge(self, own: Arrays, start: Arrays, wire: Wire, random: np.random.Generator) -> Arrays:
        """The update to send instead of its `own`, having been sent the model `start` ({} if it was sent none)."""


class OmniscientAttack(Attack, ABC):
    """Trains like everybody, sends something else, and sees every honest reply of the round before it does."""

    @abstractmethod
    def forge(self, seen: Seen, attackers: int) -> Arrays:
        """The update that each of the round's `attackers` sends; a random codec still rounds each on its own."""
