"""The run directory is the truth: configuration, provenance, one line a round, checkpoints, the final model.

    runs/fedvote-digits-s0-b5d13f/
      run.toml       the resolved config; `fedq simulate run.toml` repeats the run exactly
      run.json       status, command, versions, host, data checksum, totals
      metrics.jsonl  one line a round, flushed at once
      checkpoints/   model and strategy state after a round, written whole or not at all
      model.safetensors, log.txt, lock

This module knows records, files and JSON; never torch.
"""

import fcntl
import json
import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedq.errors import FedqError, reason

Arrays = Mapping[str, NDArray[np.float32]]
LINE = frozenset({"round", "accuracy", "up_bytes", "down_bytes", "seconds"})  # every line of metrics.jsonl has them
KEPT_CHECKPOINTS = 2
UNREADABLE = (OSError, EOFError, ValueError, KeyError, BadZipFile)  # what a damaged checkpoint raises
PACKAGES = ("fedq", "flwr", "torch", "numpy")


@final
class Run:
    """One run directory, held under a lock while it is written to. Make it with `create` or `open_run`."""

    def __init__(self, path: Path, *, lock: bool) -> None:
        self.path = path
        self._lock: IO[str] | None = _locked(path) if lock else None

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.status}, {len(self.records())} rounds>"

    # --------------------------------------------------------------------------------------------- write

    @classmethod
    def create(cls, out: str | Path, name: str, toml: str, about: Mapping[str, Any]) -> "Run":
        """A new directory `out/name`, or `out/name-2` and so on if there is one already; locked.

        FedqError FQ204 if a run of this name is being written now, FQ206 if `out` cannot be written to.
        """
        try:
            path = _fresh(Path(out).expanduser() / name)
            (path / "checkpoints").mkdir(parents=True)
        except OSError as error:
            raise FedqError(
                "FQ206",
                f"cannot make a run directory: {reason(error)}",
                where=f"--out {out}",
                hint="choose another folder with --out",
            ) from error
        run = cls(path, lock=True)
        write_whole(path / "run.toml", toml.encode())
        run.update(status="running", started=_now(), resumed_at=[], **about, **provenance())
        return run

    def update(self, **values: Any) -> None:
        """Change keys of run.json. Only for who holds the lock: two writers would lose what one of them wrote."""
        assert self._lock is not None, f"{self.path} is written to without its lock"
        write_whole(self.path / "run.json", json.dumps({**self.about, **values}, indent=2).encode() + b"\n")

    def configure(self, toml: str, **about: Any) -> None:
        """Replace run.toml, and change keys of run.json."""
        write_whole(self.path / "run.toml", toml.encode())
        self.update(**about)

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def checkpoint(self, round_: int, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Save the model and the strategy's state after a round; older checkpoints but one are removed."""
        stored: dict[str, Any] = {f"model/{name}": x for name, x in arrays.items()}
        stored["state"] = np.frombuffer(json.dumps(_stowed(state, stored)).encode(), np.uint8)
        with _replacing(self.path / "checkpoints" / f"round_{round_:06}.npz") as file:
            np.savez(file, **stored)
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def rewind(self, round_: int) -> None:
        """Drop lines of metrics.jsonl after `round_`: they are going to be computed again."""
        kept = [json.dumps(m) + "\n" for m in self.records() if m["round"] <= round_]
        write_whole(self.path / "metrics.jsonl", "".join(kept).encode())

    def save_model(self, weights: Arrays) -> str:
        """Write model.safetensors; returns `fingerprint(weights)`."""
        from safetensors.numpy import save

        write_whole(self.path / "model.safetensors", save({n: np.ascontiguousarray(w) for n, w in weights.items()}))
        return fingerprint(weights)

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --------------------------------------------------------------------------------------------- read

    @property
    def about(self) -> dict[str, Any]:
        """run.json."""
        file = self.path / "run.json"
        try:
            found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        except ValueError as error:
            raise _damaged(file, error) from error
        if not isinstance(found, dict):
            raise _damaged(file, "it is no table")
        return found

    @property
    def config(self) -> dict[str, Any]:
        """run.toml, as plain tables."""
        import tomllib

        file = self.path / "run.toml"
        try:
            return tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(file, error) from error

    @property
    def status(self) -> str:
        """running, done, failed, interrupted; or killed, where a running one's process is gone."""
        status = str(self.about.get("status", "unknown"))
        if status == "running" and self._lock is None:
            try:
                _locked(self.path, mark=False).close()
            except FedqError:
                return status
            return "killed"
        return status

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line torn by a crash is left out."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
        try:
            found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        except ValueError as error:
            raise _damaged(file, error) from error
        for n, line in enumerate(found, 1):
            if not isinstance(line, dict) or LINE - line.keys():
                raise _damaged(file, f"line {n} is not that of a round")
        return found

    def damage(self) -> FedqError | None:
        """FQ203 where run.toml, run.json or metrics.jsonl cannot be read."""
        try:
            _ = self.config, self.about, self.records()
        except FedqError as error:
            return error
        return None

    @property
    def metrics(self) -> Any:
        """The lines of metrics.jsonl as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def latest(self) -> tuple[int, dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Round, model and strategy state of the last whole checkpoint that all its lines precede.

        FedqError FQ205 if none can be used, or there is none: each run begins with one.
        """
        files, lines = self._checkpoints(), len(self.records())
        why = "metrics.jsonl is behind them" if files else "there is none"
        for file in reversed(files):
            round_ = int(file.stem.removeprefix("round_"))
            if round_ > lines:
                continue
            try:
                return round_, *_unpacked(file)
            except UNREADABLE as error:
                why = f"{file.name}: {error}"
        raise FedqError(
            "FQ205",
            f"no checkpoint can be used: {why}",
            where=str(self.path / "checkpoints"),
            hint=f"start again: fedq simulate {self.path / 'run.toml'}",
        )

    def checkpoint_of(self, round_: int) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]] | None:
        """Model and strategy state after a round, if there is a checkpoint of it. FedqError FQ205 if it is damaged."""
        file = self.path / "checkpoints" / f"round_{round_:06}.npz"
        try:
            return _unpacked(file) if file.exists() else None
        except UNREADABLE as error:
            raise FedqError("FQ205", f"{file.name} cannot be read: {error}", where=str(file)) from error

    def totals(self) -> dict[str, Any]:
        """The run's totals under the names of its lines: sums of bytes, counts and seconds, last of the rest."""
        lines = self.records()
        about, config = self.about, self.config
        summed = (
            "up_bytes",
            "down_bytes",
            "wire_up_bytes",
            "wire_down_bytes",
            "failed",
            "rejected",
            "seconds",
            "evaluate_bytes",
        )
        last = {k: next((m[k] for m in reversed(lines) if m[k] is not None), None) for k in (lines[0] if lines else ())}
        sums = {k: sum(m[k] for m in lines if m[k] is not None) if last.get(k) is not None else None for k in summed}
        named = {k: config[k]["name"] for k in ("strategy", "data", "model")}
        last.pop("round", None)
        return {
            **last,
            **sums,
            **named,
            "codec": config["codec"],
            "seed": config["seed"],
            "rounds": len(lines),
            "clients": config["clients"],
            "per_round": config.get("per_round", None if "participation" in config else config["clients"]),
            "status": self.status,
            "weights_sha256": about.get("weights_sha256"),
            "run_dir": str(self.path),
        }

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("round_*.npz"))


