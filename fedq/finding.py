"""Runs by the paths that people name: a run, a folder of runs, a pattern."""

from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path

from fedq.errors import FedqError
from fedq.runs import Run, open_run

HINT = "runs/ holds them by default: fedq show runs"


def runs_in(folder: Path, *, below: bool = False) -> list[Run]:
    """The run that `folder` is, or else those directly in it (or anywhere below it), in order of their names."""
    if (folder / "run.toml").is_file():
        return [open_run(folder)]
    return [open_run(file.parent) for file in sorted(folder.glob("**/run.toml" if below else "*/run.toml"))]


def matching(names: Iterable[Run | str | Path]) -> list[Path]:
    """The paths that patterns such as `"runs/*"` stand for; what matches nothing stands for itself."""
    told = [str(Path(name.path if isinstance(name, Run) else name).expanduser()) for name in names]
    return [Path(path) for name in told for path in sorted(glob(name)) or [name]]


def opened(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs named, and what among `paths` is none.

    A folder of runs stands for those directly in it, where no run is named beside it. FedqError FQ203 where there is
    no such path, or no run.
    """
    found: dict[Path, Run] = {}
    notes = []
    named = any((path / "run.toml").is_file() for path in paths)
    for path in paths:
        if not path.exists():
            raise FedqError("FQ203", f"there is no `{path}`", where=str(path), hint=HINT)
        inside = runs_in(path)
        for run in inside:
            if named and run.path != path:
                continue
            error = run.damage()
            if error and run.path == path:
                raise error
            if error:
                notes.append(f"`{run.path}` was left out: {error.message}")
            else:
                found.setdefault(run.path.resolve(), run)
        if not inside and path.is_dir():
            notes.append(f"`{path}` is not a run and was left out")
    if not found:
        raise FedqError("FQ203", "none of these is a run", where=" ".join(map(str, paths)), hint=HINT)
    return list(found.values()), notes
