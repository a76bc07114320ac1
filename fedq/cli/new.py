"""`fedq new`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Kind(StrEnum):
    """What can be new."""

    strategy = "strategy"
    codec = "codec"
    client = "client"


def new(
    kind: Annotated[Kind, Argument(help="What it is.")],
    name: Annotated[str, Argument(help="What it is called: small letters, digits, _.")],
    folder: Annotated[Path, Option(help="Where to write it.")] = Path(),
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Write a strategy, codec or client of your own that works, to change.

    In fedq's own sources: its file, its line in the registry, and its test.
    Elsewhere: a package of its own, which pip installs and fedq then finds.

    Example: fedq new codec byte
    """
    import sys

    from fedq.report.catalogue import known
    from fedq.scaffold import scaffold

    made = scaffold(kind.value, name, folder, known(kind.value))
    print(*made.files, sep="\n")
    print(f"Next:  {made.next}", file=sys.stderr)
    return 0
