"""Which folder a data set stands in: the one that is named, or one inside it of the data set's name."""

import os
from pathlib import Path

from fedq.errors import FedqError, nearest

TABLES = (".parquet", ".csv", ".json", ".jsonl", ".arrow")
PARTS = {"train", "test", "validation", "valid", "val", "dev", "data"}  # what folders inside a data set are called


def within(folder: str, name: str) -> str:
    """`folder`, or the one data set called `name` among several in it. FedqError FQ202 if there are others only.

    Read as one, several data sets would be mixed without a word.
    """
    sets = _sets(Path(folder))
    meant = [path for path in sets if path.name == name]
    if len(sets) < 2 or len(meant) == 1:
        return str(meant[0]) if len(sets) > 1 else folder
    known = sorted(str(path.relative_to(folder)) for path in sets)
    raise FedqError(
        "FQ202",
        f"`{folder}` holds several data sets, and {'more than one is' if meant else 'none is'} called `{name}`",
        key="data.dir",
        hint=f"--data-dir {folder}/NAME; {nearest(name, known)}",
    )


def _sets(folder: Path) -> set[Path]:
    """The folders below that hold tables; `folder` alone if it is a data set as it stands."""
    if any(path.suffix in TABLES for path in folder.iterdir()) or _described(folder):
        return {folder}
    found = set()
    for inside, folders, files in os.walk(folder):
        path = Path(inside)
        if any(file.endswith(TABLES) for file in files) or _described(path):
            while path.name in PARTS and path != folder:
                path = path.parent
            found.add(path)
            folders.clear()
    return found


def _described(folder: Path) -> bool:
    """Whether the README.md says how a data set is laid out, as the hub's do."""
    readme = folder / "README.md"
    return readme.is_file() and readme.read_bytes()[:4].rstrip() == b"---"
