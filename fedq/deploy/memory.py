"""What a client remembers between messages, in its site's folder: written whole or not at all, one file a message.

    site-0/state/RUN/told.json             what the server said of the run
    site-0/state/RUN/x.npy y.npy           the client's examples, ready to train on; texts in x.json
    site-0/state/RUN/000007.1.train.bin    Context.state after the train message of round 7
    site-0/state/RUN/begun                 the first of those files that there was
    site-0/state/RUN.ledger.json           what a private client has released, which no replay takes back
    site-0/state/lock                      held by the process that plays a message

A message finds the state after the last one before it, in the order of rounds and of what happens in a round. Files
after it belong to a past that is being played again, and are dropped. The ledger alone goes on from where it was: what
has left the site stays known, whatever round the server says it is. It outlives the run's folder.
"""

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from numpy.typing import NDArray

from fedq._flower import from_bytes, to_bytes
from fedq.data import Examples
from fedq.errors import FedqError
from fedq.runs import write_whole

ORDER = {"query": 0, "train": 1, "evaluate": 2}
KEPT_FILES, KEPT_RUNS = 8, 2  # a server's checkpoint may be some rounds old


@final
@dataclass(frozen=True)
class Memory:
    """The memory of one client in one run."""

    folder: Path

    @classmethod
    def of(cls, context: Context) -> Self | None:
        """The memory that a deployed client has; None for one that Flower simulates."""
        site = str(context.node_config.get("fedq-site", ""))
        if not site:
            return None
        run = re.sub(r"[^\w.-]", "_", str(context.run_config["fedq-id"])) or str(context.run_id)
        return cls(Path(site) / "state" / run)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process of the site at a time: what a killed client left running releases first, or not at all."""
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder.parent / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def before(self, round_: int, kind: str) -> RecordDict:
        """The state before a message, with all that was ever released; nothing in a client's first round.

        FedqError FQ205 where the message lies so far back that the state before it is no longer kept.
        """
        files = [file for place, file in self._files() if place < (round_, ORDER[kind])]
        if not files and (begun := self._begun()) and begun < (round_, ORDER[kind]):
            raise FedqError("FQ205", f"this site no longer has what it remembered before round {round_}")
        state = from_bytes(files[-1].read_bytes()) if files else RecordDict()
        if (ledger := self._ledger()) is not None:
            state["ledger"] = ledger
        return state

    def keep(self, round_: int, kind: str, state: RecordDict) -> None:
        """Keep the state after a message; the ledger first."""
        if isinstance(ledger := state.get("ledger"), ConfigRecord):
            self._write(self._spent.name, json.dumps(dict(ledger)).encode(), self._spent.parent)
        place = (round_, ORDER[kind])
        for old, file in self._files():
            if old > place:
                file.unlink()
        name = f"{round_:06}.{ORDER[kind]}.{kind}.bin"
        if state or self._files():
            begun = self._begun()
            if begun is None or place < begun:
                self._write("begun", name.encode())
            self._write(name, to_bytes(state))
        for _, file in self._files()[:-KEPT_FILES]:
            file.unlink()

    def note(self, told: Mapping[str, Any], own: Examples) -> None:
        """Keep what the server said of the run, and the client's examples; runs long gone are forgotten."""
        if own.x.dtype == object:  # texts
            self._write("x.json", json.dumps(list(own.x)).encode())
        else:
            self._write("x.npy", _npy(own.x))
        self._write("y.npy", _npy(own.y))
        self._write("told.json", json.dumps(dict(told)).encode())
        runs = sorted((f for f in self.folder.parent.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime)
        for old in runs[:-KEPT_RUNS]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()

    def noted(self) -> tuple[dict[str, Any], Examples]:
        """What `note` kept. FedqError FQ207 if the server never said hello to this site."""
        try:
            told: dict[str, Any] = json.loads((self.folder / "told.json").read_text())
            y = np.load(self.folder / "y.npy", mmap_mode="r")
            if "columns" in told:
                x = np.array(json.loads((self.folder / "x.json").read_text()), object)
            else:
                x = np.load(self.folder / "x.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise FedqError("FQ207", f"this site was told nothing of the run: {error}") from error
        return told, Examples(x, y)

    @property
    def _spent(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.ledger.json"

    def _ledger(self) -> ConfigRecord | None:
        try:
            return ConfigRecord(json.loads(self._spent.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise FedqError("FQ205", f"the site's privacy ledger {self._spent.name} cannot be read: {error}") from error

    def _begun(self) -> tuple[int, int] | None:
        """The place of the first state that there was."""
        file = self.folder / "begun"
        return _place(file.read_text()) if file.exists() else None

    def _files(self) -> list[tuple[tuple[int, int], Path]]:
        files = sorted(self.folder.glob("*.bin"))
        return [(_place(f.name), f) for f in files]

    def _write(self, name: str, content: bytes, folder: Path | None = None) -> None:
        folder = folder or self.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(folder / name, content)


def _place(name: str) -> tuple[int, int]:
    """Of a file of state: its round, and where in the round."""
    round_, order, *_ = name.split(".")
    return int(round_), int(order)


def _npy(array: NDArray[Any]) -> bytes:
    content = BytesIO()
    np.save(content, array)
    return content.getvalue()