def open_run(path: str | Path, *, lock: bool = False) -> Run:
    """The run in a directory. FedqError FQ203 if it is none, FQ204 if `lock` and another process writes to it."""
    path = Path(path).expanduser()
    if not (path / "run.toml").is_file():
        raise not_a_run(path)
    return Run(path, lock=lock)


def not_a_run(path: str | Path) -> FedqError:
    """FQ203."""
    hint = "runs stand in runs/ by default: fedq show runs"
    return FedqError("FQ203", f"`{path}` is not a run: it has no run.toml", where=str(path), hint=hint)


def _unpacked(file: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Model and strategy state of a checkpoint."""
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
        arrays = {k: stored[k] for k in stored.files}
    state = _taken(json.loads(arrays.pop("state").tobytes()), arrays)
    return {k.removeprefix("model/"): x for k, x in arrays.items() if k.startswith("model/")}, state


def best(lines: Sequence[Mapping[str, Any]]) -> tuple[float, int] | None:
    """The highest accuracy in lines of metrics.jsonl and the first round that has it; None where none was evaluated."""
    scored = [(m["accuracy"], -m["round"]) for m in lines if m["accuracy"] is not None]
    accuracy, round_ = max(scored, default=(None, 0))
    return None if accuracy is None else (accuracy, -round_)


def fingerprint(weights: Arrays) -> str:
    """SHA-256 over names and float32 values, in order of names."""
    digest = sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return digest.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """A file with this content, or what was there before: nothing between, also after a crash."""
    with _replacing(path) as file:
        file.write(content)


def provenance() -> dict[str, Any]:
    """Where and with what a run was made."""
    return {
        "command": " ".join(["fedq", *sys.argv[1:]]) if Path(sys.argv[0]).name == "fedq" else sys.argv[0],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "host": {"name": socket.gethostname(), "system": platform.platform(), "cores": os.cpu_count()},
    }


def _damaged(file: Path, error: Exception | str) -> FedqError:
    hint = f"start again: fedq simulate {file.parent / 'run.toml'}"
    return FedqError("FQ203", f"{file.name} is damaged: {error}", where=str(file), hint=hint)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _fresh(path: Path) -> Path:
    """`path`, or the first of path-2, path-3 ... that does not exist. FedqError FQ204 if `path` is being written."""
    if path.exists() and (path / "run.toml").exists():
        _locked(path, mark=False).close()
    number, fresh = 1, path
    while fresh.exists():
        number += 1
        fresh = path.with_name(f"{path.name}-{number}")
    return fresh


def _locked(path: Path, *, mark: bool = True) -> IO[str]:
    """An exclusive lock on a run directory; the system lets it go when the process ends, however it ends."""
    file = (path / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise FedqError(
            "FQ204",
            f"the run is in use by {holder}",
            where=str(path),
            hint="wait for it to end, or change the seed or another setting",
        ) from None
    if not mark:
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


class _replacing:  # noqa: N801 - used as a function
    """Open a file for writing that takes the place of `path` when all is written, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> IO[bytes]:
        self._file = self._temporary.open("wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            if kind is None:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def _stowed(value: Any, stored: dict[str, Any]) -> Any:
    """`value` as JSON, its arrays put into `stored` and replaced by their place there."""
    if isinstance(value, np.ndarray):
        place = f"state/{id(value)}"  # an array that stands in several places is stored once
        stored[place] = value
        return {"$array": place}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value):
            raise TypeError("keys of a strategy's state must be strings: JSON has no others")
        return {k: _stowed(v, stored) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_stowed(v, stored) for v in value]
    return value


def _taken(value: Any, stored: Mapping[str, Any]) -> Any:
    """The inverse of `_stowed`."""
    if isinstance(value, dict):
        if "$array" in value:
            return stored[value["$array"]]
        return {k: _taken(v, stored) for k, v in value.items()}
    return [_taken(v, stored) for v in value] if isinstance(value, list) else value
