"""What clients keep between rounds, by node: those that keep nothing take no room."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from fedq._flower import from_bytes, to_bytes


@final
class Memory:
    """Flower's `Context.state` of every client that keeps something."""

    def __init__(self) -> None:
        self._kept: dict[int, RecordDict] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, node: int) -> RecordDict:
        """What a node keeps, in records of its own that share their bytes with those held here."""
        return RecordDict({name: record.copy() for name, record in self._kept.get(node, RecordDict()).items()})

    def keep(self, node: int, state: RecordDict) -> None:
        """Hold what a node keeps; nothing where it keeps nothing."""
        if state:
            self._kept[node] = state
        else:
            self._kept.pop(node, None)

    def packed(self) -> dict[str, Any]:
        """All of it as bytes, by node: what a checkpoint takes. Nodes that keep the same records share one array."""
        same: dict[bytes, NDArray[np.uint8]] = {}
        packed = ((str(node), to_bytes(state)) for node, state in self._kept.items())
        return {node: same.setdefault(b, np.frombuffer(b, np.uint8)) for node, b in packed}

    @classmethod
    def of_packed(cls, packed: Mapping[str, Any]) -> "Memory":
        """The inverse of `packed`; the same arrays become the same bytes."""
        memory = cls()
        kept = {id(p): from_bytes(p.tobytes()) for p in {id(p): p for p in packed.values()}.values()}
        for node, p in packed.items():
            memory._kept[int(node)] = RecordDict({name: record.copy() for name, record in kept[id(p)].items()})
        return memory
