"""The attack on data: a client that trains honestly, on wrong labels."""

from typing import final

from fedq.attacks.base import I64, DataAttack


@final
class LabelFlip(DataAttack):
    """Trains on labels classes - 1 - y."""

    def labels(self, y: I64, classes: int) -> I64:
        """Each label mirrored."""
        return classes - 1 - y
