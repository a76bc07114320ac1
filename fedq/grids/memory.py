"""What clients keep between rounds, by node: those that keep nothing take no room, and much goes to disk.

States are records in memory until they take `ROOM` bytes, counted once where clients share them (a replica of the
model); then all of them move to a temporary file that has no name, so that nothing is left of it however the process
ends.
"""

import os
from collections.abc import Iterator, Mapping
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any, NamedTuple, final
from weakref import finalize

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from fedq._flower import copied, filled, from_bytes, held, to_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of memory
ROOM = min(max(MACHINE // 16, 256 * 2**20), 2 * 2**30)  # bytes of states in memory
EACH = 2**10  # bytes that a state takes besides its arrays


class _Slot(NamedTuple):
    """Where a state stands in the file, and the bytes that it may grow to there."""

    start: int
    length: int
    room: int


@final
class Memory:
    """Flower's `Context.state` of every client that keeps something."""

    def __init__(self, room: int = ROOM) -> None:
        self._room, self._lock = room, Lock()
        self._kept: dict[int, RecordDict] = {}
        self._users: dict[int, int] = {}  # by identity of an array's bytes
        self._bytes = 0
        self._slots: dict[int, _Slot] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    def __len__(self) -> int:
        return len(self._kept.keys() | self._slots.keys())

    def of(self, node: int) -> RecordDict:
        """What a node keeps, in records of its own that share their bytes with those held here."""
        with self._lock:
            kept = self._kept.get(node)
            if kept is None and node in self._slots:
                kept = from_bytes(self._read(self._slots[node]))
        return filled(RecordDict(), {name: copied(record) for name, record in held(kept).items()} if kept else {})

    def keep(self, node: int, state: RecordDict) -> None:
        """Hold what a node keeps; nothing where it keeps nothing."""
        with self._lock:
            if node in self._kept:
                self._count(self._kept.pop(node), -1)
            if not held(state):
                self._slots.pop(node, None)
            else:
                self._kept[node] = state
                self._count(state, 1)
                if self._bytes > self._room:
                    self._spill()

    def packed(self) -> dict[str, Any]:
        """All of it, as a checkpoint takes it: nodes, and where in `bytes` the state of each begins and ends.

        Nodes that keep the same records share their bytes, as long as all is in memory.
        """
        with self._lock:
            if self._file is not None:
                self._spill()
                stored: Any = np.memmap(self._file, np.uint8, "r", shape=(self._end,))
                places = [(node, slot.start, slot.start + slot.length) for node, slot in self._slots.items()]
            else:
                stored, places = self._joined()
        if not places:
            return {}
        nodes, starts, ends = np.array(sorted(places), np.int64).T
        return {"nodes": nodes, "starts": starts, "ends": ends, "bytes": stored}

    @classmethod
    def of_packed(cls, packed: Mapping[str, Any], room: int = ROOM) -> "Memory":
        """The inverse of `packed`; the same bytes become the same records."""
        memory = cls(room)
        if packed and "nodes" not in packed:  # as it was stored at first: an array for each node
            for node, state in packed.items():
                memory.keep(int(node), from_bytes(state.tobytes()))
            return memory
        last, records = (-1, -1), RecordDict()
        places = zip(*(packed[k].tolist() for k in ("starts", "ends", "nodes")), strict=True) if packed else ()
        for start, end, node in sorted(places):
            if (start, end) != last:
                last, records = (start, end), from_bytes(packed["bytes"][start:end].tobytes())
            memory.keep(node, RecordDict({name: record.copy() for name, record in records.items()}))
        return memory

    def _joined(self) -> tuple[Any, list[tuple[int, int, int]]]:
        same: dict[bytes, tuple[int, int]] = {}
        end, places = 0, []
        for node, state in self._kept.items():
            packed = to_bytes(state)
            if packed not in same:
                same[packed] = (end, end + len(packed))
                end += len(packed)
            places.append((node, *same[packed]))
        return np.frombuffer(b"".join(same), np.uint8), places

    def _count(self, state: RecordDict, by: int) -> None:
        self._bytes += by * EACH
        for data in _arrays(state):
            users = self._users.pop(id(data), 0) + by
            if users:
                self._users[id(data)] = users
            if users == max(by, 0):  # the first to come, or the last to go
                self._bytes += by * len(data)

    def _spill(self) -> None:
        """Write all states that are in memory to the file, each where it stood if it still fits."""
        if self._file is None:
            self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - as long as this object lives
            finalize(self, self._file.close)
        for node, state in self._kept.items():
            packed = to_bytes(state)
            slot = self._slots.get(node)
            if slot is None or slot.room < len(packed):
                slot = _Slot(self._end, 0, len(packed))
                self._end += len(packed)
            self._slots[node] = slot._replace(length=len(packed))
            _write(self._file.fileno(), packed, slot.start)
        self._kept, self._users, self._bytes = {}, {}, 0

    def _read(self, slot: _Slot) -> bytes:
        assert self._file is not None
        return os.pread(self._file.fileno(), slot.length, slot.start)


def _arrays(state: RecordDict) -> Iterator[bytes]:
    return (a.data for record in state.values() if isinstance(record, ArrayRecord) for a in record.values())


def _write(file: int, content: bytes, start: int) -> None:
    while content:
        written = os.pwrite(file, content, start)
        content, start = content[written:], start + written
